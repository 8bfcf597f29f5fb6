//! The verdict on a race, read from the database.

use std::{collections::HashSet, time::Duration};

use http::StatusCode;
use sqlx::{Connection as _, PgConnection};
use support::{Database, Kind};

use crate::{
    administrator::Isolation,
    run::{Exchange, Race},
    way::Way,
};

/// The result of a race.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Requests sent.
    pub requests: usize,
    /// Requests in flight while the grant that they need was revoked.
    pub contested: usize,
    /// Requests with response 200.
    pub accepted: usize,
    /// Requests with a response other than 200 and 403.
    pub failed: usize,
    /// Grants revoked.
    pub revoked: usize,
    /// Revocations that the guard rejected under READ COMMITTED first.
    pub rejected: usize,
    /// Stored writes that the revoking transaction did not see.
    pub violations: i64,
    /// Violations that were committed after the revocation was acknowledged.
    pub late: i64,
    /// Writes with response 200 that are not stored.
    pub lost: usize,
    /// Stored writes whose response was not 200.
    pub stray: usize,
    /// The median latency.
    pub p50: Duration,
    /// The 99th percentile of the latencies.
    pub p99: Duration,
    /// The attempts of the layer, if the way has one.
    pub attempts: Option<Attempts>,
}

/// How many attempts the layer made for a request.
#[derive(Debug, Clone, Copy)]
pub struct Attempts {
    /// The mean of all requests.
    pub mean: f64,
    /// The maximum of all requests.
    pub max: u32,
}

/// Counts the violations, and those that are late.
///
/// Each document is granted once and revoked once. Therefore a write that the revoking transaction
/// did not see had no permission.
const VIOLATIONS: &str = "
    SELECT COALESCE(sum(stored - seen), 0)::INT8, COALESCE(sum(stored - acknowledged), 0)::INT8
    FROM revocations
    JOIN (SELECT document, count(*) AS stored FROM writes GROUP BY document) AS counted
        USING (document)
";

impl Verdict {
    /// Judges a race that has ended.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be read.
    pub async fn on(race: &Race, database: &Database) -> Result<Self, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&database.options()).await?;
        let (violations, late) = sqlx::query_as(VIOLATIONS)
            .fetch_one(&mut connection)
            .await?;
        let stored: Vec<i64> = sqlx::query_scalar("SELECT id FROM writes")
            .fetch_all(&mut connection)
            .await?;
        let stored: HashSet<i64> = stored.into_iter().collect();
        connection.close().await?;

        let with_status = |status| {
            let exchanges = race.exchanges.iter();
            exchanges.filter(move |exchange| exchange.status == status)
        };
        let accepted: HashSet<i64> = with_status(StatusCode::OK)
            .map(|exchange| exchange.write.id)
            .collect();
        let denied = with_status(StatusCode::FORBIDDEN).count();
        let latencies = latencies(race);
        let rejected = race.revocations.values().filter(|it| it.rejected);
        Ok(Self {
            requests: race.exchanges.len(),
            contested: contested(race),
            accepted: accepted.len(),
            failed: race.exchanges.len() - accepted.len() - denied,
            revoked: race.revocations.len(),
            rejected: rejected.count(),
            violations,
            late,
            lost: accepted.difference(&stored).count(),
            stray: stored.difference(&accepted).count(),
            p50: percentile(&latencies, 0.50),
            p99: percentile(&latencies, 0.99),
            attempts: attempts(race),
        })
    }

    /// Returns what makes the race a failure, if anything does.
    ///
    /// That is a broken promise of this crate, or a race that proves nothing.
    #[must_use]
    pub fn fault(&self, way: Way, isolation: Isolation, kind: Kind) -> Option<&'static str> {
        let unpermitted = match (isolation, kind) {
            (Isolation::Serializable | Isolation::Guarded, _) => self.violations,
            // The revoking transaction may miss an earlier write, but no write comes later.
            (Isolation::ReadCommitted, Kind::CockroachDb) => self.late,
            (Isolation::ReadCommitted, Kind::PostgreSql) => 0,
        };
        let overtaken = match kind {
            Kind::PostgreSql => self.late,
            // On a slow server few of them are late.
            Kind::CockroachDb => self.violations,
        };
        if self.lost > 0 {
            Some("a write with response 200 is not stored")
        } else if way.is_ours() && self.stray > 0 {
            Some("a write is stored whose response was not 200")
        } else if way.is_ours() && unpermitted > 0 {
            Some("a write is stored without permission")
        } else if isolation == Isolation::Guarded && self.rejected < self.revoked {
            Some("the guard accepted a READ COMMITTED revocation")
        } else if self.accepted == 0 || self.contested == 0 {
            Some("no request met a revocation")
        } else if way == Way::OnThePool && overtaken == 0 {
            Some("the naive way did not fail, so the race proves nothing")
        } else {
            None
        }
    }
}

fn contested(race: &Race) -> usize {
    let met = |exchange: &&Exchange| {
        let revocation = race.revocations.get(&exchange.write.document);
        revocation.is_some_and(|revocation| {
            exchange.sent < revocation.acknowledged && revocation.begin_sent < exchange.received
        })
    };
    race.exchanges.iter().filter(met).count()
}

fn latencies(race: &Race) -> Vec<Duration> {
    let latency = |exchange: &Exchange| exchange.received - exchange.sent;
    let mut latencies: Vec<Duration> = race.exchanges.iter().map(latency).collect();
    latencies.sort_unstable();
    latencies
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).copied().unwrap_or_default()
}

fn attempts(race: &Race) -> Option<Attempts> {
    let attempts: Vec<u32> = race
        .exchanges
        .iter()
        .filter_map(|exchange| exchange.attempts)
        .collect();
    Some(Attempts {
        max: attempts.iter().copied().max()?,
        mean: f64::from(attempts.iter().sum::<u32>()) / attempts.len() as f64,
    })
}
