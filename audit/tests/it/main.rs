//! The tests of the audit crate, on the database that `support` finds.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod coverage;
mod findings;
mod guards;
mod kit;
mod matrix;
mod own;
mod race;
mod recorder;
mod service;
