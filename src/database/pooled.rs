//! A connection of the pool that leaves its last transaction: back into the pool, or closed.

use std::time::Duration;

use sqlx::{Postgres, pool::PoolConnection};
use tokio::time::timeout;

/// How long the server may take to reply to the pool's ping, or to the end of its session. The pool
/// waits longer for a connection, so that one on its way does not use up the time of a request.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns a connection to the pool, or closes it.
///
/// sqlx pings it on its way, and would wait for ever for a server that went silent. Dropped
/// meanwhile, the connection is closed, and its place in the pool is free.
pub(super) async fn return_to_pool(mut connection: PoolConnection<Postgres>) {
    let returned = timeout(LEAVE_TIMEOUT, connection.return_to_pool()).await;
    if returned.is_err() {
        tracing::debug!("closed a connection that gave no reply on its way into the pool");
    }
}

/// Closes a connection, which rolls back what is open on it.
pub(super) async fn close(connection: PoolConnection<Postgres>) {
    // The server may be gone already.
    let _ = timeout(LEAVE_TIMEOUT, connection.close()).await;
}
