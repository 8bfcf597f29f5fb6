//! A connection on its way from one transaction to the next: BEGIN, COMMIT, ROLLBACK, restart.

#![expect(
    clippy::disallowed_methods,
    reason = "connections are acquired, and transactions begun, committed and rolled back, here"
)]

use std::{sync::Arc, time::Duration};

use futures_util::{TryStreamExt as _, future::Either};
use sqlx::{
    AssertSqlSafe, Executor as _, PgConnection, PgPool, Postgres, SqlSafeStr as _,
    pool::PoolConnection, postgres::PgTransactionManager,
};
use sqlx_core::transaction::TransactionManager as _;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    database::{
        access::Access,
        detached::spawn_on,
        handoff::{Handoff, MAX_BYPASS, Next},
        pooled::{close, return_to_pool},
        replies::{drain, gone, within},
        server::{KnownServer, Server},
    },
    error::{Error, ErrorClass, ErrorKind},
};

/// How long a ROLLBACK may take before the connection is closed instead, which rolls back as well.
/// The server has nothing to wait for, and the pool waits longer for a connection than this.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the first look at the server may take.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a BEGIN may take before another connection is used. The server has nothing to wait for,
/// and a connection that a firewall has forgotten never replies.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a ROLLBACK may take behind a statement that was abandoned, before the connection is
/// closed instead, for the server to stop the statement. A statement of usual length ends sooner,
/// and saves a new connection.
const ABANDONED_TIMEOUT: Duration = Duration::from_millis(250);

/// A connection of the pool.
pub(crate) struct Connection {
    inner: Option<PoolConnection<Postgres>>,
    health: Health,
    unseen: Option<Unseen>,
    runtime: Handle,
    running: TaskTrackerToken,
    /// Where it goes after its request, if not to the pool.
    handoff: Option<Arc<Handoff<Self>>>,
    acquired: Instant,
}

/// What has become of the transaction that sqlx counts, and that sqlx does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unseen {
    /// The server has ended it, as a failed COMMIT does. A BEGIN that sqlx does not count brings
    /// both into step again. A ROLLBACK would be an error on CockroachDB before v25.1.
    Ended,
    /// It was committed, and behind the COMMIT the BEGIN of another one was sent. The reply to that
    /// is not read yet.
    Begun,
    /// It is over, and its ROLLBACK is not sent yet.
    Open,
}

/// Whether the connection can be used for the next transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Good,
    /// Its statement was abandoned. It can be used again if it soon acknowledges a ROLLBACK.
    Abandoned,
    /// Its session may keep what a statement left on it. It is closed after its transaction.
    Altered,
    /// It failed below SQL, and would only let the next statement wait.
    Broken,
}

impl Connection {
    /// Acquires a connection from the pool. Cancelled, nothing is left behind.
    pub(crate) async fn acquire(pool: &PgPool, running: &TaskTracker) -> Result<Self, Error> {
        // Boxed: it takes 8 KiB, which every future that awaits this would carry. The room is made
        // first, so that it is not moved there.
        let acquire = || Box::into_pin(Box::write(Box::new_uninit(), pool.acquire()));
        let acquired = match acquire().await {
            // A server that shuts down resets connections that are just being made.
            Err(error) if Error::classify(&error) == Some(ErrorClass::ConnectionLost) => {
                acquire().await
            }
            acquired => acquired,
        };
        let inner = acquired.map_err(|error| Error::database(ErrorKind::Unavailable, error))?;
        Ok(Self {
            inner: Some(inner),
            health: Health::Good,
            unseen: None,
            runtime: Handle::current(),
            running: running.token(),
            handoff: None,
            acquired: Instant::now(),
        })
    }

    /// Lets the connection bypass the pool after its request, which runs on this runtime.
    pub(crate) fn hand_off_to(&mut self, handoff: &Arc<Handoff<Self>>) {
        self.handoff = Some(Arc::clone(handoff));
        self.runtime = Handle::current();
    }

    /// Keeps it from the next request. `drain` no longer waits for it.
    pub(crate) fn keep(&mut self) {
        self.running = TaskTracker::new().token();
        self.handoff = None;
    }

