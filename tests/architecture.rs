//! The layout of `src/` and `audit/src/`: what each file may import, and how long it may be.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms of each crate, the highest first. A file imports from its own room and from rooms
/// below it.
const CRATES: [(&str, &[&[&str]]); 2] = [
    (
        "src",
        &[
            &["lib"],
            &["interlock"],
            &["builder", "own"],
            &["http", "write", "transact", "jobs"],
            &["attempt"],
            &["tx"],
            &["receipts"],
            &["repeat"],
            &["database"],
            &["observe"],
            &["error"],
            &["report"],
        ],
    ),
    (
        "audit/src",
        &[
            &["lib", "main"],
            &["report"],
            &["rules"],
            &["coverage", "matrix", "race"],
            &["recorder"],
            &["trace"],
            &["sql", "mode", "document"],
        ],
    ),
];

/// Lines of code in a file, without blank lines, comments and tests.
const FILE_LIMIT: usize = 300;

#[test]
fn rooms_import_downwards_only() {
    let mut violations = Vec::new();
    for (root, rooms) in CRATES {
        for (file, imports) in imports(root) {
            for import in imports {
                let (from, to) = (room(&file), room(&import));
                if from != to && level(rooms, from) >= level(rooms, to) {
                    violations.push(format!("{root}/{file} imports {import}"));
                }
            }
        }
    }
    assert!(violations.is_empty(), "{violations:#?}");
}

#[test]
fn files_import_without_circles() {
    for (root, _) in CRATES {
        let imports = imports(root);
        for file in imports.keys() {
            let mut path = vec![file.as_str()];
            if let Some(circle) = circle(&imports, &mut path, &mut BTreeSet::new()) {
                panic!("{root}: {circle}");
            }
        }
    }
}

#[test]
fn files_stay_short() {
    let sources = CRATES.iter().flat_map(|(root, _)| sources(root));
    let long: Vec<_> = sources
        .map(|(file, text)| (file, lines_of_code(&text)))
        .filter(|(_, lines)| *lines > FILE_LIMIT)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn readme_has_the_promises_of_the_crate_docs() {
    let read = |path| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let readme = read("README.md");
    let (_, promises) = readme.split_once("<!-- promises -->\n").unwrap();
    let (promises, _) = promises.split_once("<!-- /promises -->").unwrap();
    assert_eq!(promises.trim(), read("src/docs/promises.md").trim());
}

/// The files that each file imports from, by `use crate::` or as its submodules.
fn imports(root: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources(root);
    let files: BTreeSet<_> = sources.keys().cloned().collect();
    let of_file = |(file, text): (&String, &String)| {
        let text = before_tests(text);
        let paths = use_trees(text);
        let used = paths.iter().filter_map(|path| resolve(path, &files));
        let submodules = submodules(file, text);
        let imported = used.chain(submodules).filter(|import| import != file);
        (file.clone(), imported.collect())
    };
    sources.iter().map(of_file).collect()
}

/// The files that `mod …;` declares. `lib.rs` declares the rooms.
fn submodules(file: &str, text: &str) -> Vec<String> {
    let declared = text.lines().filter_map(|line| line.strip_suffix(';'));
    let names = declared.filter_map(|line| Some(line.split_once("mod ")?.1));
    let parent = if file == "lib" {
        String::new()
    } else {
        format!("{file}/")
    };
    names.map(|name| format!("{parent}{name}")).collect()
}

/// The sources by module path, as `tx/lease`; a `mod.rs` has the name of its room.
fn sources(root: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(root);
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut sources = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = path.strip_prefix(&root).unwrap().with_extension("");
                let module = module.to_str().unwrap().replace('\\', "/");
                let module = module.strip_suffix("/mod").unwrap_or(&module).to_owned();
                sources.insert(module, fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(sources.len() > 20, "the sources are not found");
    sources
}

fn before_tests(text: &str) -> &str {
    let (code, tests) = text
        .split_once("\n#[cfg(test)]\nmod ")
        .unwrap_or((text, ""));
    let is_last = !tests.contains("\n}\n\n");
    assert!(is_last, "tests are not at the end of a file");
    assert!(
        !code.contains("#[cfg(test)]"),
        "code of tests is among the code of a file"
    );
    code
}

fn lines_of_code(text: &str) -> usize {
    let lines = before_tests(text).lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count()
}

/// Every path that is imported by `use crate::…`, with nested trees expanded.
fn use_trees(text: &str) -> Vec<String> {
    let uses = text.split("use crate::").skip(1);
    let trees = uses.map(|rest| rest.split(';').next().unwrap());
    trees.flat_map(|tree| expand("", tree)).collect()
}

fn expand(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        return vec![format!("{prefix}{tree}")];
    };
    let inner = rest.strip_suffix('}').expect("a balanced use tree");
    let prefix = format!("{prefix}{}", head.trim());
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, character) in inner.char_indices().chain([(inner.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let part = inner[start..at].trim();
                if !part.is_empty() {
                    paths.extend(expand(&prefix, part));
                }
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// The file that a path leads to: the longest prefix that is one.
fn resolve(path: &str, files: &BTreeSet<String>) -> Option<String> {
    let path = path.split(" as ").next().unwrap().replace("::", "/");
    let mut prefix = path.trim_end_matches("/self");
    loop {
        if files.contains(prefix) {
            return Some(prefix.to_owned());
        }
        prefix = prefix.rsplit_once('/')?.0;
    }
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap()
}

fn level(rooms: &[&[&str]], room: &str) -> usize {
    let level = rooms.iter().position(|rooms| rooms.contains(&room));
    level.unwrap_or_else(|| panic!("the room {room} has no level in CRATES"))
}

fn circle<'i>(
    imports: &'i BTreeMap<String, BTreeSet<String>>,
    path: &mut Vec<&'i str>,
    done: &mut BTreeSet<&'i str>,
) -> Option<String> {
    let last = *path.last().unwrap();
    for import in &imports[last] {
        if let Some(start) = path.iter().position(|file| file == import) {
            return Some(format!("{} → {import}", path[start..].join(" → ")));
        }
        if done.contains(import.as_str()) {
            continue;
        }
        path.push(import);
        let found = circle(imports, path, done);
        if found.is_some() {
            return found;
        }
        path.pop();
    }
    done.insert(last);
    None
}
