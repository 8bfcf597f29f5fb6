//! A statement outside of transactions, which is its own COMMIT and may be repeated.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::{
    database::{Database, Detached, connection::timed_out, is_dead, timeout_at},
    error::{Error, ErrorClass, Moment, breaks_connection, kind},
};

impl Database {
    /// Runs `statement` until it has a definite reply, or `limit` has passed.
    ///
    /// It may be executed more than once, so it must be one that has the same effect then. It is
    /// retried after a serialization failure, and on another connection after a lost or a silent
    /// one. Since the server may also have a reason to wait, each silence is awaited longer than the
    /// one before. Cancelled, it is finished in the background.
    ///
    /// # Errors
    ///
    /// Returns the error of the statement, or `Unavailable` if there is no connection, or no reply
    /// in time.
    pub(crate) async fn run_repeatable<T, F>(
        self: &Arc<Self>,
        limit: Instant,
        statement: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
            + Clone
            + Send
            + 'static,
    {
        let (mut pause, mut patience) = (FIRST_PAUSE, FIRST_PATIENCE);
        loop {
            let try_limit = limit.min(Instant::now() + patience);
            let error = match self.run_once(try_limit, statement.clone()).await {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            let may_succeed = is_dead(&error)
                || Error::classify(&error) == Some(ErrorClass::SerializationFailure);
            if !may_succeed || Instant::now() + pause >= limit {
                return Err(Error::database(kind(&error, Moment::Begin), error));
            }
            tracing::debug!(%error, "retrying a statement");
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            patience = (patience * 2).min(LONGEST_PATIENCE);
        }
    }

    async fn run_once<T, F>(
        self: &Arc<Self>,
        limit: Instant,
        statement: F,
    ) -> Result<T, sqlx::Error>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
            + Send
            + 'static,
    {
        let Some(acquired) = timeout_at(limit, Box::pin(self.acquire())).await else {
            return timed_out();
        };
        let mut connection = acquired.map_err(Error::into_sqlx)?;
        let database = Arc::clone(self);
        let running = async move {
            let replied = match database.server(&mut connection).await {
                Ok(_) => {
                    let replying = pin!(statement(connection.sql()?));
                    let replied = timeout_at(limit, replying).await;
                    replied.unwrap_or_else(timed_out)
                }
                Err(error) => Err(error),
            };
            match &replied {
                Err(error) if breaks_connection(error, Moment::ReadWrite) => connection.close(),
                _ => connection.release(),
            }
            replied
        };
        Detached::new(running).await
    }
}

/// How long a first silence is awaited, as that of a BEGIN.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
