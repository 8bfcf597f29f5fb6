//! The links of the documents: that each leads to a file and a heading, here and in the book.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

#[test]
fn links_lead_to_files_and_headings() {
    let mut broken = Vec::new();
    for document in documents(Path::new("")) {
        for link in links(&document) {
            if let Some(target) = target(&document, &link)
                && !exists(&target, link.split_once('#').map(|(_, heading)| heading))
            {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn book_has_every_page_and_pages_stay_in_it() {
    let pages: BTreeSet<_> = documents(Path::new("docs")).into_iter().collect();
    let summary = Path::new("docs/SUMMARY.md");
    let mut listed: BTreeSet<_> = links(summary)
        .iter()
        .filter_map(|link| target(summary, link))
        .collect();
    listed.insert(summary.to_owned());
    assert_eq!(listed, pages);

    for page in &pages {
        for link in links(page).iter().filter(|link| !is_absolute(link)) {
            let target = target(page, link).unwrap();
            let inside = target.starts_with("docs");
            assert!(inside, "{}: the book does not have {link}", page.display());
        }
    }
}

/// The Markdown files below `folder`, relative to the root of the repository.
fn documents(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let path = folder.join(&name);
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.as_encoded_bytes().starts_with(b".") {
                found.extend(documents(&path));
            }
        } else if path.extension().is_some_and(|it| it == "md") {
            found.push(path);
        }
    }
    found
}

/// The targets of the links and images of a document.
fn links(document: &Path) -> Vec<String> {
    let text = prose(document);
    let targets = text.split("](").skip(1);
    let targets = targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned()));
    targets.collect()
}

/// A document without its code blocks.
fn prose(document: &Path) -> String {
    let text = fs::read_to_string(root().join(document)).unwrap();
    text.split("```").step_by(2).collect()
}

/// The file in the repository that a link of `document` leads to.
fn target(document: &Path, link: &str) -> Option<PathBuf> {
    let (path, _) = link.split_once('#').unwrap_or((link, ""));
    if let Some(path) = path.strip_prefix(SOURCE) {
        return Some(PathBuf::from(path));
    }
    if is_absolute(link) {
        return None;
    }
    if path.is_empty() {
        return Some(document.to_owned());
    }
    let mut target = document.parent()?.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => assert!(target.pop(), "{link} leaves the repository"),
            component => target.push(component),
        }
    }
    Some(target)
}

/// Where the registry shows the files of the package.
const SOURCE: &str = "https://docs.rs/crate/tower-interlock/latest/source/";

fn is_absolute(link: &str) -> bool {
    link.starts_with("https://") || link.starts_with("http://")
}

fn exists(file: &Path, heading: Option<&str>) -> bool {
    root().join(file).exists()
        && heading.is_none_or(|heading| headings(file).any(|it| it == heading))
}

/// The anchors of the headings of a document.
fn headings(document: &Path) -> impl Iterator<Item = String> {
    let text = prose(document);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.into_iter().filter_map(|line| {
        let heading = line.trim_start_matches('#').strip_prefix(' ')?;
        line.starts_with('#').then(|| anchor(heading))
    })
}

fn anchor(heading: &str) -> String {
    let kept = |it: &char| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_');
    let heading = heading.to_lowercase().replace(' ', "-");
    heading.chars().filter(kept).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
