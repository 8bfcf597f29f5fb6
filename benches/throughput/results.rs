//! Runs the rounds of all settings, and summarizes them.

use futures::future::join_all;
use support::{Database, Distances, Spread};

use crate::{
    arguments::Arguments,
    metrics::Metric,
    round::{Round, Setting, shuffled},
    round_trips::RoundTrips,
    tables::Tables,
    ways::Way,
};

/// The results of a run.
pub(crate) struct Results {
    pub(crate) settings: Vec<Setting>,
    pub(crate) round_trips: Vec<(Way, RoundTrips)>,
    ways: Vec<Way>,
    rounds: Vec<Round>,
}

impl Results {
    pub(crate) async fn measure(arguments: &Arguments, database: &Database) -> Self {
        let mut results = Self {
            settings: settings(arguments),
            round_trips: Vec::new(),
            ways: arguments.ways.clone(),
            rounds: Vec::new(),
        };
        let tables = Tables::of(database).await;
        let round_trips = arguments.ways.iter().map(async |way| {
            let round_trips = RoundTrips::count(*way, &tables, database).await;
            (*way, round_trips)
        });
        results.round_trips = join_all(round_trips).await;
        let servers = Distances::new(&arguments.distances, database);
        for number in 1..=arguments.rounds {
            eprintln!("round {number} of {}", arguments.rounds);
            for setting in shuffled(results.settings.clone()) {
                let ways: Vec<_> = results.ways(setting).collect();
                let server = servers.options(setting.distance);
                let round = Round::run(setting, &ways, arguments.times, &tables, &server);
                results.rounds.push(round.await);
            }
        }
        results
    }

    /// Returns the ways other than the transaction by hand.
    pub(crate) fn ways_compared(&self) -> impl Iterator<Item = Way> {
        let ways = self.ways.iter().copied();
        ways.filter(|way| *way != Way::ByHand)
    }

    /// Returns the number of rounds in each setting.
    pub(crate) fn number_of_rounds(&self) -> usize {
        self.rounds.len() / self.settings.len()
    }

    /// Returns the ways that were measured in a setting.
    pub(crate) fn ways(&self, setting: Setting) -> impl Iterator<Item = Way> {
        let ways = self.ways.iter().copied();
        ways.filter(move |way| way.can_run(setting.scenario))
    }

    pub(crate) fn spread(&self, setting: Setting, way: Way, metric: Metric) -> Option<Spread> {
        let rounds = self.rounds(setting);
        Spread::of(rounds.filter_map(|round| round.metric(way, metric)))
    }

    /// Returns the ratio to another way, computed within each round.
    pub(crate) fn ratio(
        &self,
        setting: Setting,
        way: Way,
        to: Way,
        metric: Metric,
    ) -> Option<Spread> {
        let rounds = self.rounds(setting);
        Spread::of(rounds.filter_map(|round| {
            let ratio = round.metric(way, metric)? / round.metric(to, metric)?;
            ratio.is_finite().then_some(ratio)
        }))
    }

    fn rounds(&self, setting: Setting) -> impl Iterator<Item = &Round> {
        let rounds = self.rounds.iter();
        rounds.filter(move |round| round.setting == setting)
    }
}

fn settings(arguments: &Arguments) -> Vec<Setting> {
    let mut settings = Vec::new();
    for distance in &arguments.distances {
        for scenario in &arguments.scenarios {
            settings.extend(arguments.pools.iter().map(|pool| Setting {
                scenario: *scenario,
                distance: *distance,
                pool: *pool,
            }));
        }
    }
    settings
}
