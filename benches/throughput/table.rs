//! The tables, in Markdown.

use crate::{
    figures::{Figure, milliseconds},
    plan::Results,
    round::Setting,
    trips::Trip,
    ways::Way,
};

/// Prints all of them: medians, and from the least to the most of the rounds.
pub(crate) fn print_all(results: &Results) {
    println!("\n### Round trips of a request\n\nBefore the answer, and in all.\n");
    let trips = results.trips.iter().map(|(way, trips)| {
        let cell = |Trip { awaited, all }| format!("{awaited} of {all}");
        vec![
            way.title().to_owned(),
            cell(trips.granted),
            cell(trips.denied),
            trips.read.map_or_else(none, cell),
        ]
    });
    print(&["", "write", "denied", "read"], trips);
    for setting in &results.settings {
        println!("\n### {}\n", title(*setting));
        let rows = results.ways(*setting);
        print(&HEAD, rows.map(|way| row(results, *setting, way)));
    }
}

/// Prints a table.
pub(crate) fn print(head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let rows: Vec<_> = rows.collect();
    let widths: Vec<_> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().max(Some(head[column].chars().count())).unwrap()
        })
        .collect();
    let line = |cells: &[&str]| {
        let cells: Vec<_> = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        println!("| {} |", cells.join(" | "));
    };
    line(head);
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    println!("|-{}:|", rule.join(":|-").replacen(":|", "-|", 1));
    for row in &rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
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
    let figure = |figure, digits: usize| {
        let spread = results.spread(setting, way, figure);
        spread.map_or_else(none, |spread| format!("{spread:.digits$}"))
    };
    // The proxies are a part of this process.
    let cpu = |cell: String| {
        if setting.distance.is_zero() {
            cell
        } else {
            none()
        }
    };
    let ratio = |figure| {
        let ratio = results.ratio(setting, way, Way::ByHand, figure);
        ratio.map_or_else(none, |ratio| format!("{ratio:.2}"))
    };
    vec![
        way.title().to_owned(),
        figure(Figure::Successes, 0),
        ratio(Figure::Successes),
        figure(Figure::Failures, 0),
        figure(Figure::P50, 2),
        ratio(Figure::P50),
        figure(Figure::P99, 1),
        ratio(Figure::P99),
        figure(Figure::Attempts, 2),
        cpu(figure(Figure::Cpu, 0)),
        cpu(ratio(Figure::Cpu)),
        figure(Figure::Connections, 0),
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
