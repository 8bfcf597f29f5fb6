//! A round: all ways in one setting, in turns.

use std::time::Duration;

use axum::Router;
use sqlx::{PgPool, postgres::PgConnectOptions};

use crate::{
    load::Tally,
    metrics::{Metric, Metrics},
    scenario::Scenario,
    tables::Tables,
    ways::Way,
};

/// The conditions of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setting {
    pub(crate) scenario: Scenario,
    /// The round-trip time to the server.
    pub(crate) distance: Duration,
    pub(crate) pool: u32,
}

/// How long each way sends requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Not measured: opens connections and prepares statements.
    pub(crate) warm_up: Duration,
    pub(crate) turns: u32,
    pub(crate) turn: Duration,
}

/// The metrics of one round.
pub(crate) struct Round {
    pub(crate) setting: Setting,
    metrics: Vec<(Way, Metrics)>,
}

impl Round {
    pub(crate) async fn run(
        setting: Setting,
        ways: &[Way],
        times: Times,
        tables: &Tables,
        server: &PgConnectOptions,
    ) -> Self {
        let mut candidates = Vec::new();
        for way in shuffled(ways.iter().copied()) {
            candidates.push(Candidate::prepare(way, setting, times, tables, server).await);
        }
        // Turns are short, so that other load on the machine affects all ways alike.
        for _ in 0..times.turns {
            for candidate in shuffled(&mut candidates) {
                let turn = Tally::measure(&candidate.app, setting.scenario, times.turn);
                candidate.tally.add(turn.await);
            }
        }
        let mut metrics = Vec::new();
        for candidate in candidates {
            let Candidate {
                way, pool, tally, ..
            } = candidate;
            metrics.push((way, tally.metrics(setting.scenario.clients, pool.size())));
            pool.close().await;
        }
        Self { setting, metrics }
    }

    pub(crate) fn metric(&self, way: Way, metric: Metric) -> Option<f64> {
        let (_, metrics) = self.metrics.iter().find(|(measured, _)| *measured == way)?;
        metric.of(metrics)
    }
}

/// A way with its own tables and pool.
struct Candidate {
    way: Way,
    pool: PgPool,
    app: Router,
    tally: Tally,
}

impl Candidate {
    async fn prepare(
        way: Way,
        setting: Setting,
        times: Times,
        tables: &Tables,
        server: &PgConnectOptions,
    ) -> Self {
        let schema = tables.create(way.name()).await;
        let pool = way.pool(setting.pool, server.clone().options(schema));
        let app = way.router(pool.clone());
        let warm_up = times.warm_up + setting.distance * WARM_UP_TRIPS;
        drop(Tally::measure(&app, setting.scenario, warm_up).await);
        Self {
            way,
            pool,
            app,
            tally: Tally::default(),
        }
    }
}

/// Returns the items in random order.
pub(crate) fn shuffled<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    fastrand::shuffle(&mut items);
    items
}

/// Round trips to connect, to look at the server, to prepare statements, and for a few requests.
const WARM_UP_TRIPS: u32 = 30;
