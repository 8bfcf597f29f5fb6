//! Preconditions, as bytes.

#![no_main]

#[path = "../../tests/it/hostile/if_match.rs"]
mod if_match;

libfuzzer_sys::fuzz_target!(|input: &[u8]| if_match::check(input));
