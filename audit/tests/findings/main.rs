//! Documents, rules and reports, on files. They need no database.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod documents;
mod folder;
mod hostile;
mod program;
mod reports;
mod requests;
mod rules;
mod seeds;
