//! The only room that talks to the server: connections, BEGIN, COMMIT, ROLLBACK.

mod access;
mod commit;
mod connection;
mod deadline;
mod detached;
mod handoff;
mod pooled;
mod replies;
mod server;
mod session;
mod transaction;
mod untracked;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgPool, SqlSafeStr as _, SqlStr};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

pub(crate) use self::{
    access::Access,
    commit::{CommitError, CommitFailure},
    connection::{Connection, Health},
    deadline::timeout_at,
    detached::Detached,
    replies::timed_out,
    server::{RequiredTable, Server},
    session::pool_options,
    transaction::{Depth, Doubt, Proof, Transaction},
    untracked::{Severity, UntrackedRead},
};
use self::{handoff::Handoff, server::KnownServer};
use crate::error::{Error, ErrorClass, ErrorKind, Moment, is_fatal, kind};

/// A pool, what is known of its server, and the work that is under way on it. Shared by all
/// clones of one `Interlock`.
pub(crate) struct Database {
    pool: PgPool,
    /// Known from the first connection that is used.
    server: KnownServer,
    handoff: Option<Arc<Handoff<Connection>>>,
    /// Work, transactions and hooks under way. Closed by `drain`.
    running: TaskTracker,
}

impl Database {
    pub(crate) fn new(pool: PgPool, handoff: bool, tables: Vec<RequiredTable>) -> Self {
        Self {
            pool,
            server: KnownServer::new(tables),
            handoff: handoff.then(Arc::default),
            running: TaskTracker::new(),
        }
    }

    /// Begins a SERIALIZABLE transaction.
    ///
    /// A connection that turns out to be dead costs no attempt: after a restart of the server, or
    /// an idle-session timeout, the pool is full of them. Cancelled, BEGIN is finished and rolled
    /// back in the background.
    pub(crate) async fn begin(self: &Arc<Self>, access: Access) -> Result<Transaction, Error> {
        let mut tries = self.sessions();
        loop {
            let connection = self.acquire_for(Some(access)).await?;
            let database = Arc::clone(self);
            let is_inherited = connection.is_inherited();
            // The transaction is made inside: dropped there, it is rolled back.
            let begin = async move {
                let begun = connection.begin(&database.server, access).await;
                begun.map(|(connection, server)| Transaction::new(connection, server, access))
            };
            match Detached::new(begin).await {
                Ok(transaction) => return Ok(transaction),
                Err(error) if tries > 0 && (is_inherited || is_dead(&error)) => {
                    tracing::debug!(%error, "dead connection at BEGIN, taking another one");
                    tries -= 1;
                }
                Err(error) => return Err(Error::database(kind(&error, Moment::Begin), error)),
            }
        }
    }

    /// Begins a transaction for work that waits for its turn, if a connection is free for it and
    /// that is of use: on CockroachDB the snapshot is that of BEGIN, and would be old by then.
    pub(crate) async fn begin_ahead(self: &Arc<Self>, access: Access) -> Option<Transaction> {
        let is_free = self.pool.num_idle() > 0
            || self.pool.size() < self.pool.options().get_max_connections();
        if self.known_server() != Some(Server::PostgreSql) || !is_free {
            return None;
        }
        // If it fails, the work finds out itself.
        self.begin(access).await.ok()
    }

    /// The size of the pool.
    pub(crate) fn connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// How often work may move on to another connection because that of the pool is of no use.
    pub(crate) fn sessions(&self) -> u32 {
        self.connections().saturating_add(1)
    }

    /// A connection outside of a transaction. Cancelled, nothing is left behind.
    pub(crate) async fn acquire(&self) -> Result<Connection, Error> {
        loop {
            let connection = self.acquire_for(None).await?;
            if !connection.owes_rollback() {
                return Ok(connection);
            }
            if let Some(connection) = Detached::new(connection.outside()).await {
                return Ok(connection);
            }
        }
    }

    /// A connection that `drain` does not wait for.
    pub(crate) async fn acquire_to_keep(&self) -> Result<Connection, Error> {
        let mut connection = self.acquire().await?;
        connection.keep();
        Ok(connection)
    }

    /// A connection for a transaction with this access: its BEGIN may have been sent, and a ROLLBACK
    /// may be owed.
    /// Cancelled, nothing is left behind.
    async fn acquire_for(&self, access: Option<Access>) -> Result<Connection, Error> {
        let from_pool = Connection::acquire(&self.pool, &self.running);
        let Some(handoff) = self.handoff.as_ref().filter(|_| !self.pool.is_closed()) else {
            return from_pool.await;
        };
        let pool = &self.pool;
        // A connection that the pool is making or testing must not be dropped for one that
        // comes sooner.
        let is_exhausted =
            || pool.size() >= pool.options().get_max_connections() && pool.num_idle() == 0;
        let mut connection = handoff.take(access, is_exhausted, from_pool).await?;
        connection.hand_off_to(handoff);
        Ok(connection)
    }

    /// Whether both take their connections from one pool.
    pub(crate) fn shares_pool(&self, other: &Self) -> bool {
        // Clones of a pool share its options.
        std::ptr::eq(self.pool.options(), other.pool.options())
    }

    /// Which server it is, if one of its connections was used.
    pub(crate) fn known_server(&self) -> Option<Server> {
        self.server.get()
    }

    /// Which server `connection` leads to. The first call inspects it.
    pub(crate) async fn server(&self, connection: &mut Connection) -> Result<Server, sqlx::Error> {
        connection.inspect(&self.server).await
    }

    /// Inspects the server, unless it is known.
    ///
    /// # Errors
    ///
    /// Returns `Misconfigured` for a rejected setting, or `Unavailable`.
    pub(crate) async fn inspect(&self) -> Result<(), Error> {
        let mut connection = self.acquire().await?;
        match self.server(&mut connection).await {
            Ok(_) => {
                connection.release();
                Ok(())
            }
            Err(error) => {
                connection.close();
                Err(Error::database(ErrorKind::Unavailable, error))
            }
        }
    }

    /// The text of a statement on a table of this crate: `{table}` in it is the table with the
    /// schema in which the first connection has found it.
    pub(crate) fn text(&self, statement: &'static str, table: &'static str) -> SqlStr {
        let qualified = self.server.table(table).unwrap_or(table);
        AssertSqlSafe(statement.replace("{table}", qualified)).into_sql_str()
    }

    /// Keeps `drain` waiting until it is dropped.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.running.token()
    }

    /// Whether new work may begin.
    ///
    /// # Errors
    ///
    /// Returns `Unavailable` once `drain` was called.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if self.running.is_closed() {
            return Err(Error::because(ErrorKind::Unavailable, "draining"));
        }
        Ok(())
    }

    /// Rejects new work.
    pub(crate) fn close(&self) {
        self.running.close();
    }

    /// Rejects new work, and waits until none is under way.
    pub(crate) async fn drain(&self) {
        self.close();
        self.running.wait().await;
    }
}

/// Whether it tells of a connection that had ended before BEGIN was sent.
pub(crate) fn is_dead(error: &sqlx::Error) -> bool {
    is_fatal(error)
        || matches!(
            Error::classify(error),
            Some(ErrorClass::ConnectionLost | ErrorClass::StaleSession)
        )
}
