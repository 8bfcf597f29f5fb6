//! PostgreSQL for a machine that has no server, fetched once into the user's cache.
//!
//! `tests/embedded` fetches it. It is a package of its own, so that the client and the decompressor
//! are built only where they are needed.

use crate::account::Account;
use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// The folder of its programs. It is fetched if the cache does not have it.
///
/// The error is the reason why it cannot be had. The first call in this process determines it.
pub(crate) fn postgres() -> Result<PathBuf, String> {
    static POSTGRES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    POSTGRES.get_or_init(find_or_fetch).clone()
}

fn find_or_fetch() -> Result<PathBuf, String> {
    if variable("NO_EMBEDDED_POSTGRES").is_some() {
        return Err("NO_EMBEDDED_POSTGRES is set".to_owned());
    }
    let target = target();
    let (_, checksum) = CHECKSUMS
        .iter()
        .find(|(name, _)| *name == target)
        .ok_or_else(|| format!("there is none for {target}"))?;

    let account = Account::to_switch_to().map_err(|error| error.to_string())?;
    let folder = cache(variable, account.is_some())
        .ok_or("neither HOME nor EMBEDDED_POSTGRES_CACHE is an absolute path")?
        .join("tower-interlock")
        .join(format!("postgresql-{VERSION}-{target}"));
    let programs = folder.join("bin");
    if !programs.is_dir() {
        fetch(&target, checksum, &folder)?;
    }
    Ok(programs)
}

/// Says what it does on stderr, and shows there how it goes.
fn fetch(target: &str, checksum: &str, folder: &Path) -> Result<(), String> {
    let releases = variable("EMBEDDED_POSTGRES_URL").unwrap_or_else(|| RELEASES.into());
    let releases = releases.to_string_lossy();
    let url = format!("{releases}/{VERSION}/postgresql-{VERSION}-{target}.tar.gz");
    // The test harness hides the output of `eprintln` in a test that passes.
    let _ = writeln!(
        io::stderr(),
        "no database server found: fetching PostgreSQL {VERSION}, once, 12 MB\n  from {url}\n  to   {}",
        folder.display()
    );

    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let tests = tests.ok_or("the package has moved")?;
    let target_dir = variable("CARGO_TARGET_DIR").map_or_else(
        || tests.with_file_name("target"),
        |folder| tests.with_file_name(folder),
    );
    let output = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--locked", "--manifest-path"])
        .arg(tests.join("embedded/Cargo.toml"))
        .arg("--target-dir")
        .arg(target_dir.join("embedded"))
        .args(["--", &url, checksum])
        .arg(folder)
        // Without a network, cargo gives up as soon as the download does.
        .env("CARGO_NET_RETRY", "1")
        .env("CARGO_HTTP_TIMEOUT", "15")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo does not run: {error}"))?;

    let reason = String::from_utf8_lossy(&output.stdout);
    match reason.trim() {
        _ if output.status.success() => Ok(()),
        "" => Err("cargo does not build tests/embedded, see above".to_owned()),
        reason => Err(reason.to_owned()),
    }
}

/// The folder of the user's caches. That of root is one which the server's account can read.
fn cache(variable: impl Fn(&str) -> Option<OsString>, root: bool) -> Option<PathBuf> {
    let absolute = |name| {
        let folder = PathBuf::from(variable(name)?);
        folder.is_absolute().then_some(folder)
    };
    if let Some(folder) = absolute("EMBEDDED_POSTGRES_CACHE") {
        return Some(folder);
    }
    if root {
        return Some(PathBuf::from("/var/cache"));
    }
    absolute("XDG_CACHE_HOME").or_else(|| {
        let below_home = if cfg!(target_os = "macos") {
            "Library/Caches"
        } else {
            ".cache"
        };
        Some(absolute("HOME")?.join(below_home))
    })
}

/// An environment variable that is not empty.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The target that this crate is built for, where there are archives for it.
fn target() -> String {
    let system = if cfg!(target_os = "macos") {
        "apple-darwin"
    } else if cfg!(all(target_os = "linux", target_env = "gnu")) {
        "unknown-linux-gnu"
    } else {
        env::consts::OS
    };
    format!("{}-{system}", env::consts::ARCH)
}

/// Where the archives are, which the crate `postgresql_embedded` uses too.
const RELEASES: &str = "https://github.com/theseus-rs/postgresql-binaries/releases/download";

/// PostgreSQL's version, and the number of its build.
const VERSION: &str = "18.6.0";

/// The SHA-256 of the archive for each target.
const CHECKSUMS: &[(&str, &str)] = &[
    (
        "aarch64-apple-darwin",
        "a257bcdb8aa3301a13d6a5bcec48f8c9517045b7cbae71e50788b2615539e95b",
    ),
    (
        "aarch64-unknown-linux-gnu",
        "5d2b5e8be9e96bfc3d7f22090057a836ec36d5d092542d8d3b93cc145cf4ee13",
    ),
    (
        "x86_64-apple-darwin",
        "f8918fbe747e0d79bda58ad8f8afcf23ac384b847ff3af18856f0825ba54b031",
    ),
    (
        "x86_64-unknown-linux-gnu",
        "bb3d09f876b2383e25a8c9ce09e32d185a03656a23d074f5195542b1b1b3ca61",
    ),
];

#[cfg(test)]
mod tests {
    use super::cache;
    use std::path::PathBuf;

    #[test]
    fn cache_is_the_users_unless_that_is_root() {
        let place = |variables: &[(&str, &str)], root| {
            let variable = |name: &str| {
                let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
                Some((*value).into())
            };
            cache(variable, root)
        };
        let home = if cfg!(target_os = "macos") {
            "/home/me/Library/Caches"
        } else {
            "/home/me/.cache"
        };

        let me = [("HOME", "/home/me")];
        assert_eq!(place(&me, false), Some(PathBuf::from(home)));
        assert_eq!(place(&me, true), Some(PathBuf::from("/var/cache")));

        let own = [
            ("HOME", "/home/me"),
            ("XDG_CACHE_HOME", "/xdg"),
            ("EMBEDDED_POSTGRES_CACHE", "/own"),
        ];
        assert_eq!(place(&own, true), Some(PathBuf::from("/own")));
        assert_eq!(place(&own[..2], false), Some(PathBuf::from("/xdg")));
        assert_eq!(place(&own[..2], true), Some(PathBuf::from("/var/cache")));

        let relative = [("HOME", "me"), ("EMBEDDED_POSTGRES_CACHE", "own")];
        assert_eq!(place(&relative, false), None);
    }
}
