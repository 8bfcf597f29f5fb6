//! A connection on its way from one transaction to the next: BEGIN, ROLLBACK, restart.

use std::{io, pin::pin, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, Executor as _, PgConnection, Postgres, Row as _,
    pool::PoolConnection, postgres::PgTransactionManager,
};
use sqlx_core::{sql_str::SqlSafeStr as _, transaction::TransactionManager as _};
use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{CommitError, Transaction, gone};
use crate::{
    error::{Error, ErrorKind},
    fused::{Fused, Written},
    handoff::{Handoff, LAP},
    interlock::Shared,
    retry::{self, Meaning, Refusal},
    server::{self, Kind},
    until::until,
};

/// How long a BEGIN or ROLLBACK may take before the connection is closed instead, which rolls back
/// too. COMMIT has no such limit: to close the connection does not undo it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection of the pool, on its way from one transaction to the next.
pub(crate) struct Link {
    connection: Option<PoolConnection<Postgres>>,
    /// The server has ended the transaction, and sqlx does not know: a failed COMMIT leaves its
    /// depth at 1. A BEGIN that sqlx does not count brings both into step again; a ROLLBACK
    /// would be an error on CockroachDB before v25.1.
    pub(super) ended: bool,
    /// Something was done on it that could not be seen.
    pub(super) doubtful: bool,
    /// It has failed below SQL, and would only make the next one wait.
    pub(super) broken: bool,
    pub(super) runtime: Handle,
    running: TaskTrackerToken,
    /// Where it goes when its request is done with it, if not to the pool.
    handoff: Option<Arc<Handoff>>,
    /// When it came from the pool.
    taken: Instant,
}

impl Link {
    /// Cancelled, it leaves nothing behind.
    pub(crate) async fn acquire(shared: &Shared) -> Result<Self, Error> {
        let Some(handoff) = shared.handoff.get().filter(|_| !shared.pool.is_closed()) else {
            return Self::from_pool(shared).await;
        };
        let mut link = handoff.take(&shared.pool, Self::from_pool(shared)).await?;
        link.handoff = Some(Arc::clone(handoff));
        link.runtime = Handle::current();
        Ok(link)
    }

    async fn from_pool(shared: &Shared) -> Result<Self, Error> {
        // Boxed: it takes 8 KiB, which whatever awaits this would carry and copy around.
        let acquire = || Box::pin(shared.pool.acquire());
        let acquired = match acquire().await {
            // A server that goes down resets who is just connecting.
            Err(error) if retry::meaning(&error) == Some(Meaning::Lost) => acquire().await,
            acquired => acquired,
        };
        let connection =
            acquired.map_err(|error| Error::database(ErrorKind::Unavailable, error))?;
        Ok(Self {
            connection: Some(connection),
            ended: false,
            doubtful: false,
            broken: false,
            runtime: Handle::current(),
            running: shared.running.token(),
            handoff: None,
            taken: Instant::now(),
        })
    }

    pub(super) async fn begin(
        mut self,
        shared: Arc<Shared>,
        read_only: bool,
    ) -> Result<Transaction, sqlx::Error> {
        match patiently(self.try_begin(&shared, read_only)).await {
            Ok(server) => Ok(Transaction::on(self, server, read_only)),
            // sqlx pools a connection whose BEGIN failed as if nothing were open on it.
            Err(error) => {
                self.close();
                Err(error)
            }
        }
    }

    async fn try_begin(&mut self, shared: &Shared, read_only: bool) -> Result<Kind, sqlx::Error> {
        let server = self.look(shared).await?;
        let begin = begin(read_only).into_sql_str();
        PgTransactionManager::begin(self.connection()?, Some(begin)).await?;
        Ok(server)
    }

    /// Ends the transaction that has failed on it and begins another one, which for sqlx is the same.
    pub(super) async fn restart(mut self, read_only: bool) -> Option<Self> {
        match patiently(self.try_restart(read_only)).await {
            Ok(()) => Some(self),
            Err(error) => {
                tracing::debug!(%error, "closing the connection instead of beginning again");
                self.close();
                None
            }
        }
    }

    async fn try_restart(&mut self, read_only: bool) -> Result<(), sqlx::Error> {
        let ended = std::mem::take(&mut self.ended);
        let doubtful = std::mem::take(&mut self.doubtful);
        let broken = self.broken;
        let connection = self.connection()?;
        if broken || PgTransactionManager::get_transaction_depth(connection) != 1 {
            return Err(gone());
        }
        let begin = begin(read_only);
        let restart = if ended {
            begin.to_owned()
        } else {
            drop(drain(connection).await);
            format!("ROLLBACK; {begin}")
        };
        if doubtful {
            answers(connection, format!("{restart}; SELECT 'in step'")).await
        } else {
            let restart = AssertSqlSafe(restart).into_sql_str();
            connection.execute(restart).await.map(drop)
        }
    }

