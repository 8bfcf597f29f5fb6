//! Reasons of errors, as text.

#![no_main]

#[path = "../../tests/it/hostile/problem.rs"]
mod problem;

libfuzzer_sys::fuzz_target!(|input: &[u8]| problem::check(input));
