//! The judge is the database.

use std::{collections::HashSet, time::Duration};

use http::StatusCode;
use sqlx::{Connection as _, PgConnection};
use support::{Database, Kind};

use super::{
    administrator::Isolation,
    run::{Answer, Race},
    ways::Way,
};

/// What came of a race.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) requests: usize,
    /// Requests under way while the grant that they need was revoked.
    pub(crate) contested: usize,
    /// Answered 200.
    pub(crate) accepted: usize,
    /// Answered neither 200 nor 403.
    pub(crate) failed: usize,
    pub(crate) revoked: usize,
    /// Of these, first tried under READ COMMITTED, and refused by the guard.
    pub(crate) refused: usize,
    /// Writes beyond those that the revoking transaction saw.
    pub(crate) violations: i64,
    /// Of these, committed after the revocation was acknowledged.
    pub(crate) late: i64,
    /// Answered 200, but not stored.
    pub(crate) lost: usize,
    /// Stored, but not answered 200.
    pub(crate) stray: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) attempts: Option<Attempts>,
}

/// How often the layer ran a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempts {
    pub(crate) mean: f64,
    pub(crate) most: u32,
}

/// Each document is granted once and revoked once. So a write that the revoking transaction has not
/// seen is one without permission, whenever it is found.
const JUDGE: &str = "
    SELECT COALESCE(sum(stored - seen), 0)::INT8, COALESCE(sum(stored - acknowledged), 0)::INT8
    FROM revocations JOIN (SELECT document, count(*) AS stored FROM writes GROUP BY document) AS counted
        USING (document)
";

impl Verdict {
    /// Judges a race that is over.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub(crate) async fn on(race: &Race, database: &Database) -> Result<Self, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&database.options()).await?;
        let (violations, late) = sqlx::query_as(JUDGE).fetch_one(&mut connection).await?;
        let stored: Vec<i64> = sqlx::query_scalar("SELECT id FROM writes")
            .fetch_all(&mut connection)
            .await?;
        let stored: HashSet<i64> = stored.into_iter().collect();
        connection.close().await?;

        let answered = |status| {
            let answers = race.answers.iter();
            answers.filter(move |answer| answer.status == status)
        };
        let accepted: HashSet<i64> = answered(StatusCode::OK)
            .map(|answer| answer.write.id)
            .collect();
        let denied = answered(StatusCode::FORBIDDEN).count();
        let latencies = latencies(race);
        let refused = race.revocations.values().filter(|revoked| revoked.refused);
        Ok(Self {
            requests: race.answers.len(),
            contested: contested(race),
            accepted: accepted.len(),
            failed: race.answers.len() - accepted.len() - denied,
            revoked: race.revocations.len(),
            refused: refused.count(),
            violations,
            late,
            lost: accepted.difference(&stored).count(),
            stray: stored.difference(&accepted).count(),
            p50: percentile(&latencies, 0.50),
            p99: percentile(&latencies, 0.99),
            attempts: attempts(race),
        })
    }

    /// What must not have come of it, if it has.
    pub(crate) fn fault(&self, way: Way, isolation: Isolation, kind: Kind) -> Option<&'static str> {
        let unpermitted = match (isolation, kind) {
            (Isolation::Serializable | Isolation::Guarded, _) => self.violations,
            // The revoking transaction may miss a write before it, but nothing comes after it.
            (Isolation::ReadCommitted, Kind::CockroachDb) => self.late,
            (Isolation::ReadCommitted, Kind::PostgreSql) => 0,
        };
        if self.lost > 0 {
            Some("answered 200, but not stored")
        } else if way.is_ours() && self.stray > 0 {
            Some("stored, but not answered 200")
        } else if way.is_ours() && unpermitted > 0 {
            Some("written without permission")
        } else if isolation == Isolation::Guarded && self.refused < self.revoked {
            Some("the guard let a weaker revocation pass")
        } else if self.accepted == 0 || self.contested == 0 {
            Some("nobody has raced")
        } else if way == Way::OnThePool && self.late == 0 {
            Some("the naive way did not fail, so the race has proved nothing")
        } else {
            None
        }
    }
}

fn contested(race: &Race) -> usize {
    let met = |answer: &&Answer| {
        let revocation = race.revocations.get(&answer.write.document);
        revocation.is_some_and(|revocation| {
            answer.sent < revocation.acknowledged && revocation.begin_sent < answer.answered
        })
    };
    race.answers.iter().filter(met).count()
}

fn latencies(race: &Race) -> Vec<Duration> {
    let latency = |answer: &Answer| answer.answered - answer.sent;
    let mut latencies: Vec<Duration> = race.answers.iter().map(latency).collect();
    latencies.sort_unstable();
    latencies
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let at = (sorted.len() as f64 * part) as usize;
    sorted.get(at).copied().unwrap_or_default()
}

fn attempts(race: &Race) -> Option<Attempts> {
    let attempts: Vec<u32> = race
        .answers
        .iter()
        .filter_map(|answer| answer.attempts)
        .collect();
    Some(Attempts {
        most: attempts.iter().copied().max()?,
        mean: f64::from(attempts.iter().sum::<u32>()) / attempts.len() as f64,
    })
}
