//! A round: all ways in one setting, by turns.

use std::time::Duration;

use axum::Router;
use sqlx::{PgPool, postgres::PgConnectOptions};

use crate::{
    figures::{Figure, Figures},
    load::Tally,
    scenario::Scenario,
    tables::Tables,
    ways::Way,
};

/// What the ways are compared in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setting {
    pub(crate) scenario: Scenario,
    /// The round trip to the server.
    pub(crate) distance: Duration,
    pub(crate) pool: u32,
}

/// How long each way sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Before anything counts: connections are made and statements prepared.
    pub(crate) warm_up: Duration,
    pub(crate) turns: u32,
    pub(crate) turn: Duration,
}

/// What was found.
pub(crate) struct Round {
    pub(crate) setting: Setting,
    figures: Vec<(Way, Figures)>,
}

impl Round {
    pub(crate) async fn run(
        setting: Setting,
        ways: &[Way],
        times: Times,
        tables: &Tables,
        server: &PgConnectOptions,
    ) -> Self {
        let mut contestants = Vec::new();
        for way in shuffled(ways.iter().copied()) {
            contestants.push(Contestant::prepare(way, setting, times, tables, server).await);
        }
        // Short turns: whatever else the machine does befalls all ways alike.
        for _ in 0..times.turns {
            for contestant in shuffled(&mut contestants) {
                let turn = Tally::take(&contestant.app, setting.scenario, times.turn);
                contestant.tally.add(turn.await);
            }
        }
        let mut figures = Vec::new();
        for contestant in contestants {
            let Contestant {
                way, pool, tally, ..
            } = contestant;
            figures.push((way, tally.figures(setting.scenario.clients, pool.size())));
            pool.close().await;
        }
        Self { setting, figures }
    }

    pub(crate) fn figure(&self, way: Way, figure: Figure) -> Option<f64> {
        let (_, figures) = self.figures.iter().find(|(of, _)| *of == way)?;
        figure.of(figures)
    }
}

/// A way on tables and a pool of its own.
struct Contestant {
    way: Way,
    pool: PgPool,
    app: Router,
    tally: Tally,
}

impl Contestant {
    async fn prepare(
        way: Way,
        setting: Setting,
        times: Times,
        tables: &Tables,
        server: &PgConnectOptions,
    ) -> Self {
        let own = tables.make(way.name()).await;
        let pool = way.pool(setting.pool, server.clone().options(own));
        let app = way.router(pool.clone());
        let warm_up = times.warm_up + setting.distance * TRIPS_TO_WARM_UP;
        drop(Tally::take(&app, setting.scenario, warm_up).await);
        Self {
            way,
            pool,
            app,
            tally: Tally::default(),
        }
    }
}

/// In random order.
pub(crate) fn shuffled<T>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    fastrand::shuffle(&mut items);
    items
}

/// To connect, to look at the server, to prepare what is sent, and to send it a few times.
const TRIPS_TO_WARM_UP: u32 = 30;
