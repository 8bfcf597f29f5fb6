//! What the layer and the conditional write are to reach, and whether they do.

use std::time::Duration;

use crate::{
    arguments::POOL,
    figures::Figure::{self, Failures, P50, P99, Successes},
    plan::Results,
    round::Setting,
    table,
    ways::Way,
};

/// Prints those that this run has looked at.
pub(crate) fn print(results: &Results) {
    let rows = results.settings.iter().flat_map(|setting| {
        let targets = TARGETS.iter().filter(|target| target.is_about(*setting));
        targets.flat_map(|target| {
            let ways = target.ways().into_iter();
            ways.filter_map(|way| row(results, *setting, target, way))
        })
    });
    println!("\n### Targets\n");
    let head = ["", "to the server", "way", "to", "target", "measured", ""];
    table::print(&head, rows);
}

/// A bound of a figure, or of its ratio to another way's.
struct Target {
    scenario: &'static str,
    /// In milliseconds.
    distance: u64,
    figure: Figure,
    what: What,
    to: Option<Way>,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum What {
    Layer,
    Conditional,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

impl Target {
    const fn layer(scenario: &'static str, distance: u64, figure: Figure, bound: Bound) -> Self {
        Self {
            scenario,
            distance,
            figure,
            what: What::Layer,
            to: Some(Way::ByHand),
            bound,
        }
    }

    const fn conditional(scenario: &'static str, distance: u64, bound: Bound) -> Self {
        Self {
            what: What::Conditional,
            ..Self::layer(scenario, distance, Successes, bound)
        }
    }

    const fn to(self, to: Option<Way>) -> Self {
        Self { to, ..self }
    }

    fn ways(&self) -> [Way; 2] {
        match self.what {
            What::Layer => [Way::Layer, Way::LayerHandoff],
            What::Conditional => [Way::Conditional, Way::ConditionalHandoff],
        }
    }

    fn is_about(&self, setting: Setting) -> bool {
        setting.scenario.name == self.scenario
            && setting.distance == Duration::from_millis(self.distance)
            && setting.pool == POOL
    }
}

fn row(results: &Results, setting: Setting, target: &Target, way: Way) -> Option<Vec<String>> {
    let Target { figure, to, .. } = *target;
    let measured = match to {
        Some(to) => results.ratio(setting, way, to, figure)?,
        None => results.spread(setting, way, figure)?,
    };
    let (bound, met) = match target.bound {
        AtLeast(bound) => (format!("≥ {bound:.2}"), measured.median >= bound),
        AtMost(bound) => (format!("≤ {bound:.2}"), measured.median <= bound),
    };
    Some(vec![
        format!("{}: {}", setting.scenario.title, figure.title()),
        format!("{} ms", target.distance),
        way.title().to_owned(),
        to.map_or("–", Way::title).to_owned(),
        bound,
        format!("{measured:.2}"),
        if met { "met" } else { "missed" }.to_owned(),
    ])
}

const TARGETS: [Target; 9] = [
    Target::layer("spread", 0, Successes, AtLeast(0.97)),
    Target::layer("spread", 0, Successes, AtLeast(1.0)).to(Some(Way::Peer)),
    Target::layer("alone", 1, P50, AtMost(1.02)),
    Target::layer("alone", 1, P50, AtMost(0.82)).to(Some(Way::PeerDefault)),
    Target::layer("hot", 0, Failures, AtMost(0.0)).to(None),
    Target::layer("hot", 0, Successes, AtLeast(1.0)),
    Target::layer("hot", 0, P99, AtMost(0.5)),
    Target::conditional("spread", 0, AtLeast(1.8)),
    Target::conditional("alone", 1, AtLeast(1.8)),
];