    /// Begins a transaction. Not to be cancelled: run it in a `Detached`.
    pub(crate) async fn begin(
        mut self,
        server: &KnownServer,
        access: Access,
    ) -> Result<(Self, Server), sqlx::Error> {
        match self.try_begin(server, access).await {
            Ok(server) => Ok((self, server)),
            // sqlx pools a connection whose BEGIN failed as if nothing were open on it.
            Err(error) => {
                self.close();
                Err(error)
            }
        }
    }

    async fn try_begin(
        &mut self,
        server: &KnownServer,
        access: Access,
    ) -> Result<Server, sqlx::Error> {
        let server = self.inspect(server).await?;
        let begun = async {
            match self.unseen {
                Some(Unseen::Begun) => drain(self.sql()?).await?,
                Some(Unseen::Ended | Unseen::Open) => self.try_restart(access).await?,
                None => {
                    let begin = Some(access.begin().into_sql_str());
                    return PgTransactionManager::begin(self.sql()?, begin).await;
                }
            }
            self.unseen = None;
            Ok(())
        };
        within(BEGIN_TIMEOUT, begun).await?;
        Ok(server)
    }

    /// Commits. If a request is waiting for the connection, its BEGIN travels with the COMMIT, and
    /// the reply to that is read by the request. Not to be cancelled: run it in a `Detached`.
    pub(crate) async fn commit(&mut self) -> Result<Option<Next<Self>>, sqlx::Error> {
        let next = self.handoff_if_fit().and_then(Handoff::next);
        let sql = self.sql()?;
        let Some(next) = next else {
            PgTransactionManager::commit(sql).await?;
            return Ok(None);
        };
        let text = next.access().commit_and_begin().into_sql_str();
        // The first reply is that to COMMIT.
        let committed = sql.fetch_many(text).try_next().await?;
        if committed.is_none() {
            return Err(gone());
        }
        self.unseen = Some(Unseen::Begun);
        Ok(Some(next))
    }

    /// Which server it leads to. The first call inspects it. No request waits for the inspection
    /// of another one, whose connection may hang.
    pub(crate) async fn inspect(&mut self, server: &KnownServer) -> Result<Server, sqlx::Error> {
        match server.get() {
            Some(server) => Ok(server),
            None => within(INSPECTION_TIMEOUT, server.inspect(self.sql()?)).await,
        }
    }

    /// Ends the transaction that has failed and begins the next one, which is the same to sqlx.
    /// `None` if the connection is not fit for it, and the transaction is only ended. Not to be
    /// cancelled: run it in a `Detached`.
    pub(crate) async fn restart(mut self, access: Access) -> Option<Self> {
        if self.health != Health::Good {
            self.roll_back().await;
            return None;
        }
        match within(CONTROL_TIMEOUT, self.try_restart(access)).await {
            Ok(()) => Some(self),
            Err(error) => {
                tracing::debug!(%error, "closing the connection instead of beginning again");
                self.close();
                None
            }
        }
    }

    async fn try_restart(&mut self, access: Access) -> Result<(), sqlx::Error> {
        let ended = self.unseen.take() == Some(Unseen::Ended);
        let sql = self.sql()?;
        if PgTransactionManager::get_transaction_depth(sql) != 1 {
            return Err(gone());
        }
        let begin = access.begin();
        let restart = if ended {
            begin.to_owned()
        } else {
            drop(drain(sql).await);
            format!("ROLLBACK; {begin}")
        };
        let restart = AssertSqlSafe(restart).into_sql_str();
        sql.execute(restart).await.map(drop)
    }

    /// Rolls back in the background, or together with the BEGIN of a request that takes the
    /// connection before that. The server owes no reply.
    pub(crate) fn roll_back_later(mut self) {
        if self.health != Health::Good || self.unseen.is_some() {
            return self.roll_back_now();
        }
        self.unseen = Some(Unseen::Open);
        self.release();
    }

    /// Rolls back in the background.
    pub(crate) fn roll_back_now(self) {
        let runtime = self.runtime.clone();
        spawn_on(&runtime, self.roll_back());
    }

    /// The connection outside of a transaction. `None` if it had to be closed. Not to be cancelled:
    /// run it in a `Detached`.
    pub(crate) async fn outside(mut self) -> Option<Self> {
        match within(CONTROL_TIMEOUT, self.try_roll_back()).await {
            Ok(()) => {
                self.unseen = None;
                Some(self)
            }
            Err(error) => {
                tracing::debug!(%error, "closing a connection instead of rolling back");
                self.close();
                None
            }
        }
    }

