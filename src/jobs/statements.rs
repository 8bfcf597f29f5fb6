//! The statements on the table of jobs. CockroachDB and PostgreSQL understand all of them.
//!
//! All times are those of the database. A worker measures durations only, so its clock may jump.

use std::time::Duration;

use serde_json::Value;
use sqlx::{
    PgConnection, Postgres, Row as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    database::{Database, RequiredTable},
    jobs::id::JobId,
};

pub(crate) const TABLE: &str = "interlock_jobs";

/// All of the statements of this file.
pub(crate) const STATEMENTS: &[&str] = &[
    REQUIRED_TABLE.query,
    ENQUEUE,
    FREE_KEY,
    PEEK,
    CLAIM,
    FINISH,
    RETRY_LATER,
    END,
    GIVE_UP,
    EXISTS,
];

/// A statement on the table of jobs.
pub(crate) fn query(
    database: &Database,
    statement: &'static str,
) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(database.text(statement, TABLE))
}

pub(crate) const REQUIRED_TABLE: RequiredTable = RequiredTable {
    name: TABLE,
    query: "SELECT id, kind, principal, payload, unique_key, requests, run_at, leased, runs, \
            runs_before, live, ended, reason, enqueued_at, ended_at FROM interlock_jobs LIMIT 0",
    missing: "the table interlock_jobs is missing, outdated or not readable, run schema::JOBS \
              (sql/jobs.sql)",
};

/// A job that is to be stored.
pub(crate) struct NewJob<'j> {
    pub(crate) id: JobId,
    pub(crate) kind: &'static str,
    pub(crate) principal: Option<&'j str>,
    pub(crate) payload: &'j Value,
    pub(crate) unique_key: Option<&'j [u8]>,
    pub(crate) delay: Duration,
}

/// A job that was due when it was seen. Another worker may have claimed it since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) id: JobId,
    pub(crate) runs: i32,
    /// The runs that count towards the maximum.
    pub(crate) counted: i32,
}

/// The lease of a job: it is valid as long as the job has this number of runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobLease {
    pub(crate) id: JobId,
    pub(crate) run: i32,
}

/// The content of a job that was claimed.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) kind: String,
    pub(crate) principal: Option<String>,
    pub(crate) payload: Value,
}

/// Stores a job, and returns the id of the job that is queued: its own, or that of the one with the
/// same key.
///
/// The job that is queued is written, so that it is retried if it is running on a snapshot that
/// does not have this transaction.
pub(crate) async fn enqueue(
    database: &Database,
    sql: &mut PgConnection,
    job: &NewJob<'_>,
) -> Result<JobId, sqlx::Error> {
    let stored = query(database, ENQUEUE)
        .bind(job.id.to_string())
        .bind(job.kind)
        .bind(job.principal)
        .bind(job.payload)
        .bind(job.unique_key)
        .bind(job.delay.as_secs_f64());
    id(&stored.fetch_one(sql).await?)
}

const ENQUEUE: &str = "\
    INSERT INTO {table} AS job (id, kind, principal, payload, unique_key, run_at) \
    VALUES ($1::UUID, $2, $3, $4, $5, now() + $6::FLOAT8 * INTERVAL '1 second') \
    ON CONFLICT (unique_key, live) DO UPDATE SET requests = job.requests + 1 \
    RETURNING id::TEXT AS id";

/// Frees the unique key of a job.
pub(crate) async fn free_key(
    database: &Database,
    sql: &mut PgConnection,
    id: JobId,
) -> Result<(), sqlx::Error> {
    query(database, FREE_KEY)
        .bind(id.to_string())
        .execute(sql)
        .await?;
    Ok(())
}

const FREE_KEY: &str = "UPDATE {table} SET unique_key = NULL WHERE id = $1::UUID";

