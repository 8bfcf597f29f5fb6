//! Runs the rounds of all settings, and prints their summary.

use std::time::{Duration, Instant};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use support::{Database, Distances, Kind, Spread, print_table};

use crate::{
    arguments::Arguments,
    by_hand::ByHand,
    queue::{Queue, has_skip_locked},
    way::Way,
    workers::Workers,
};

/// The results of a run.
pub(crate) struct Results {
    skip_locked: bool,
    ways: Vec<Way>,
    settings: Vec<Setting>,
    rounds: Vec<Round>,
}

/// The conditions of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Setting {
    workers: usize,
    /// The round-trip time to the server.
    distance: Duration,
}

/// The tallies of one round.
struct Round {
    setting: Setting,
    tallies: Vec<(Way, Tally)>,
}

/// Sums over the turns of a way.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    seconds: f64,
    done: f64,
    attempts: f64,
}

impl Results {
    pub(crate) async fn measure(arguments: &Arguments, database: &Database) -> Self {
        let mut ways = Way::ALL.to_vec();
        if database.kind() == Kind::CockroachDb {
            ways.retain(|way| *way != Way::ByHandReadCommitted);
        }
        let mut results = Self {
            skip_locked: has_skip_locked(database).await,
            ways,
            settings: settings(arguments),
            rounds: Vec::new(),
        };
        let pool = database.pool(1).await;
        let servers = Distances::new(&arguments.distances, database);
        for number in 1..=arguments.rounds {
            eprintln!("round {number} of {}", arguments.rounds);
            for setting in shuffled(results.settings.clone()) {
                let server = servers.options(setting.distance);
                let round = results.round(setting, arguments, &pool, &server).await;
                results.rounds.push(round);
            }
        }
        results
    }

    async fn round(
        &self,
        setting: Setting,
        arguments: &Arguments,
        pool: &PgPool,
        server: &PgConnectOptions,
    ) -> Round {
        let mut candidates = Vec::new();
        for way in shuffled(self.ways.clone()) {
            let queue = Queue::create(pool, way.schema()).await;
            let server = server.clone().options(queue.option());
            let working = Working::new(way, setting.workers, &server, self.skip_locked);
            queue.fill().await;
            // Not measured: opens connections and prepares statements.
            working.work(arguments.turn / 2).await;
            candidates.push((way, queue, working, Tally::default()));
        }
        // Turns are short, so that other load on the machine affects all ways alike.
        for _ in 0..arguments.turns {
            for (_, queue, working, tally) in shuffled(&mut candidates) {
                queue.fill().await;
                let (before, started) = (queue.done().await, Instant::now());
                tally.attempts += working.work(arguments.turn).await as f64;
                tally.seconds += started.elapsed().as_secs_f64();
                tally.done += (queue.done().await - before) as f64;
            }
        }
        let mut tallies = Vec::new();
        for (way, _, working, tally) in candidates {
            working.close().await;
            tallies.push((way, tally));
        }
        Round { setting, tallies }
    }

    /// Prints all tables. A cell is the median, and in parentheses the minimum and maximum.
    pub(crate) fn print(&self) {
        if !self.skip_locked {
            println!("\nThe server has no SKIP LOCKED: the workers by hand wait for each other.");
        }
        for setting in &self.settings {
            let Setting { workers, distance } = *setting;
            println!("\n### {workers} at a time, {distance:?} to the server\n");
            let rows = self.ways.iter().map(|way| {
                let cell = |digits: usize, number: &dyn Fn(&Round) -> f64| {
                    let rounds = self.rounds.iter().filter(|it| it.setting == *setting);
                    let spread = Spread::of(rounds.map(number)).unwrap();
                    format!("{spread:.digits$}")
                };
                let to = |other| move |round: &Round| round.speed(*way) / round.speed(other);
                let mut cells = vec![
                    way.title().to_owned(),
                    cell(0, &|round| round.speed(*way)),
                    cell(2, &to(Way::ByHand)),
                    cell(2, &|round| round.attempts(*way)),
                ];
                if self.ways.contains(&Way::ByHandReadCommitted) {
                    cells.insert(3, cell(2, &to(Way::ByHandReadCommitted)));
                }
                cells
            });
            let mut head = vec!["", "jobs/s", "to SERIALIZABLE", "attempts/job"];
            if self.ways.contains(&Way::ByHandReadCommitted) {
                head.insert(3, "to READ COMMITTED");
            }
            print_table(&head, rows);
        }
    }
}

impl Round {
    /// Jobs per second.
    fn speed(&self, way: Way) -> f64 {
        let tally = self.tally(way);
        tally.done / tally.seconds
    }

    /// Attempts per job.
    fn attempts(&self, way: Way) -> f64 {
        let tally = self.tally(way);
        tally.attempts / tally.done
    }

    fn tally(&self, way: Way) -> Tally {
        let tally = self.tallies.iter().find(|(of, _)| *of == way);
        tally.unwrap().1
    }
}

/// The workers of one way.
enum Working {
    ByHand(ByHand),
    Workers(Workers),
}

impl Working {
    fn new(way: Way, workers: usize, server: &PgConnectOptions, skip_locked: bool) -> Self {
        let by_hand = |begin| {
            let pool = PgPoolOptions::new()
                .max_connections(workers as u32)
                .test_before_acquire(false);
            Self::ByHand(ByHand {
                pool: pool.connect_lazy_with(server.clone()),
                workers,
                begin,
                skip_locked,
            })
        };
        match way {
            Way::ByHand => by_hand("BEGIN ISOLATION LEVEL SERIALIZABLE"),
            Way::ByHandReadCommitted => by_hand("BEGIN ISOLATION LEVEL READ COMMITTED"),
            Way::Workers => Self::Workers(Workers::new(server, workers, 1)),
            Way::OneWorker => Self::Workers(Workers::new(server, 1, workers)),
        }
    }

    async fn work(&self, time: Duration) -> u64 {
        match self {
            Self::ByHand(by_hand) => by_hand.work(time).await,
            Self::Workers(workers) => workers.work(time).await,
        }
    }

    async fn close(self) {
        match self {
            Self::ByHand(by_hand) => by_hand.pool.close().await,
            Self::Workers(workers) => workers.close().await,
        }
    }
}

fn settings(arguments: &Arguments) -> Vec<Setting> {
    let mut settings = Vec::new();
    for distance in arguments.distances.iter().copied() {
        let of = |workers| Setting { workers, distance };
        settings.extend(arguments.workers.iter().copied().map(of));
    }
    settings
}

/// Returns the items in random order.
fn shuffled<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    fastrand::shuffle(&mut items);
    items
}
