//! The chart: throughput as a multiple of the transaction by hand, by scenario and way.

use std::{fs, iter, path::Path, thread};

use support::{Server, Spread, Svg};

use crate::{
    metrics::{Metric, milliseconds},
    results::Results,
    round::Setting,
    ways::Way,
};

/// Draws the chart into a file.
pub(crate) fn write(results: &Results, path: &Path) {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(path, draw(results)).unwrap();
    println!("\nchart: {}", path.display());
}

fn draw(results: &Results) -> String {
    let panels = panels(results);
    let scale = Scale::of(panels.iter().flat_map(|panel| &panel.groups));
    let mut svg = Svg::new((WIDTH, TOP + panels.len() as f64 * PANEL), STYLE);
    let title = "Successful requests per second, as a multiple of a transaction written by hand";
    svg.text("title", (LEFT, 32.0), title);
    svg.text("faint", (LEFT, 52.0), &conditions(results));
    legend(&mut svg, results);
    for (number, panel) in panels.iter().enumerate() {
        panel.draw(&mut svg, TOP + number as f64 * PANEL, scale);
    }
    svg.finish()
}

fn conditions(results: &Results) -> String {
    let server = Server::shared().to_string();
    let cores = thread::available_parallelism().unwrap();
    format!(
        "Check one grant, update one row. Bars: median; whiskers: minimum and maximum \
         of {} rounds. {}, {cores} cores.",
        results.number_of_rounds(),
        server.split(',').next().unwrap(),
    )
}

fn legend(svg: &mut Svg, results: &Results) {
    let mut x = LEFT;
    for way in iter::once(Way::ByHand).chain(results.ways_compared()) {
        match way {
            Way::ByHand => svg.line("axis", &[(x - 1.0, 72.0), (x + 13.0, 72.0)]),
            _ => svg.bar(way.name(), x + 6.0, 12.0, (66.0, 78.0)),
        }
        svg.text("key", (x + 18.0, 76.0), way.title());
        x += 18.0 + 6.0 * way.title().len() as f64 + 14.0;
    }
}

/// All scenarios at one distance.
struct Panel {
    title: String,
    groups: Vec<Group>,
}

/// All ways in one scenario.
struct Group {
    title: &'static str,
    bars: Vec<(Way, Spread)>,
}

fn panels(results: &Results) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for setting in &results.settings {
        let ways = results.ways_compared().filter_map(|way| {
            let ratio = results.ratio(*setting, way, Way::ByHand, Metric::Successes)?;
            Some((way, ratio))
        });
        let group = Group {
            title: setting.scenario.title,
            bars: ways.collect(),
        };
        let title = title(*setting);
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.groups.push(group),
            None => panels.push(Panel {
                title,
                groups: vec![group],
            }),
        }
    }
    panels
}

fn title(Setting { distance, pool, .. }: Setting) -> String {
    match milliseconds(distance) {
        0.0 => format!("no network, pool of {pool}"),
        distance => format!("round trip to the database {distance} ms, pool of {pool}"),
    }
}

impl Panel {
    fn draw(&self, svg: &mut Svg, top: f64, scale: Scale) {
        svg.text("strong", (LEFT, top + 14.0), &self.title);
        for tick in scale.ticks() {
            let y = top + scale.y(tick);
            svg.line("grid", &[(LEFT, y), (RIGHT, y)]);
            svg.text("tick", (LEFT - 8.0, y + 4.0), &format!("{tick}×"));
        }
        let step = (RIGHT - LEFT) / self.groups.len() as f64;
        for (number, group) in self.groups.iter().enumerate() {
            group.draw(svg, LEFT + number as f64 * step, step, top, scale);
        }
        let one = top + scale.y(1.0);
        svg.line("axis", &[(LEFT, one), (RIGHT, one)]);
    }
}

impl Group {
    fn draw(&self, svg: &mut Svg, left: f64, width: f64, top: f64, scale: Scale) {
        let title = (left + width / 2.0, top + PANEL - 30.0);
        svg.text("middle", title, self.title);
        let one = top + scale.y(1.0);
        let step = (width - GAP) / self.bars.len() as f64;
        for (number, (way, ratio)) in self.bars.iter().enumerate() {
            let x = left + GAP / 2.0 + (number as f64 + 0.5) * step;
            let [median, min, max] =
                [ratio.median, ratio.min, ratio.max].map(|ratio| top + scale.y(ratio));
            let bar = (median.min(one), median.max(one).max(median.min(one) + 1.0));
            svg.bar(way.name(), x, step - 3.0, bar);
            let (l, r) = (x - 3.0, x + 3.0);
            let whisker = [(l, max), (r, max), (x, max), (x, min), (l, min), (r, min)];
            svg.line("whisker", &whisker);
            let label = if ratio.median < 1.0 {
                median.max(min) + 12.0
            } else {
                median.min(max) - 5.0
            };
            svg.text("number", (x, label), &format!("{:.2}", ratio.median));
        }
    }
}

/// A logarithmic axis: twice is as far above 1 as half is below it.
#[derive(Clone, Copy)]
struct Scale {
    min: f64,
    max: f64,
}

impl Scale {
    fn of<'g>(groups: impl Iterator<Item = &'g Group>) -> Self {
        let mut scale = Self { min: 0.5, max: 2.0 };
        for (_, ratio) in groups.flat_map(|group| &group.bars) {
            scale.min = scale.min.min(ratio.min).max(LEAST);
            scale.max = scale.max.max(ratio.max);
        }
        scale
    }

    /// The distance of a ratio from the top of a panel.
    fn y(self, ratio: f64) -> f64 {
        let part = (self.max.ln() - ratio.max(self.min).ln()) / (self.max.ln() - self.min.ln());
        HEAD + part * (PANEL - HEAD - FOOT)
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        let all = (-3..=6).map(|power| 2_f64.powi(power));
        all.filter(move |tick| (self.min..=self.max).contains(tick))
    }
}

const STYLE: &str = "
text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:17px} .key{font-size:11px} .number{font-size:10px} .title,.strong{font-weight:600}
.middle,.number{text-anchor:middle} .tick{text-anchor:end}
.ground{fill:#fff} .faint,.tick,.number{fill:#59636e}
.grid{stroke:#d8dee4} .axis{stroke:#1f2328;stroke-width:1.5}
.whisker{stroke:#1f2328;stroke-opacity:.55;fill:none}
.race{fill:#afb8c1} .axum-sqlx-tx{fill:#e0a030} .axum-sqlx-tx-default{fill:#f0cf8a}
.layer{fill:#54aeff} .layer-handoff{fill:#0969da}
.receipts{fill:#bf8700} .idempotent{fill:#9a6700}
.conditional{fill:#4ac26b} .conditional-handoff{fill:#1a7f37}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3} .ground{fill:#0d1117} .faint,.tick,.number{fill:#9198a1}
.grid{stroke:#262c34} .axis,.whisker{stroke:#e6edf3}
.race{fill:#6e7681} .axum-sqlx-tx{fill:#bb8009} .axum-sqlx-tx-default{fill:#7d5a12}
.layer{fill:#1f6feb} .layer-handoff{fill:#79c0ff}
.receipts{fill:#d29922} .idempotent{fill:#f2cc60}
.conditional{fill:#238636} .conditional-handoff{fill:#7ee787}}
";

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 96.0;
/// The height of a panel, and in it above and below the bars.
const PANEL: f64 = 250.0;
const HEAD: f64 = 40.0;
const FOOT: f64 = 62.0;
/// The lowest ratio on the axis.
const LEAST: f64 = 0.125;
/// Between groups.
const GAP: f64 = 22.0;
