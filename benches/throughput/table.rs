//! The tables, in Markdown.

use support::print_table;

use crate::{
    metrics::{Metric, milliseconds},
    results::Results,
    round::Setting,
    round_trips::Request,
    ways::Way,
};

/// Prints all tables. A cell is the median, and in parentheses the minimum and maximum.
pub(crate) fn print_all(results: &Results) {
    println!("\n### Round trips of a request\n\nBefore the response, and in all.\n");
    let trips = results.round_trips.iter().map(|(way, trips)| {
        let cell = |Request { awaited, all }| format!("{awaited} of {all}");
        vec![
            way.title().to_owned(),
            cell(trips.granted),
            cell(trips.denied),
            trips.read.map_or_else(none, cell),
        ]
    });
    print_table(&["", "write", "denied", "read"], trips);
    for setting in &results.settings {
        println!("\n### {}\n", title(*setting));
        let rows = results.ways(*setting);
        print_table(&HEAD, rows.map(|way| row(results, *setting, way)));
    }
}

const HEAD: [&str; 12] = [
    "",
    "successes/s",
    "to by hand",
    "failures/s",
    "p50 ms",
    "to by hand",
    "p99 ms",
    "to by hand",
    "attempts",
    "CPU µs",
    "to by hand",
    "connections",
];

fn row(results: &Results, setting: Setting, way: Way) -> Vec<String> {
    let metric = |metric, digits: usize| {
        let spread = results.spread(setting, way, metric);
        spread.map_or_else(none, |spread| format!("{spread:.digits$}"))
    };
    // With a distance, the CPU time includes that of the proxy.
    let cpu = |cell: String| {
        if setting.distance.is_zero() {
            cell
        } else {
            none()
        }
    };
    let ratio = |metric| {
        let ratio = results.ratio(setting, way, Way::ByHand, metric);
        ratio.map_or_else(none, |ratio| format!("{ratio:.2}"))
    };
    vec![
        way.title().to_owned(),
        metric(Metric::Successes, 0),
        ratio(Metric::Successes),
        metric(Metric::Failures, 0),
        metric(Metric::P50, 2),
        ratio(Metric::P50),
        metric(Metric::P99, 1),
        ratio(Metric::P99),
        metric(Metric::Attempts, 2),
        cpu(metric(Metric::Cpu, 0)),
        cpu(ratio(Metric::Cpu)),
        metric(Metric::Connections, 0),
    ]
}

fn title(setting: Setting) -> String {
    let Setting {
        scenario,
        distance,
        pool,
    } = setting;
    let distance = milliseconds(distance);
    format!(
        "{}, {distance} ms to the server, pool of {pool}",
        scenario.title
    )
}

fn none() -> String {
    "–".to_owned()
}
