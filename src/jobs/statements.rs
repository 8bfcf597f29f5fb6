//! The statements on the table of jobs, but for the claims. CockroachDB and PostgreSQL understand
//! all of them.
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
    FINISH,
    RETRY_LATER,
    END,
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
    query: "SELECT id, kind, principal, payload, unique_key, run_at, leased, runs, \
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

/// The lease of a job: it is valid as long as the job has this number of runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobLease {
    pub(crate) id: JobId,
    pub(crate) run: i32,
}

/// Stores a job, and returns the id of the job that is queued: its own, or that of the one with the
/// same key.
///
/// The job that is queued is written. If it is running, it is so on a snapshot that does not have
/// this transaction: a COMMIT is retried then, and any other end is none. Its runs are counted anew.
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
    ON CONFLICT (unique_key, live) DO UPDATE SET runs_before = job.runs \
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

/// Ends a job that is not done. `false` if the lease is not valid, or the job was enqueued again
/// since it was claimed. Repeated, it has the same effect.
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
    WHERE id = $1::UUID AND runs = $2 AND (live AND runs_before < runs OR ended = $3)";

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
