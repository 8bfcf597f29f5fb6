//! The rounds of all settings, and what they have found.

use std::time::Duration;

use futures::future::join_all;
use sqlx::postgres::PgConnectOptions;
use support::{Database, Proxy};

use crate::{
    arguments::Arguments,
    figures::{Figure, Spread},
    round::{Round, Setting, shuffled},
    tables::Tables,
    trips::Trips,
    ways::Way,
};

/// Everything that was found.
pub(crate) struct Results {
    pub(crate) settings: Vec<Setting>,
    pub(crate) trips: Vec<(Way, Trips)>,
    ways: Vec<Way>,
    rounds: Vec<Round>,
}

impl Results {
    pub(crate) async fn measure(arguments: &Arguments, database: &Database) -> Self {
        let mut results = Self {
            settings: settings(arguments),
            trips: Vec::new(),
            ways: arguments.ways.clone(),
            rounds: Vec::new(),
        };
        let tables = Tables::of(database).await;
        let trips = arguments.ways.iter().map(async |way| {
            let trips = Trips::count(*way, &tables, database).await;
            (*way, trips)
        });
        results.trips = join_all(trips).await;
        let servers = Servers::at(&arguments.distances, database);
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

    /// The ways that have been compared with the transaction by hand.
    pub(crate) fn ways_compared(&self) -> impl Iterator<Item = Way> {
        let ways = self.ways.iter().copied();
        ways.filter(|way| *way != Way::ByHand)
    }

    /// How many rounds there were of each setting.
    pub(crate) fn number_of_rounds(&self) -> usize {
        self.rounds.len() / self.settings.len()
    }

    /// The ways that have been measured in a setting.
    pub(crate) fn ways(&self, setting: Setting) -> impl Iterator<Item = Way> {
        let ways = self.ways.iter().copied();
        ways.filter(move |way| way.can(setting.scenario))
    }

    pub(crate) fn spread(&self, setting: Setting, way: Way, figure: Figure) -> Option<Spread> {
        let rounds = self.rounds(setting);
        Spread::of(rounds.filter_map(|round| round.figure(way, figure)))
    }

    /// The ratio to another way, within each round.
    pub(crate) fn ratio(
        &self,
        setting: Setting,
        way: Way,
        to: Way,
        figure: Figure,
    ) -> Option<Spread> {
        let rounds = self.rounds(setting);
        Spread::of(rounds.filter_map(|round| {
            let ratio = round.figure(way, figure)? / round.figure(to, figure)?;
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

/// The server, and proxies that are so far away from it.
struct Servers {
    near: PgConnectOptions,
    far: Vec<(Duration, Proxy)>,
}

impl Servers {
    fn at(distances: &[Duration], database: &Database) -> Self {
        let far = distances.iter().filter(|distance| !distance.is_zero());
        Self {
            near: database.options(),
            far: far
                .map(|distance| (*distance, Proxy::with_delay(database, *distance)))
                .collect(),
        }
    }

    fn options(&self, distance: Duration) -> PgConnectOptions {
        let far = self.far.iter().find(|(of, _)| *of == distance);
        far.map_or_else(|| self.near.clone(), |(_, proxy)| proxy.options())
    }
}
