//! Reasons of errors, as text.

#![no_main]

use support::hostile::problem;

libfuzzer_sys::fuzz_target!(|input: &[u8]| problem::check(input));
