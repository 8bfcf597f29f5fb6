//! Compares workers of this crate with workers written by hand: jobs per second.
//!
//! `cargo bench --bench jobs` lets every way work off a queue that does not get empty, with several
//! numbers of workers, at several distances to the database, in rounds. In a round the ways take
//! turns in random order, each on its own connections and tables. Other load on the machine affects
//! all ways alike. So compare ways by their ratio within a round, not by absolute numbers.
//!
//! `arguments.rs` lists the options.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench may panic, and compares with transactions by hand"
)]

mod arguments;
mod by_hand;
mod queue;
mod results;
mod way;
mod workers;

use crate::{arguments::Arguments, results::Results};

fn main() {
    let arguments = Arguments::parse();
    support::test(async move |database| {
        let results = Results::measure(&arguments, &database).await;
        results.print();
    });
}
