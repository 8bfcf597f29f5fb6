//! Finds the programs of a database server.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The `cockroach` that the shell would run.
pub(crate) fn cockroach() -> Option<PathBuf> {
    let folder = on_path(&env::var_os("PATH")?, &["cockroach"])?;
    Some(folder.join("cockroach"))
}

/// The folder of PostgreSQL's programs: the one on `PATH`, or else the newest in the usual places.
pub(crate) fn postgres() -> Option<PathBuf> {
    on_path(&env::var_os("PATH").unwrap_or_default(), PROGRAMS)
        .or_else(|| newest(PLACES.iter().flat_map(installed)))
}

/// The first folder of `path` that holds all of `programs`.
fn on_path(path: &OsStr, programs: &[&str]) -> Option<PathBuf> {
    env::split_paths(path).find(|folder| folder.is_absolute() && holds(folder, programs))
}

fn holds(folder: &Path, programs: &[&str]) -> bool {
    programs.iter().all(|name| folder.join(name).is_file())
}

/// The versions of PostgreSQL in one of the usual places.
fn installed((parent, prefix): &(&str, &str)) -> Vec<(Vec<u32>, PathBuf)> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let version = version(entry.file_name().to_str()?.strip_prefix(prefix)?)?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, folder)| holds(folder, PROGRAMS))
        .collect()
}

/// The numbers of a version such as `15` or `9.6`.
fn version(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

fn newest(candidates: impl Iterator<Item = (Vec<u32>, PathBuf)>) -> Option<PathBuf> {
    candidates.max().map(|(_, folder)| folder)
}

/// The programs of PostgreSQL that this crate runs. Debian does not put these on `PATH`.
const PROGRAMS: &[&str] = &["initdb", "postgres", "pg_basebackup"];

/// Where packages install PostgreSQL: a folder, and the prefix of the version in its entries.
const PLACES: &[(&str, &str)] = &[
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
    ("/Applications/Postgres.app/Contents/Versions", ""),
];

#[cfg(test)]
mod tests {
    use super::{newest, on_path, version};
    use std::{env, fs, path::PathBuf, process};

    #[test]
    fn versions_compare_as_numbers() {
        let candidates = ["9.6", "15", "10", "9.10", "latest"]
            .into_iter()
            .filter_map(|name| Some((version(name)?, PathBuf::from(name))));
        assert_eq!(newest(candidates.clone()), Some(PathBuf::from("15")));

        let old = candidates.filter(|(version, _)| version.starts_with(&[9]));
        assert_eq!(newest(old), Some(PathBuf::from("9.10")));
    }

    #[test]
    fn only_versions_are_candidates() {
        assert_eq!(version("16"), Some(vec![16]));
        assert_eq!(version("9.6"), Some(vec![9, 6]));
        assert_eq!(version("latest"), None);
        assert_eq!(version(""), None);
        assert_eq!(newest([].into_iter()), None);
    }

    #[test]
    fn first_complete_folder_on_path_is_used() {
        let root = env::temp_dir().join(format!("interlock-find-{}", process::id()));
        let [half, whole, later] = ["half", "whole", "later"].map(|name| root.join(name));
        for (folder, program) in [
            (&half, "initdb"),
            (&whole, "initdb"),
            (&whole, "postgres"),
            (&later, "initdb"),
            (&later, "postgres"),
        ] {
            fs::create_dir_all(folder).unwrap();
            fs::write(folder.join(program), "").unwrap();
        }

        let path = env::join_paths([&root.join("none"), &half, &whole, &later]).unwrap();
        let found = on_path(&path, &["initdb", "postgres"]);
        let nothing = on_path(&path, &["cockroach"]);
        fs::remove_dir_all(&root).unwrap();

        assert_eq!(found, Some(whole));
        assert_eq!(nothing, None);
    }
}
