//! OpenAPI documents, as two files.

#![no_main]

use std::path::PathBuf;

#[path = "../../audit/tests/findings/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|input: &[u8]| hostile::check(input, &folder()));

fn folder() -> PathBuf {
    let folder = format!("interlock-fuzz-{}/root", std::process::id());
    std::env::temp_dir().join(folder)
}
