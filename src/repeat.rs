//! Statements that may be executed more than once, each in a transaction of its own.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use sqlx::{Executor as _, PgConnection};
use tokio::time::{Instant, sleep};

use crate::{
    database::{Connection, Database, Detached, Health, Server, is_dead, timed_out, timeout_at},
    error::{Error, ErrorClass, Moment, breaks_connection, kind},
};

/// A statement that has the same effect if it is executed again.
pub(crate) trait Repeatable<T>:
    for<'c> Fn(&'c Database, &'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<T, F> Repeatable<T> for F where
    F: for<'c> Fn(&'c Database, &'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
        + Clone
        + Send
        + Sync
        + 'static
{
}

impl Database {
    /// Runs `statement` until it has a definite reply, or `limit` has passed.
    ///
    /// It is retried after a serialization failure, and on another connection after a lost or a
    /// silent one. Since the server may also have a reason to wait, each silence is awaited longer
    /// than the one before. Cancelled, it is finished in the background.
    ///
    /// # Errors
    ///
    /// Returns the error of the statement, or `Unavailable` if there is no connection, or no reply
    /// in time.
    pub(crate) async fn run_repeatable<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Instant,
        statement: impl Repeatable<T>,
    ) -> Result<T, Error> {
        let mut repeater = Repeater::new(self, Keeps::Nothing);
        repeater.run(limit, statement).await
    }
}

/// Runs repeatable statements.
pub(crate) struct Repeater {
    database: Arc<Database>,
    keeps: Keeps,
    connection: Option<Connection>,
}

/// What a [`Repeater`] keeps from one statement to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    Nothing,
    /// A connection. On PostgreSQL its statements are READ COMMITTED, so they must not depend on
    /// permissions. On CockroachDB, if it can, they fail with 55P03 instead of waiting for long for
    /// a row that another transaction holds. `drain` does not wait for it.
    Connection,
}

impl Repeater {
    pub(crate) fn new(database: &Arc<Database>, keeps: Keeps) -> Self {
        Self {
            database: Arc::clone(database),
            keeps,
            connection: None,
        }
    }

    /// Runs `statement` as [`Database::run_repeatable`] does.
    ///
    /// # Errors
    ///
    /// As [`Database::run_repeatable`].
    pub(crate) async fn run<T: Send + 'static>(
        &mut self,
        limit: Instant,
        statement: impl Repeatable<T>,
    ) -> Result<T, Error> {
        let (mut pause, mut patience) = (FIRST_PAUSE, FIRST_PATIENCE);
        loop {
            let error = match self.run_once(limit, patience, statement.clone()).await {
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

    async fn run_once<T: Send + 'static>(
        &mut self,
        limit: Instant,
        patience: Duration,
        statement: impl Repeatable<T>,
    ) -> Result<T, sqlx::Error> {
        let kept = self.connection.take();
        let mut is_prepared = kept.is_some();
        let mut connection = match kept {
            Some(kept) => kept,
            None => self.acquire(limit).await?,
        };
        let limit = limit.min(Instant::now() + patience);
        let (database, keeps) = (Arc::clone(&self.database), self.keeps);
        let running = async move {
            let replying = async {
                let server = database.server(&mut connection).await?;
                let replying = async {
                    if !is_prepared && keeps == Keeps::Connection {
                        prepare(&mut connection, server).await?;
                        is_prepared = true;
                    }
                    statement(&database, connection.sql()?).await
                };
                let replied = timeout_at(limit, pin!(replying)).await;
                replied.unwrap_or_else(timed_out)
            };
            let replied = replying.await;
            let kept = match &replied {
                Err(error) if breaks_connection(error, Moment::ReadWrite) => {
                    connection.close();
                    None
                }
                _ if is_prepared => Some(connection),
                _ => {
                    connection.release();
                    None
                }
            };
            (replied, kept)
        };
        let (replied, kept) = Detached::new(running).await;
        self.connection = kept;
        replied
    }

    async fn acquire(&self, limit: Instant) -> Result<Connection, sqlx::Error> {
        let database = &self.database;
        let acquiring = async {
            match self.keeps {
                Keeps::Nothing => database.acquire().await,
                Keeps::Connection => database.acquire_to_keep().await,
            }
        };
        match timeout_at(limit, Box::pin(acquiring)).await {
            Some(acquired) => acquired.map_err(Error::into_sqlx),
            None => timed_out(),
        }
    }
}

async fn prepare(connection: &mut Connection, server: Server) -> Result<(), sqlx::Error> {
    connection.mark(Health::Altered);
    let sql = connection.sql()?;
    match (server, sql.execute(server_setting(server)).await) {
        // The oldest versions do not have the setting.
        (Server::CockroachDb, Err(sqlx::Error::Database(error))) => {
            tracing::debug!(%error, "no lock timeout");
            Ok(())
        }
        (_, set) => set.map(drop),
    }
}

fn server_setting(server: Server) -> &'static str {
    match server {
        Server::PostgreSql => "SET default_transaction_isolation = 'read committed'",
        Server::CockroachDb => "SET lock_timeout = '50ms'",
    }
}

/// How long a first silence is awaited, as that of a BEGIN.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