    /// Whether its next BEGIN also ends the transaction of another request, whose errors are of no
    /// concern to the next one.
    pub(crate) fn is_inherited(&self) -> bool {
        self.unseen.is_some()
    }

    /// Whether its last transaction is over, and not rolled back yet.
    pub(crate) fn owes_rollback(&self) -> bool {
        self.unseen == Some(Unseen::Open)
    }

    /// Rolls back, and releases the connection. Not to be cancelled: run it in a `Detached`.
    pub(crate) async fn roll_back(mut self) {
        if self.unseen.is_some() {
            return;
        }
        let limit = match self.health {
            Health::Good => CONTROL_TIMEOUT,
            Health::Abandoned | Health::Altered => ABANDONED_TIMEOUT,
            Health::Broken => return self.close(),
        };
        match within(limit, self.try_roll_back()).await {
            Ok(()) => {
                if self.health == Health::Abandoned {
                    self.health = Health::Good;
                }
                self.release();
            }
            Err(error) => {
                tracing::debug!(%error, "closing the connection instead of rolling back");
                self.close();
            }
        }
    }

    async fn try_roll_back(&mut self) -> Result<(), sqlx::Error> {
        let sql = self.sql()?;
        drop(drain(sql).await);
        if PgTransactionManager::get_transaction_depth(sql) != 1 {
            return Err(gone());
        }
        PgTransactionManager::rollback(sql).await
    }

    /// The connection, for SQL.
    pub(crate) fn sql(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.inner.as_deref_mut().ok_or_else(gone)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.health == Health::Broken
    }

    /// Records what has become of the connection, unless worse is known.
    pub(crate) fn mark(&mut self, health: Health) {
        self.health = self.health.max(health);
    }

    /// Records that the server has ended the transaction, as a failed COMMIT does.
    pub(crate) fn mark_ended(&mut self) {
        self.unseen = Some(Unseen::Ended);
    }

    /// Gives the connection to the next request, or to the pool, or closes it if it is fit for
    /// neither. The server must have just replied on it.
    pub(crate) fn release(mut self) {
        if self.handoff_if_fit().is_some()
            && let Some(handoff) = self.handoff.take()
        {
            handoff.give(self);
        }
    }

    /// Where it goes after its request, if it is fit for the next one.
    fn handoff_if_fit(&self) -> Option<&Arc<Handoff<Self>>> {
        let fit = self.health == Health::Good && self.acquired.elapsed() < MAX_BYPASS;
        self.handoff.as_ref().filter(|_| fit)
    }

    pub(crate) fn close(mut self) {
        self.mark(Health::Broken);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // sqlx needs a runtime where a connection is dropped.
        let _runtime = self.runtime.enter();
        let Some(connection) = self.inner.take() else {
            return;
        };
        let running = self.running.clone();
        let finishing = match (self.health, self.unseen) {
            (Health::Good, None) => {
                return spawn_on(&self.runtime, return_to_pool(connection));
            }
            (Health::Good, Some(unseen)) => Either::Left(step_out(connection, unseen)),
            _ => Either::Right(close(connection)),
        };
        spawn_on(&self.runtime, async move {
            finishing.await;
            drop(running);
        });
    }
}

/// Brings sqlx into step with the server, outside of a transaction, and returns the connection to
/// the pool.
async fn step_out(mut connection: PoolConnection<Postgres>, unseen: Unseen) {
    let stepped = within(CONTROL_TIMEOUT, async {
        match unseen {
            Unseen::Ended => {
                connection.execute("BEGIN").await?;
            }
            Unseen::Begun => drain(&mut connection).await?,
            Unseen::Open => {
                drop(drain(&mut connection).await);
                if PgTransactionManager::get_transaction_depth(&connection) != 1 {
                    return Err(gone());
                }
                // It travels with the ping of the pool.
                PgTransactionManager::start_rollback(&mut connection);
                return Ok(());
            }
        }
        PgTransactionManager::rollback(&mut connection).await
    });
    if stepped.await.is_ok() {
        return_to_pool(connection).await;
    } else {
        close(connection).await;
    }
}
