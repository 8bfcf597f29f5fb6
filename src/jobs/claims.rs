//! Claims of due jobs.

use std::{sync::Arc, time::Duration};

use sqlx::{Row as _, postgres::PgRow};
use tokio::time::Instant;

use crate::{
    database::{Database, Server},
    error::{Error, sqlstate},
    jobs::{
        id::JobId,
        statements::{JobLease, id, query},
    },
    repeat::{Keeps, Repeatable, Repeater},
};

/// Claims due jobs for a worker.
///
/// A claim counts the run before it begins, so that a job that ends its process cannot do so for
/// ever. If the reply to a claim is lost, its jobs are due again at the end of the lease.
pub(crate) struct Claims {
    database: Arc<Database>,
    session: Repeater,
    kinds: Vec<&'static str>,
    lease: Duration,
    /// Jobs that were due when they were seen. Another worker may have claimed them since.
    seen: Vec<JobId>,
    window: Window,
}

/// A job that was claimed.
pub(crate) struct Claimed {
    pub(crate) lease: JobLease,
    /// When the run has to end. The lease ends later, so that the end of the run is recorded before
    /// another one begins.
    pub(crate) deadline: Instant,
    /// The runs that count towards the maximum, with this one.
    pub(crate) counted: u32,
    pub(crate) kind: String,
    pub(crate) principal: Option<Arc<str>>,
    /// As JSON.
    pub(crate) payload: String,
}

impl Claims {
    pub(crate) fn new(
        database: Arc<Database>,
        kinds: Vec<&'static str>,
        lease: Duration,
        concurrency: usize,
    ) -> Self {
        Self {
            session: Repeater::new(&database, Keeps::Connection),
            database,
            kinds,
            lease,
            seen: Vec::new(),
            window: Window::new(concurrency),
        }
    }

    /// Claims up to `count` due jobs, and fewer only if no more can be had now.
    ///
    /// Dropped, the claim is finished in the background, and its jobs are due again when their
    /// leases end.
    ///
    /// # Errors
    ///
    /// Returns the error of the database, or `Misconfigured`.
    pub(crate) async fn claim(&mut self, count: usize) -> Result<Vec<Claimed>, Error> {
        if self.database.known_server().is_none() {
            self.database.inspect().await?;
        }
        match self.database.known_server() {
            Some(Server::PostgreSql) => self.claim_due(count).await,
            Some(Server::CockroachDb) | None => self.claim_seen(count).await,
        }
    }

    /// PostgreSQL skips the rows that another worker is claiming, or that a request holds because it
    /// enqueues the job again.
    async fn claim_due(&mut self, count: usize) -> Result<Vec<Claimed>, Error> {
        // The kinds are taken in this order, and none is to be always the last one.
        fastrand::shuffle(&mut self.kinds);
        let (kinds, lease) = (self.kinds.clone(), self.lease);
        self.run(move |database, sql| {
            let kinds = kinds.clone();
            Box::pin(async move {
                let deadline = Instant::now() + time_to_run(lease);
                let claiming = query(database, CLAIM_DUE)
                    .bind(lease.as_secs_f64())
                    .bind(kinds)
                    .bind(to_limit(count));
                let rows = claiming.fetch_all(sql).await?;
                rows.iter().map(|row| claimed(row, deadline)).collect()
            })
        })
        .await
    }

