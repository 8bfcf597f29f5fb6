//! The queue as an operator sees it: its state, and the jobs that have ended without being done.

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{Row as _, postgres::PgRow};
use tokio::time::Instant;

use crate::{
    attempt::Limits,
    database::Database,
    error::{Error, ErrorKind},
    jobs::{
        id::JobId,
        statements::{DENIED, PARKED, id, query},
    },
};

/// The queue of jobs, from [`Interlock::jobs`](crate::Interlock::jobs): its state, and what to do
/// about jobs that have ended without being done.
///
/// Each call runs one statement outside of any transaction, until the
/// [`deadline`](crate::InterlockBuilder::deadline). Dropped, it is finished in the background. It
/// checks no permission: do not offer it to everyone.
#[derive(Clone, Copy)]
pub struct Jobs<'i> {
    database: &'i Arc<Database>,
    limits: Limits,
}

/// The jobs of one kind, when the state of the queue was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KindState {
    /// Their kind.
    pub kind: String,
    /// Jobs that are due. If no worker knows their kind, they stay here.
    pub due: u64,
    /// Jobs that will be due later: they were delayed, or their last run has failed.
    pub waiting: u64,
    /// Jobs that a worker has.
    pub running: u64,
    /// Jobs that have ended after too many runs, or with a payload that no handler understands.
    pub parked: u64,
    /// Jobs that have ended because a rule denied them.
    pub denied: u64,
    /// How long the oldest of the due jobs has been due: the figure to set an alarm on.
    pub lag: Duration,
}

/// Why a job has ended without being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobEnding {
    /// A rule has denied it.
    Denied,
    /// It has failed too often, or its payload cannot be decoded.
    Parked,
}

/// A job that has ended without being done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedJob {
    /// Its id.
    pub id: JobId,
    /// Its kind.
    pub kind: String,
    /// Who it was enqueued for.
    pub principal: Option<String>,
    /// Its payload, as JSON.
    pub payload: String,
    /// How often it was claimed. If it is parked because its runs did not end, it was claimed once
    /// more for that.
    pub runs: u32,
    /// Why it has ended.
    pub ending: JobEnding,
    /// The reason of the denial, or the error of the last run.
    pub reason: String,
    /// How long ago it has ended.
    pub age: Duration,
}

impl<'i> Jobs<'i> {
    pub(crate) fn new(database: &'i Arc<Database>, limits: Limits) -> Self {
        Self { database, limits }
    }

    /// Returns the number of jobs of each kind that has any. It reads the whole table.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub async fn state(self) -> Result<Vec<KindState>, Error> {
        let counting = self.database.run_repeatable(self.limit(), |database, sql| {
            Box::pin(async move {
                let rows = query(database, STATE).fetch_all(sql).await?;
                rows.iter().map(kind_state).collect()
            })
        });
        counting.await
    }

    /// Returns up to `limit` jobs that have ended without being done, the latest first.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub async fn ended(self, limit: u32) -> Result<Vec<EndedJob>, Error> {
        let listing = self
            .database
            .run_repeatable(self.limit(), move |database, sql| {
                Box::pin(async move {
                    let rows = query(database, ENDED)
                        .bind(i64::from(limit))
                        .fetch_all(sql)
                        .await?;
                    rows.iter().map(ended_job).collect()
                })
            });
        listing.await
    }

    /// Makes a parked job due again, with as many runs as a new one. Returns whether there was one
    /// with this id: a job that was denied is not retried.
    ///
    /// # Errors
    ///
    /// Returns [`ConstraintViolation`](ErrorKind::ConstraintViolation) if another job with the same
    /// unique key is queued, and else the error of the database.
    pub async fn retry(self, job: JobId) -> Result<bool, Error> {
        self.change(RETRY, job).await
    }

    /// Deletes a job that has ended without being done. Returns whether there was one with this id.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub async fn discard(self, job: JobId) -> Result<bool, Error> {
        self.change(DISCARD, job).await
    }

    /// Deletes the jobs that have ended without being done at least `age` ago, and returns how many.
    /// It deletes a thousand at a time, until the deadline.
    ///
    /// # Errors
    ///
    /// Returns the error of the database. Those that were deleted stay deleted.
    pub async fn discard_older(self, age: Duration) -> Result<u64, Error> {
        let (limit, seconds) = (self.limit(), age.min(LONGEST_AGE).as_secs_f64());
        let mut discarded = 0;
        loop {
            let discarding = self.database.run_repeatable(limit, move |database, sql| {
                Box::pin(async move {
                    let done = query(database, DISCARD_OLDER)
                        .bind(seconds)
                        .execute(sql)
                        .await?;
                    Ok(done.rows_affected())
                })
            });
            let count = discarding.await?;
            discarded += count;
            if count < DISCARDED_AT_ONCE || Instant::now() >= limit {
                return Ok(discarded);
            }
        }
    }

    async fn change(self, statement: &'static str, job: JobId) -> Result<bool, Error> {
        let changing = self
            .database
            .run_repeatable(self.limit(), move |database, sql| {
                let changed = query(database, statement)
                    .bind(job.to_string())
                    .execute(sql);
                Box::pin(async move { Ok(changed.await?.rows_affected()) })
            });
        match changing.await {
            // Repeated after a lost reply, it finds the job changed already.
            Ok(rows) => Ok(rows == 1),
            Err(error) if error.violation().is_some() => {
                Err(error.with_kind(ErrorKind::ConstraintViolation))
            }
            Err(error) => Err(error),
        }
    }

    fn limit(self) -> Instant {
        Instant::now() + self.limits.deadline
    }
}