    /// Which server it is, with a first look at it. Nobody waits for another one's look: its
    /// connection may hang.
    async fn look(&mut self, shared: &Shared) -> Result<Kind, sqlx::Error> {
        if let Some(server) = shared.server.get() {
            return Ok(*server);
        }
        let server = patiently(server::inspect(self.connection()?)).await?;
        Ok(*shared.server.get_or_init(|| server))
    }

    /// Sends a write that is its own COMMIT. Not to be cancelled: run it in a [`Detached`].
    pub(crate) async fn write(
        mut self,
        shared: Arc<Shared>,
        write: Fused,
    ) -> Result<(Option<Written>, Self), CommitError> {
        let server = self.look(&shared).await.map_err(CommitError::unsent)?;
        let connection = self.connection().map_err(CommitError::unsent)?;
        match write.write(connection).await {
            Ok(written) => Ok((written, self)),
            Err(error) => {
                let refusal = retry::refusal_of_write(&error, server);
                if refusal == Refusal::Unknown || retry::is_broken(&error) {
                    self.close();
                }
                Err(CommitError {
                    refusal,
                    error,
                    left: None,
                })
            }
        }
    }

    /// Asks for the reason why a write has written nothing. Not to be cancelled: a connection that
    /// still owes the answer would wait for it on its way into the pool.
    pub(crate) async fn diagnose(
        mut self,
        write: Fused,
        deadline: Instant,
    ) -> Result<(Option<Error>, Self), sqlx::Error> {
        let reason = until(deadline, pin!(write.diagnose(self.connection()?))).await;
        match reason {
            Some(reason) => Ok((reason?, self)),
            None => {
                self.close();
                Err(Error::new(ErrorKind::DeadlineExceeded).into_sqlx())
            }
        }
    }

    pub(super) async fn roll_back(mut self) {
        if self.ended {
            return;
        }
        if self.broken {
            return self.close();
        }
        let doubtful = self.doubtful;
        let rolled_back = async {
            let connection = self.connection()?;
            drop(drain(connection).await);
            if PgTransactionManager::get_transaction_depth(connection) != 1 {
                return Err(gone());
            }
            PgTransactionManager::rollback(connection).await?;
            if doubtful {
                answers(connection, "SELECT 'in step'").await?;
            }
            Ok(())
        };
        match patiently(rolled_back).await {
            Ok(()) => {
                self.doubtful = false;
                self.hand_on();
            }
            Err(error) => {
                tracing::debug!(%error, "closing the connection instead of rolling back");
                self.close();
            }
        }
    }

    /// The connection, outside of a transaction.
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.connection.as_deref_mut().ok_or_else(gone)
    }

    /// To the next request, or else to the pool. It is outside of a transaction, and the server has
    /// just answered on it.
    pub(crate) fn hand_on(mut self) {
        let handoff = self.handoff.take();
        if let Some(handoff) = handoff.filter(|_| !self.doubtful && self.taken.elapsed() < LAP) {
            handoff.give(self);
        }
    }

    pub(super) fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _runtime = self.runtime.enter();
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if self.ended {
            let running = self.running.clone();
            self.runtime.spawn(async move {
                let stepped = async {
                    connection.execute("BEGIN").await?;
                    PgTransactionManager::rollback(&mut connection).await
                };
                if patiently(stepped).await.is_err() {
                    connection.close_on_drop();
                }
                drop(running);
            });
        }
    }
}

/// Nothing travels with it but a ROLLBACK: on CockroachDB a SET in its batch would cost the server's own
/// retry of the first statement.
fn begin(read_only: bool) -> &'static str {
    if read_only {
        "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY"
    } else {
        "BEGIN ISOLATION LEVEL SERIALIZABLE"
    }
}

/// Awaits what only a connection that hangs takes so long for.
async fn patiently<T>(
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let answer = timeout(PATIENCE, answer).await;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// Sends a text whose last answer is one row, and fails unless that very row comes back: sqlx loses
/// count of the answers when a COPY is abandoned, and then takes one for another.
pub(super) async fn answers(
    connection: &mut PgConnection,
    text: impl Into<String>,
) -> Result<(), sqlx::Error> {
    let text = AssertSqlSafe(text.into()).into_sql_str();
    match connection.fetch_optional(text).await? {
        Some(row) if row.try_get::<&str, _>(0)? == "in step" => Ok(()),
        _ => Err(gone()),
    }
}

/// Reads to the end of all answers, and returns the first error among them.
pub(super) async fn drain(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut first = Ok(());
    loop {
        match connection.flush().await {
            Ok(()) => return first,
            // One for each statement that the server refused; the connection goes on.
            Err(error @ sqlx::Error::Database(_)) => first = first.and(Err(error)),
            Err(error) => return first.and(Err(error)),
        }
    }
}
