//! Compares ways to write an authorized handler: requests per second, and latency.
//!
//! `cargo bench --bench throughput` measures every way in every scenario, at every distance to the
//! database, in rounds. In a round the ways take turns in random order, each on its own pool and
//! fresh tables. Other load on the machine affects all ways alike. So compare ways by their ratio
//! to the transaction by hand within a round, not by absolute numbers.
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
mod chart;
mod cpu;
mod load;
mod metrics;
mod results;
mod round;
mod round_trips;
mod scenario;
mod table;
mod tables;
mod ways;

use crate::{arguments::Arguments, results::Results};

fn main() {
    let arguments = Arguments::parse();
    support::test(async move |database| {
        let results = Results::measure(&arguments, &database).await;
        table::print_all(&results);
        chart::write(&results, &arguments.svg);
    });
}