impl fmt::Debug for Jobs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").finish_non_exhaustive()
    }
}

fn kind_state(row: &PgRow) -> Result<KindState, sqlx::Error> {
    Ok(KindState {
        kind: row.try_get("kind")?,
        due: count(row, "due")?,
        waiting: count(row, "waiting")?,
        running: count(row, "running")?,
        parked: count(row, "parked")?,
        denied: count(row, "denied")?,
        lag: duration(row, "lag")?,
    })
}

fn ended_job(row: &PgRow) -> Result<EndedJob, sqlx::Error> {
    let ending: &str = row.try_get("ended")?;
    let runs: i32 = row.try_get("runs")?;
    Ok(EndedJob {
        id: id(row)?,
        kind: row.try_get("kind")?,
        principal: row.try_get("principal")?,
        payload: row.try_get("payload")?,
        runs: u32::try_from(runs).unwrap_or_default(),
        ending: if ending == DENIED {
            JobEnding::Denied
        } else {
            JobEnding::Parked
        },
        reason: row.try_get::<Option<_>, _>("reason")?.unwrap_or_default(),
        age: duration(row, "age")?,
    })
}

fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    let count: i64 = row.try_get(column)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

fn duration(row: &PgRow, column: &str) -> Result<Duration, sqlx::Error> {
    let seconds: Option<f64> = row.try_get(column)?;
    Ok(Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default())
}

/// All of the statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[STATE, ENDED, RETRY, DISCARD, DISCARD_OLDER];

const STATE: &str = "\
    SELECT kind, \
        count(*) FILTER (WHERE live AND run_at <= now()) AS due, \
        count(*) FILTER (WHERE live AND run_at > now() AND NOT leased) AS waiting, \
        count(*) FILTER (WHERE live AND run_at > now() AND leased) AS running, \
        count(*) FILTER (WHERE ended = 'parked') AS parked, \
        count(*) FILTER (WHERE ended = 'denied') AS denied, \
        extract(epoch FROM now() - min(run_at) FILTER (WHERE live AND run_at <= now()))::FLOAT8 \
            AS lag \
    FROM {table} GROUP BY kind ORDER BY kind";

const ENDED: &str = "\
    SELECT id::TEXT AS id, kind, principal, payload::TEXT AS payload, runs, ended, reason, \
        extract(epoch FROM now() - ended_at)::FLOAT8 AS age \
    FROM {table} WHERE ended IS NOT NULL ORDER BY ended_at DESC LIMIT $1";

/// The number of runs goes on: it is the token of leases that may still be held.
const RETRY: &str = "\
    UPDATE {table} SET live = true, ended = NULL, ended_at = NULL, runs_before = runs, \
        run_at = now() \
    WHERE id = $1::UUID AND ended = 'parked'";

const DISCARD: &str = "DELETE FROM {table} WHERE id = $1::UUID AND ended IS NOT NULL";

const DISCARD_OLDER: &str = "\
    DELETE FROM {table} WHERE id IN (\
        SELECT id FROM {table} \
        WHERE ended IS NOT NULL AND ended_at <= now() - $1::FLOAT8 * INTERVAL '1 second' \
        ORDER BY ended_at LIMIT 1000)";

const DISCARDED_AT_ONCE: u64 = 1_000;

/// A century: the servers cannot subtract just any interval.
const LONGEST_AGE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

// The texts above have these names.
const _: () = assert!(matches!(
    (DENIED.as_bytes(), PARKED.as_bytes()),
    (b"denied", b"parked")
));
