//! Writers use a permission while an administrator grants and revokes it, in four ways to check
//! and write. Afterwards the database tells which writes had no permission.
//!
//! `cargo run --release -p tower-interlock-race` runs all ways and prints a table; the tests of
//! tower-interlock run some of them.

mod administrator;
mod run;
mod verdict;
mod violation;
mod way;

pub use self::{
    administrator::{Isolation, Revocation},
    run::{Race, race},
    verdict::{Attempts, Verdict},
    violation::Violation,
    way::{Steps, Way},
};
