//! The chart: how many times the successes of the transaction by hand, by scenario and way.

use std::{fs, iter, path::Path, thread};

use support::Server;

use crate::{
    figures::{Figure, Spread, milliseconds},
    plan::Results,
    round::Setting,
    ways::Way,
};

/// Writes it.
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
    let height = TOP + panels.len() as f64 * PANEL;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12">
<style>{STYLE}</style>
<rect class="card" x="0.5" y="0.5" width="{}" height="{}" rx="8"/>
<text class="strong" x="{LEFT}" y="32" font-size="17">Successful requests per second, as a multiple of a transaction written by hand</text>
<text class="faint" x="{LEFT}" y="52">{}</text>
"#,
        WIDTH - 1.0,
        height - 1.0,
        conditions(results),
    );
    svg += &legend(results);
    for (number, panel) in panels.iter().enumerate() {
        svg += &panel.draw(TOP + number as f64 * PANEL, scale);
    }
    svg + "</svg>\n"
}

fn conditions(results: &Results) -> String {
    let server = Server::shared().to_string();
    let cores = thread::available_parallelism().unwrap();
    format!(
        "Check one grant, update one row. Bars: median; whiskers: least and most of {} rounds. {}, {cores} cores.",
        results.number_of_rounds(),
        server.split(',').next().unwrap(),
    )
}

fn legend(results: &Results) -> String {
    let by_hand = r#"<line class="axis" x1="-1" y1="6" x2="13" y2="6"/>"#.to_owned();
    let bars = results.ways_compared().map(|way| {
        let bar = format!(
            r#"<rect class="{}" width="12" height="12" rx="2"/>"#,
            way.name()
        );
        (way, bar)
    });
    let mut svg = String::new();
    let mut x = LEFT;
    for (way, mark) in iter::once((Way::ByHand, by_hand)).chain(bars) {
        let title = way.title();
        svg += &format!(
            r#"<g transform="translate({x} 66)">{mark}<text x="18" y="10" font-size="11">{title}</text></g>
"#
        );
        x += 18.0 + 6.0 * title.len() as f64 + 14.0;
    }
    svg
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
        let title = title(*setting);
        let panel = match panels.iter_mut().position(|panel| panel.title == title) {
            Some(place) => &mut panels[place],
            None => {
                panels.push(Panel {
                    title,
                    groups: Vec::new(),
                });
                panels.last_mut().unwrap()
            }
        };
        let ways = results.ways_compared().filter_map(|way| {
            let ratio = results.ratio(*setting, way, Way::ByHand, Figure::Successes)?;
            Some((way, ratio))
        });
        panel.groups.push(Group {
            title: setting.scenario.title,
            bars: ways.collect(),
        });
    }
    panels
}

fn title(Setting { distance, pool, .. }: Setting) -> String {
    match milliseconds(distance) {
        0.0 => format!("no network, pool of {pool}"),
        distance => format!("{distance} ms to the database and back, pool of {pool}"),
    }
}

impl Panel {
    fn draw(&self, top: f64, scale: Scale) -> String {
        let right = WIDTH - RIGHT;
        let zero = top + scale.y(1.0);
        let mut svg = format!(
            r#"<text class="strong" x="{LEFT}" y="{}">{}</text>
"#,
            top + 14.0,
            self.title,
        );
        for tick in scale.ticks() {
            let y = top + scale.y(tick);
            svg += &format!(
                r#"<line class="grid" x1="{LEFT}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/><text class="faint" x="{}" y="{:.1}" text-anchor="end">{tick}×</text>
"#,
                LEFT - 8.0,
                y + 4.0,
            );
        }
        let step = (right - LEFT) / self.groups.len() as f64;
        for (number, group) in self.groups.iter().enumerate() {
            svg += &group.draw(LEFT + number as f64 * step, step, top, scale);
        }
        svg += &format!(
            r#"<line class="axis" x1="{LEFT}" y1="{zero:.1}" x2="{right}" y2="{zero:.1}"/>
"#
        );
        svg
    }
}

impl Group {
    fn draw(&self, left: f64, width: f64, top: f64, scale: Scale) -> String {
        let zero = top + scale.y(1.0);
        let step = (width - GAP) / self.bars.len() as f64;
        let mut svg = format!(
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>
"#,
            left + width / 2.0,
            top + PANEL - 30.0,
            self.title,
        );
        for (number, (way, ratio)) in self.bars.iter().enumerate() {
            let middle = left + GAP / 2.0 + (number as f64 + 0.5) * step;
            let [median, least, most] =
                [ratio.median, ratio.min, ratio.max].map(|ratio| top + scale.y(ratio));
            let label = if ratio.median < 1.0 {
                median.max(least) + 12.0
            } else {
                median.min(most) - 5.0
            };
            svg += &format!(
                r#"<rect class="{}" x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="1.5"/>
<path class="whisker" d="M{middle:.1} {most:.1}V{least:.1}m-3 0h6m-6 {:.1}h6"/>
<text class="faint" x="{middle:.1}" y="{label:.1}" text-anchor="middle" font-size="10">{:.2}</text>
"#,
                way.name(),
                middle - step / 2.0 + 1.5,
                median.min(zero),
                step - 3.0,
                (median - zero).abs().max(1.0),
                most - least,
                ratio.median,
            );
        }
        svg
    }
}

/// A logarithmic axis: twice as many is as far up as half as many is down.
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

    /// From the top of a panel.
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
.card{fill:#fff;stroke:#d0d7de} text{fill:#1f2328} .strong{font-weight:600} .faint{fill:#59636e}
.grid{stroke:#d8dee4;stroke-width:1} .axis{stroke:#1f2328;stroke-width:1.5} .whisker{stroke:#1f2328;stroke-opacity:.55;fill:none}
.race{fill:#afb8c1} .peer{fill:#e0a030} .peer-default{fill:#f0cf8a} .layer{fill:#54aeff} .layer-handoff{fill:#0969da}
.conditional{fill:#4ac26b} .conditional-handoff{fill:#1a7f37}
@media (prefers-color-scheme:dark){
.card{fill:#0d1117;stroke:#30363d} text{fill:#e6edf3} .faint{fill:#9198a1} .grid{stroke:#262c34} .axis{stroke:#e6edf3}
.whisker{stroke:#e6edf3} .race{fill:#6e7681} .peer{fill:#bb8009} .peer-default{fill:#7d5a12} .layer{fill:#1f6feb} .layer-handoff{fill:#79c0ff}
.conditional{fill:#238636} .conditional-handoff{fill:#7ee787}}
";

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 96.0;
/// Of a panel, and in it above and below the bars.
const PANEL: f64 = 250.0;
const HEAD: f64 = 40.0;
const FOOT: f64 = 62.0;
/// The lowest place on the axis.
const LEAST: f64 = 0.125;
/// Between groups.
const GAP: f64 = 22.0;
