//! Replies of the server: how long they are awaited, and those that are pending.

#![expect(clippy::disallowed_methods, reason = "pending replies are read here")]

use std::{io, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _, SqlSafeStr as _,
};
use tokio::time::timeout;

use crate::error::{Error, ErrorKind};

/// Awaits a reply for at most `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    reply: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let reply = timeout(limit, reply).await;
    reply.unwrap_or_else(|_| timed_out())
}

/// The error of a reply that was not awaited any longer.
pub(crate) fn timed_out<T>() -> Result<T, sqlx::Error> {
    Err(io::Error::from(io::ErrorKind::TimedOut).into())
}

const PROBE: &str = "SELECT 'ok'";

/// Sends `statement` followed by a probe, and fails unless the row of the probe comes back.
///
/// sqlx loses count of the replies when a COPY is abandoned, and then takes one for another.
pub(crate) async fn execute_and_probe(
    sql: &mut PgConnection,
    statement: &str,
) -> Result<(), sqlx::Error> {
    let text = AssertSqlSafe(format!("{statement}; {PROBE}")).into_sql_str();
    match sql.fetch_optional(text).await? {
        Some(row) if row.try_get::<&str, _>(0)? == "ok" => Ok(()),
        _ => Err(gone()),
    }
}

/// Reads all pending replies, and returns the first error among them.
pub(crate) async fn drain(sql: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut first = Ok(());
    loop {
        match sql.flush().await {
            Ok(()) => return first,
            // One for each statement that the server rejected; the connection goes on.
            Err(error @ sqlx::Error::Database(_)) => first = first.and(Err(error)),
            Err(error) => return first.and(Err(error)),
        }
    }
}

pub(crate) fn gone() -> sqlx::Error {
    Error::because(ErrorKind::TransactionAborted, "the transaction is gone").into_sqlx()
}
