//! Ways to write an authorized handler, side by side: how many answers a second, and how soon.
//!
//! `cargo bench --bench throughput` lets every way run in every scenario, at every distance to the
//! database, in rounds. In a round all ways send by turns, in random order, each on fresh tables
//! and a pool of its own. Whatever else the machine does befalls all of them, so what counts is
//! the ratio to the transaction by hand within a round.
//!
//! What can be said after `--` is in `arguments.rs`.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench that cannot run has nothing else to say, and does by hand what it compares with"
)]

mod arguments;
mod chart;
mod cpu;
mod figures;
mod load;
mod plan;
mod round;
mod scenario;
mod table;
mod tables;
mod targets;
mod trips;
mod ways;

use crate::{arguments::Arguments, plan::Results};

fn main() {
    let arguments = Arguments::parse();
    support::test(async move |database| {
        let results = Results::measure(&arguments, &database).await;
        table::print_all(&results);
        if !arguments.smoke {
            targets::print(&results);
        }
        chart::write(&results, &arguments.svg);
    });
}