/// Up to `limit` due jobs of each kind. No kind is hidden behind the jobs of another one.
pub(crate) async fn peek(
    database: &Database,
    sql: &mut PgConnection,
    kinds: &[&'static str],
    limit: i64,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let due = query(database, PEEK).bind(kinds).bind(limit).fetch_all(sql);
    due.await?.iter().map(candidate).collect()
}

fn candidate(row: &PgRow) -> Result<Candidate, sqlx::Error> {
    let runs: i32 = row.try_get("runs")?;
    let before: i32 = row.try_get("runs_before")?;
    Ok(Candidate {
        id: id(row)?,
        runs,
        counted: runs.saturating_sub(before),
    })
}

const PEEK: &str = "\
    SELECT due.id::TEXT AS id, due.runs, due.runs_before \
    FROM unnest($1::TEXT[]) AS kinds (kind) CROSS JOIN LATERAL ( \
        SELECT id, runs, runs_before FROM {table} AS job \
        WHERE job.kind = kinds.kind AND live AND run_at <= now() \
        ORDER BY run_at LIMIT $2) AS due";

/// Claims a job. `None` if it is not due any more: another worker has it, or it is done.
///
/// The run is counted before it begins, so that a job that ends its process cannot do so for ever.
/// If the reply is lost, the job is due again at the end of the lease.
pub(crate) async fn claim(
    database: &Database,
    sql: &mut PgConnection,
    candidate: Candidate,
    lease: Duration,
) -> Result<Option<Claimed>, sqlx::Error> {
    let claiming = query(database, CLAIM)
        .bind(candidate.id.to_string())
        .bind(candidate.runs)
        .bind(lease.as_secs_f64())
        .fetch_optional(sql);
    let Some(row) = claiming.await? else {
        return Ok(None);
    };
    Ok(Some(Claimed {
        kind: row.try_get("kind")?,
        principal: row.try_get("principal")?,
        payload: row.try_get("payload")?,
    }))
}

const CLAIM: &str = "\
    UPDATE {table} SET runs = runs + 1, leased = true, \
        run_at = now() + $3::FLOAT8 * INTERVAL '1 second' \
    WHERE id = $1::UUID AND runs = $2 AND live AND run_at <= now() \
    RETURNING kind, principal, payload";

/// Deletes a job in the transaction in which it is done. `false` if the lease is not valid.
pub(crate) async fn finish(
    database: &Database,
    sql: &mut PgConnection,
    lease: JobLease,
) -> Result<bool, sqlx::Error> {
    let finishing = query(database, FINISH)
        .bind(lease.id.to_string())
        .bind(lease.run)
        .execute(sql);
    Ok(finishing.await?.rows_affected() == 1)
}

const FINISH: &str = "DELETE FROM {table} WHERE id = $1::UUID AND runs = $2 AND live";

/// Makes a job due after a pause. `false` if the lease is not valid.
///
/// A COMMIT of the run that is still under way holds the row, so this waits for it.
pub(crate) async fn retry_later(
    database: &Database,
    sql: &mut PgConnection,
    lease: JobLease,
    pause: Duration,
    reason: &str,
) -> Result<bool, sqlx::Error> {
    let failing = query(database, RETRY_LATER)
        .bind(lease.id.to_string())
        .bind(lease.run)
        .bind(pause.as_secs_f64())
        .bind(reason)
        .execute(sql);
    Ok(failing.await?.rows_affected() == 1)
}

const RETRY_LATER: &str = "\
    UPDATE {table} SET leased = false, reason = $4, \
        run_at = now() + $3::FLOAT8 * INTERVAL '1 second' \
    WHERE id = $1::UUID AND runs = $2 AND live";

/// How a job has ended that is not done.
pub(crate) const DENIED: &str = "denied";
pub(crate) const PARKED: &str = "parked";

/// Ends a job that is not done. `false` if the lease is not valid. Repeated, it has the same effect.
pub(crate) async fn end(
    database: &Database,
    sql: &mut PgConnection,
    lease: JobLease,
    ended: &'static str,
    reason: &str,
) -> Result<bool, sqlx::Error> {
    let ending = query(database, END)
        .bind(lease.id.to_string())
        .bind(lease.run)
        .bind(ended)
        .bind(reason)
        .execute(sql);
    Ok(ending.await?.rows_affected() == 1)
}

const END: &str = "\
    UPDATE {table} SET live = NULL, leased = false, ended = $3, reason = $4, \
        ended_at = now() \
    WHERE id = $1::UUID AND runs = $2 AND (live OR ended = $3)";

/// Parks a job whose last run has ended with its lease, and returns its kind and its principal.
/// `None` if it is not due any more.
pub(crate) async fn give_up(
    database: &Database,
    sql: &mut PgConnection,
    candidate: Candidate,
) -> Result<Option<(String, Option<String>)>, sqlx::Error> {
    let giving_up = sqlx::query_as(database.text(GIVE_UP, TABLE))
        .bind(candidate.id.to_string())
        .bind(candidate.runs)
        .bind(GIVEN_UP)
        .fetch_optional(sql);
    giving_up.await
}

/// The reason of a job that was parked because its runs do not end.
pub(crate) const GIVEN_UP: &str = "too many runs; the last one has ended with its lease: its process was killed, or lost the database";

const GIVE_UP: &str = "\
    UPDATE {table} SET live = NULL, leased = false, ended = 'parked', reason = $3, \
        ended_at = now() \
    WHERE id = $1::UUID AND runs = $2 AND live AND run_at <= now() \
    RETURNING kind, principal";

/// Whether there is a job with this id.
pub(crate) async fn exists(
    database: &Database,
    sql: &mut PgConnection,
    id: JobId,
) -> Result<bool, sqlx::Error> {
    let finding = query(database, EXISTS)
        .bind(id.to_string())
        .fetch_optional(sql);
    Ok(finding.await?.is_some())
}

const EXISTS: &str = "SELECT 1 FROM {table} WHERE id = $1::UUID";

/// The id in a row.
pub(crate) fn id(row: &PgRow) -> Result<JobId, sqlx::Error> {
    let id: &str = row.try_get("id")?;
    id.parse().map_err(|error| {
        sqlx::Error::Decode(Box::<dyn std::error::Error + Send + Sync>::from(error))
    })
}
