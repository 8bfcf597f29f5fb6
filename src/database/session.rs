//! The recommended pool, and what is set on each of its connections.

use std::time::Duration;

use sqlx::{Connection as _, Executor as _, PgConnection, Row as _, postgres::PgPoolOptions};
use tokio::time::timeout;

use crate::database::server::Server;

/// The options of [`Interlock::pool_options`](crate::Interlock::pool_options).
pub(crate) fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(5))
        .test_before_acquire(false)
        .before_acquire(|connection, meta| Box::pin(is_alive(connection, meta.idle_for)))
        .after_connect(|connection, _| Box::pin(prepare(connection)))
}

/// Whether a connection of the pool still works. Only one that was idle for a while is asked.
async fn is_alive(connection: &mut PgConnection, idle_for: Duration) -> Result<bool, sqlx::Error> {
    if idle_for < LONG_IDLE {
        return Ok(true);
    }
    let ping = timeout(PING_TIMEOUT, connection.ping()).await;
    let alive = matches!(ping, Ok(Ok(())));
    if !alive {
        tracing::debug!("an idle connection is dead, connecting anew");
    }
    Ok(alive)
}

/// From here on a ping is no matter: a busy pool has no connection that is idle for so long.
const LONG_IDLE: Duration = Duration::from_secs(1);

/// How long the reply to a ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Applies the settings to a new connection, each where the server knows it.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let row = connection.fetch_one("SELECT version()").await?;
    let server = Server::of_version(row.try_get(0)?);
    for (only, statement) in SETTINGS {
        if only.is_some_and(|only| only != server) {
            continue;
        }
        if let Err(error) = connection.execute(statement).await {
            match error {
                sqlx::Error::Database(error) => {
                    tracing::debug!(%error, statement, "the server does not know this setting");
                }
                error => return Err(error),
            }
        }
    }
    Ok(())
}

/// The timeouts are longer than the default deadline and its grace period: CockroachDB applies its
/// statement timeout to COMMIT as well, and it must not be what makes an outcome unknown.
const SETTINGS: [(Option<Server>, &str); 5] = [
    (None, "SET default_transaction_isolation = 'serializable'"),
    (None, "SET statement_timeout = '20s'"),
    (None, "SET idle_in_transaction_session_timeout = '30s'"),
    // Unknown before PostgreSQL 14, and where the system cannot tell.
    (
        Some(Server::PostgreSql),
        "SET client_connection_check_interval = '1s'",
    ),
    (Some(Server::CockroachDb), "SET autocommit_before_ddl = off"),
];
