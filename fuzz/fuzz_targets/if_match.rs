//! Preconditions, as bytes.

#![no_main]

use support::hostile::if_match;

libfuzzer_sys::fuzz_target!(|input: &[u8]| if_match::check(input));
