//! Checks that must hold for every input: of `tests/it/hostile`, and of the fuzz targets.
//!
//! A check panics if it does not hold.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a check fails by panicking"
)]

pub mod if_match;
pub mod problem;
pub mod template;
