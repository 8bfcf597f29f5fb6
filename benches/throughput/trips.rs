//! How often a request goes to the server: counted on the wire.

use std::time::Duration;

use axum::Router;
use support::{Counts, Database, Proxy};
use tokio::time::sleep;

use crate::{load::ask, scenario::Scenario, tables::Tables, ways::Way};

/// The round trips of single requests on warm connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trips {
    pub(crate) granted: Trip,
    pub(crate) denied: Trip,
    pub(crate) read: Option<Trip>,
}

/// The round trips of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trip {
    /// One after the other, before the answer.
    pub(crate) awaited: u128,
    /// Also those that nobody waits for.
    pub(crate) all: usize,
}

impl Trips {
    pub(crate) async fn count(way: Way, tables: &Tables, database: &Database) -> Self {
        let proxy = Proxy::with_delay(database, DISTANCE);
        let own = tables.make(way.name()).await;
        let pool = way.pool(2, proxy.options().options(own));
        let app = way.router(pool.clone());
        let mut read = None;
        if way.can(Scenario::READ) {
            read = Some(Trip::count(&app, &proxy, Scenario::READ).await);
        }
        let trips = Self {
            granted: Trip::count(&app, &proxy, Scenario::GRANTED).await,
            denied: Trip::count(&app, &proxy, Scenario::DENIED).await,
            read,
        };
        pool.close().await;
        trips
    }
}

impl Trip {
    async fn count(app: &Router, proxy: &Proxy, scenario: Scenario) -> Self {
        let mut trips = Vec::new();
        for _ in 0..7 {
            let before = number(proxy.counts());
            let answer = ask(app, scenario).await;
            assert!(answer.right);
            sleep(AFTERWARDS).await;
            trips.push(Self {
                // The distance is so large that everything else together is less.
                awaited: answer.latency.as_millis() / DISTANCE.as_millis(),
                all: number(proxy.counts()) - before,
            });
        }
        // At first connections are made, and statements are prepared.
        let warm = trips.split_off(2);
        let mut all: Vec<_> = warm.iter().map(|trip| trip.all).collect();
        all.sort_unstable();
        Self {
            awaited: warm.iter().map(|trip| trip.awaited).min().unwrap(),
            all: all[all.len() / 2],
        }
    }
}

fn number(counts: Counts) -> usize {
    counts.round_trips + counts.pings
}

const DISTANCE: Duration = Duration::from_millis(10);

/// Enough for a ROLLBACK and a ping.
const AFTERWARDS: Duration = Duration::from_millis(50);
