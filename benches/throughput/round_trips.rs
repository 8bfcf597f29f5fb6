//! The round trips of a request, counted on the wire.

use std::time::Duration;

use axum::Router;
use support::{Counts, Database, Proxy};
use tokio::time::sleep;

use crate::{load::send, scenario::Scenario, tables::Tables, ways::Way};

/// The round trips of single requests on warm connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoundTrips {
    pub(crate) granted: Request,
    pub(crate) denied: Request,
    pub(crate) read: Option<Request>,
}

/// The round trips of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    /// Those before the response, one after the other.
    pub(crate) awaited: u128,
    /// These and the ones after the response.
    pub(crate) all: usize,
}

impl RoundTrips {
    pub(crate) async fn count(way: Way, tables: &Tables, database: &Database) -> Self {
        let proxy = Proxy::with_delay(database, ROUND_TRIP);
        let schema = tables.create(way.name()).await;
        let pool = way.pool(2, proxy.options().options(schema));
        let app = way.router(pool.clone());
        let mut read = None;
        if way.can_run(Scenario::READ) {
            read = Some(Request::count(&app, &proxy, Scenario::READ).await);
        }
        let trips = Self {
            granted: Request::count(&app, &proxy, Scenario::GRANTED).await,
            denied: Request::count(&app, &proxy, Scenario::DENIED).await,
            read,
        };
        pool.close().await;
        trips
    }
}

impl Request {
    async fn count(app: &Router, proxy: &Proxy, scenario: Scenario) -> Self {
        let mut trips = Vec::new();
        for _ in 0..15 {
            let before = total(proxy.counts());
            let exchange = send(app, scenario).await;
            assert!(exchange.expected);
            sleep(AFTER_RESPONSE).await;
            trips.push(Self {
                // One round trip takes longer than everything else together.
                awaited: exchange.latency.as_millis() / ROUND_TRIP.as_millis(),
                all: total(proxy.counts()) - before,
            });
        }
        // The first requests open connections and prepare statements, and what their policy reads
        // is looked at.
        let warm = trips.split_off(10);
        let mut all: Vec<_> = warm.iter().map(|trip| trip.all).collect();
        all.sort_unstable();
        Self {
            awaited: warm.iter().map(|trip| trip.awaited).min().unwrap(),
            all: all[all.len() / 2],
        }
    }
}

fn total(counts: Counts) -> usize {
    counts.round_trips + counts.pings
}

const ROUND_TRIP: Duration = Duration::from_millis(10);

/// Long enough for a ROLLBACK and a ping.
const AFTER_RESPONSE: Duration = Duration::from_millis(50);
