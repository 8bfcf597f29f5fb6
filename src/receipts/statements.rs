//! The statements on the table of receipts. CockroachDB and PostgreSQL understand all of them.

use std::{sync::Arc, time::Duration};

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use tokio::time::Instant;

use crate::{
    database::{Database, RequiredTable},
    error::Error,
    receipts::{
        key::{AttemptId, ReceiptKey},
        receipt::{Receipt, Stored},
    },
};

pub(crate) const REQUIRED_TABLE: RequiredTable = RequiredTable {
    name: TABLE,
    query: "SELECT key, attempt, status, fingerprint, principal, policies, method, path, attempts, \
            detail, headers, body, at, expires_at FROM interlock_receipts LIMIT 0",
    missing: "the table interlock_receipts is missing, outdated or not readable, run \
              schema::RECEIPTS (sql/receipts.sql)",
};

pub(crate) const TABLE: &str = "interlock_receipts";

/// All of the statements.
pub(crate) const STATEMENTS: &[&str] = &[REQUIRED_TABLE.query, STORE, FIND, FENCE, PURGE];

/// Stores a receipt as the last statement of its transaction. `false` if its key is used: by
/// another copy of the work, which has committed.
///
/// It takes the place of one that has expired, and of one that is void, unless this very attempt was
/// voided.
pub(crate) async fn store(
    database: &Database,
    sql: &mut PgConnection,
    receipt: &Receipt,
) -> Result<bool, sqlx::Error> {
    let response = receipt.response.as_ref();
    let stored = sqlx::query(database.text(STORE, TABLE))
        .bind(receipt.key.as_bytes())
        .bind(receipt.attempt.as_bytes())
        .bind(i32::from(receipt.status))
        .bind(receipt.fingerprint.as_ref().map(|it| it.as_bytes()))
        .bind(receipt.principal.as_deref())
        .bind(&receipt.names)
        .bind(&receipt.method)
        .bind(&receipt.path)
        .bind(i32::try_from(receipt.attempts).unwrap_or(i32::MAX))
        .bind(receipt.notes.as_ref())
        .bind(response.map(|it| &it.headers))
        .bind(response.and_then(|it| it.body.as_ref()))
        .bind(receipt.valid_for.as_secs_f64())
        .execute(sql)
        .await?;
    Ok(stored.rows_affected() == 1)
}

const STORE: &str = "\
    INSERT INTO {table} AS receipt (key, attempt, status, fingerprint, principal, policies, method, \
        path, attempts, detail, headers, body, expires_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, \
        now() + $13::FLOAT8 * INTERVAL '1 second') \
    ON CONFLICT (key) DO UPDATE SET attempt = excluded.attempt, status = excluded.status, \
        fingerprint = excluded.fingerprint, principal = excluded.principal, \
        policies = excluded.policies, method = excluded.method, path = excluded.path, \
        attempts = excluded.attempts, detail = excluded.detail, headers = excluded.headers, \
        body = excluded.body, at = excluded.at, expires_at = excluded.expires_at \
    WHERE (receipt.status = 0 AND receipt.attempt <> excluded.attempt) \
        OR receipt.expires_at <= now()";

/// Finds the receipt of work that was committed.
///
/// It runs outside of the transaction. Inside, PostgreSQL would take a predicate lock on a page of
/// the index, and requests that have nothing in common would conflict.
pub(crate) async fn find(
    database: &Arc<Database>,
    key: ReceiptKey,
    limit: Instant,
) -> Result<Option<Stored>, Error> {
    let finding = database.run_repeatable(limit, move |database, sql| {
        Box::pin(async move { find_on(database, sql, &key).await })
    });
    finding.await
}

async fn find_on(
    database: &Database,
    sql: &mut PgConnection,
    key: &ReceiptKey,
) -> Result<Option<Stored>, sqlx::Error> {
    let row = sqlx::query(database.text(FIND, TABLE))
        .bind(key.as_bytes())
        .fetch_optional(sql);
    row.await?.as_ref().map(stored).transpose()
}

const FIND: &str = "\
    SELECT attempt, status, fingerprint, headers, body FROM {table} \
    WHERE key = $1 AND status <> 0 AND expires_at > now()";

fn stored(row: &PgRow) -> Result<Stored, sqlx::Error> {
    let status: i32 = row.try_get("status")?;
    Ok(Stored {
        attempt: row.try_get("attempt")?,
        status: u16::try_from(status).map_err(|error| sqlx::Error::Decode(error.into()))?,
        fingerprint: row.try_get("fingerprint")?,
        headers: row.try_get("headers")?,
        body: row.try_get("body")?,
    })
}

/// The outcome of an attempt whose COMMIT was not acknowledged.
pub(crate) enum Decided {
    /// It is not committed, and never will be.
    Void,
    Committed,
}

/// Decides an attempt that has stored its receipt, if that is still open.
///
/// The statement waits until the transaction of the attempt has ended, as it inserts the same key.
/// Afterwards there is a receipt, or this void one, which the attempt cannot replace.
pub(crate) async fn fence(
    database: &Database,
    sql: &mut PgConnection,
    key: &ReceiptKey,
    attempt: &AttemptId,
    valid_for: Duration,
) -> Result<Decided, sqlx::Error> {
    let voided = sqlx::query(database.text(FENCE, TABLE))
        .bind(key.as_bytes())
        .bind(attempt.as_bytes())
        .bind(valid_for.as_secs_f64())
        .execute(&mut *sql)
        .await?;
    if voided.rows_affected() == 1 {
        return Ok(Decided::Void);
    }
    // Where another attempt's receipt stands, this attempt's is not stored.
    Ok(match find_on(database, sql, key).await? {
        Some(stored) if stored.is_of(attempt) => Decided::Committed,
        Some(_) => Decided::Void,
        None => return Err(sqlx::Error::RowNotFound),
    })
}

const FENCE: &str = "\
    INSERT INTO {table} AS receipt (key, attempt, status, expires_at) \
    VALUES ($1, $2, 0, now() + $3::FLOAT8 * INTERVAL '1 second') \
    ON CONFLICT (key) DO UPDATE SET attempt = excluded.attempt, status = 0, \
        expires_at = excluded.expires_at \
    WHERE receipt.status = 0 OR receipt.expires_at <= now()";

/// Removes expired receipts until none is left or `limit` has passed, and returns how many were
/// acknowledged.
pub(crate) async fn purge(database: &Arc<Database>, limit: Instant) -> Result<u64, Error> {
    let mut removed = 0;
    loop {
        let purging = database.run_repeatable(limit, |database, sql| {
            let purging = sqlx::query(database.text(PURGE, TABLE)).execute(sql);
            Box::pin(async move { Ok(purging.await?.rows_affected()) })
        });
        let count = purging.await?;
        removed += count;
        if count < PURGED_AT_ONCE || Instant::now() >= limit {
            return Ok(removed);
        }
    }
}

const PURGED_AT_ONCE: u64 = 1_000;

/// The age is checked twice: below SERIALIZABLE, an expired receipt may be replaced between the look
/// and the removal.
const PURGE: &str = "\
    DELETE FROM {table} WHERE expires_at <= now() AND key IN \
    (SELECT key FROM {table} WHERE expires_at <= now() ORDER BY expires_at LIMIT 1000)";
