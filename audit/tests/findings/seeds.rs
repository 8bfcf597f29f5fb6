//! The seeds of the fuzzer, and random pieces of documents.

use std::fs;

use crate::{folder::Folder, hostile::check};

#[test]
fn seeds_of_the_fuzzer_hold() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/document");
    let folder = Folder::of([]);
    let mut count = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        check(
            &fs::read(seed.unwrap().path()).unwrap(),
            &folder.path("root"),
        );
        count += 1;
    }
    assert!(count > 5, "the seeds are not found");
}

#[test]
fn every_beginning_of_a_document_holds() {
    let text = include_str!("../../../examples/documents/openapi.yaml");
    let folder = Folder::of([]);
    for end in (0..text.len()).step_by(7) {
        check(&text.as_bytes()[..end], &folder.path("root"));
    }
}