    /// CockroachDB has no SKIP LOCKED that does. It is asked for due jobs, which locks nothing, and
    /// some of those are claimed by their ids. A job that a request holds, because it enqueues it
    /// again, is left out.
    async fn claim_seen(&mut self, count: usize) -> Result<Vec<Claimed>, Error> {
        let (mut all, mut at_once, mut left_out) = (Vec::new(), count, false);
        while all.len() < count {
            if self.seen.is_empty() && !left_out {
                self.seen = match self.look().await {
                    Err(error) if all.is_empty() => return Err(error),
                    seen => seen.unwrap_or_default(),
                };
            }
            let free = at_once.min(count - all.len());
            let rest = self.seen.len().saturating_sub(free);
            let wanted = self.seen.split_off(rest);
            if wanted.is_empty() {
                break;
            }
            match self.claim_ids(&wanted).await {
                Ok(won) => {
                    self.window.note(won.len(), wanted.len());
                    all.extend(won);
                }
                Err(error) if is_held(&error) && wanted.len() > 1 => {
                    self.seen.extend(wanted);
                    at_once = 1;
                }
                Err(error) if is_held(&error) => {
                    self.window.note(0, 1);
                    left_out = true;
                }
                Err(error) if all.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(all)
    }

    /// Looks for due jobs, in random order: workers that took the same jobs in the same order would
    /// always meet.
    async fn look(&mut self) -> Result<Vec<JobId>, Error> {
        let (kinds, limit) = (self.kinds.clone(), self.window.limit());
        let looking = self.run(move |database, sql| {
            let kinds = kinds.clone();
            Box::pin(async move {
                let looking = query(database, LOOK).bind(kinds).bind(to_limit(limit));
                let rows = looking.fetch_all(sql).await?;
                rows.iter().map(id).collect::<Result<Vec<_>, _>>()
            })
        });
        let mut seen = looking.await?;
        fastrand::shuffle(&mut seen);
        seen.truncate(self.window.taken);
        Ok(seen)
    }

    async fn claim_ids(&mut self, wanted: &[JobId]) -> Result<Vec<Claimed>, Error> {
        let wanted: Vec<_> = wanted.iter().map(JobId::to_string).collect();
        let lease = self.lease;
        self.run(move |database, sql| {
            let wanted = wanted.clone();
            Box::pin(async move {
                let deadline = Instant::now() + time_to_run(lease);
                let claiming = query(database, CLAIM_IDS)
                    .bind(lease.as_secs_f64())
                    .bind(wanted);
                let rows = claiming.fetch_all(sql).await?;
                rows.iter().map(|row| claimed(row, deadline)).collect()
            })
        })
        .await
    }

    async fn run<T: Send + 'static>(&mut self, claim: impl Repeatable<T>) -> Result<T, Error> {
        self.session
            .run(Instant::now() + CLAIM_TIMEOUT, claim)
            .await
    }
}

/// Whether another transaction holds a row.
fn is_held(error: &Error) -> bool {
    error.sqlstate() == Some(sqlstate::LOCK_NOT_AVAILABLE)
}

/// How much of a lease a run may take.
fn time_to_run(lease: Duration) -> Duration {
    lease.saturating_sub(LONGEST_RECORDING.min(lease / 8))
}

fn claimed(row: &PgRow, deadline: Instant) -> Result<Claimed, sqlx::Error> {
    let run: i32 = row.try_get("runs")?;
    let before: i32 = row.try_get("runs_before")?;
    let principal: Option<&str> = row.try_get("principal")?;
    Ok(Claimed {
        lease: JobLease { id: id(row)?, run },
        deadline,
        counted: u32::try_from(run.saturating_sub(before)).unwrap_or_default(),
        kind: row.try_get("kind")?,
        principal: principal.map(Arc::from),
        payload: row.try_get("payload")?,
    })
}

fn to_limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

const CLAIM_DUE: &str = "\
    UPDATE {table} SET runs = runs + 1, leased = true, \
        run_at = now() + $1::FLOAT8 * INTERVAL '1 second' \
    WHERE id = ANY (ARRAY( \
        SELECT due.id FROM unnest($2::TEXT[]) AS kinds (kind) CROSS JOIN LATERAL ( \
            SELECT id FROM {table} AS job \
            WHERE job.kind = kinds.kind AND live AND run_at <= now() \
            ORDER BY run_at LIMIT $3 FOR UPDATE SKIP LOCKED) AS due \
        LIMIT $3)) \
    RETURNING id::TEXT AS id, kind, principal, payload::TEXT AS payload, runs, runs_before";

/// For each kind on its own, so that none is hidden behind the jobs of another one.
const LOOK: &str = "\
    SELECT due.id::TEXT AS id FROM unnest($1::TEXT[]) AS kinds (kind) CROSS JOIN LATERAL ( \
        SELECT id FROM {table} AS job \
        WHERE job.kind = kinds.kind AND live AND run_at <= now() \
        ORDER BY run_at LIMIT $2) AS due";

const CLAIM_IDS: &str = "\
    UPDATE {table} SET runs = runs + 1, leased = true, \
        run_at = now() + $1::FLOAT8 * INTERVAL '1 second' \
    WHERE id = ANY ($2::TEXT[]::UUID[]) AND live AND run_at <= now() \
    RETURNING id::TEXT AS id, kind, principal, payload::TEXT AS payload, runs, runs_before";

/// All of the statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[CLAIM_DUE, LOOK, CLAIM_IDS];

/// How long the database may take for a statement. Then the next poll asks again.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(3);

/// How much of a lease is left to record the end of the run, unless an eighth of it is less.
const LONGEST_RECORDING: Duration = Duration::from_secs(1);

/// How far to look, so that workers seldom meet: the more claims are lost, the further.
#[derive(Debug)]
struct Window {
    /// How many of the jobs that are looked at are taken.
    taken: usize,
    doublings: u32,
    won: usize,
    lost: usize,
}

impl Window {
    fn new(concurrency: usize) -> Self {
        Self {
            taken: concurrency.saturating_mul(JOBS_PER_PLACE),
            doublings: 0,
            won: 0,
            lost: 0,
        }
    }

    /// How many jobs of each kind to look at.
    fn limit(&mut self) -> usize {
        if self.lost > self.won / 4 {
            self.doublings = (self.doublings + 1).min(MAX_DOUBLINGS);
        } else if self.lost == 0 {
            self.doublings = self.doublings.saturating_sub(1);
        }
        (self.won, self.lost) = (0, 0);
        self.taken << self.doublings
    }

    /// Notes that some of the wanted jobs were won. The others went to other workers.
    fn note(&mut self, won: usize, wanted: usize) {
        self.won += won;
        self.lost += wanted.saturating_sub(won);
    }
}

/// How many jobs are taken from one look at the queue, for each job that may run at a time.
const JOBS_PER_PLACE: usize = 4;
const MAX_DOUBLINGS: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_widens_while_claims_are_lost() {
        let mut window = Window::new(2);
        assert_eq!(window.limit(), 8);
        for _ in 0..20 {
            window.note(0, 1);
            window.limit();
        }
        window.note(0, 1);
        assert_eq!(window.limit(), 8 << MAX_DOUBLINGS);
        for _ in 0..20 {
            window.note(1, 1);
            window.limit();
        }
        assert_eq!(window.limit(), 8);
    }
}
