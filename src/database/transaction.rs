//! An open transaction: savepoints, verification, COMMIT, ROLLBACK.

use std::pin::pin;

use sqlx::{
    AssertSqlSafe, Executor as _, PgConnection, SqlSafeStr as _, postgres::PgTransactionManager,
};
use sqlx_core::transaction::TransactionManager as _;
use tokio::time::Instant;

use crate::{
    database::{
        access::Access,
        commit::{CommitError, CommitFailure},
        connection::{Connection, Health},
        deadline::timeout_at,
        replies::{drain, execute_and_probe, gone, timed_out},
        server::Server,
        untracked::{self, UntrackedRead},
    },
    error::{Error, ErrorClass, ErrorKind, Moment, breaks_connection, describe, sqlstate},
};

/// An open transaction. Dropped, it is rolled back in the background.
pub(crate) struct Transaction {
    connection: Option<Connection>,
    server: Server,
    /// The access of its BEGIN.
    begun: Access,
    /// The access by now.
    access: Access,
    depth: Depth,
    /// The outermost savepoint that was dropped and has to be rolled back.
    dropped: Option<Depth>,
    sentinel: Option<Sentinel>,
    /// Whether the server owes no reply.
    is_quiet: bool,
}

/// A savepoint that proves that the transaction is still the same one.
#[derive(Debug, Clone, Copy)]
struct Sentinel {
    /// The depth at which it was set.
    depth: Depth,
    /// A statement since then that may have ended the transaction.
    doubt: Option<Doubt>,
}

/// A reason to doubt that a transaction is still open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// Statements on the raw connection, whose texts are not known.
    RawConnection,
    /// A text with transaction control in its middle.
    Text,
}

/// The answer to a [`Doubt`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It is still the one that has begun, healthy or not.
    Same,
    Ended,
    /// Its connection does not say.
    None,
}

/// How many savepoints a position is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Depth(u32);

impl Depth {
    /// The depth outside of the savepoint at this depth.
    pub(crate) fn outside(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    fn inside(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl Transaction {
    /// `connection` is inside of a transaction that has just begun.
    pub(crate) fn new(connection: Connection, server: Server, access: Access) -> Self {
        Self {
            connection: Some(connection),
            server,
            begun: access,
            access,
            depth: Depth::default(),
            dropped: None,
            sentinel: None,
            is_quiet: true,
        }
    }

    /// Ends this transaction and begins the next one on its connection, in one round trip. `None`
    /// if the connection is not fit for it. Not to be cancelled: run it in a `Detached`.
    pub(crate) async fn restart(mut self) -> Option<Self> {
        let connection = self.connection.take()?;
        let connection = connection.restart(self.begun).await?;
        Some(Self::new(connection, self.server, self.begun))
    }

    /// The connection, for statements. On a broken one they would wait for nothing.
    pub(crate) fn sql(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.is_quiet = false;
        match &mut self.connection {
            Some(connection) if !connection.is_broken() => connection.sql(),
            _ => Err(gone()),
        }
    }

    /// Records that the server has replied to all that was sent.
    pub(crate) fn mark_quiet(&mut self) {
        self.is_quiet = true;
    }

    /// Records what has become of the connection, unless worse is known.
    pub(crate) fn mark(&mut self, health: Health) {
        if let Some(connection) = &mut self.connection {
            connection.mark(health);
        }
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    pub(crate) fn server(&self) -> Server {
        self.server
    }

    /// Whether statements ran on it that the crate could not see.
    pub(crate) fn has_unseen(&self) -> bool {
        self.sentinel.is_some()
    }

    /// How many savepoints are open.
    pub(crate) fn depth(&self) -> Depth {
        self.depth
    }

    /// Makes the transaction READ ONLY, unless it is or `access` is not.
    pub(crate) async fn narrow(&mut self, access: Access) -> Result<(), sqlx::Error> {
        if access == Access::ReadOnly && self.access != access {
            self.sql()?.execute("SET TRANSACTION READ ONLY").await?;
            self.access = access;
        }
        Ok(())
    }

    /// The relations that it has read, and that the server does not track.
    pub(crate) async fn untracked_reads(&mut self) -> Result<Vec<UntrackedRead>, sqlx::Error> {
        match self.server {
            Server::PostgreSql => untracked::look(self.sql()?).await,
            Server::CockroachDb => Ok(Vec::new()),
        }
    }

    /// Opens a savepoint and returns its depth.
    pub(crate) async fn savepoint(&mut self) -> Result<Depth, sqlx::Error> {
        let depth = self.depth.inside();
        let Depth(number) = depth;
        self.send(format!("SAVEPOINT interlock_{number}")).await?;
        self.depth = depth;
        Ok(depth)
    }

    /// Keeps what was done since the savepoint.
    pub(crate) async fn release(&mut self, depth: Depth) -> Result<(), sqlx::Error> {
        let Depth(number) = depth;
        self.send(format!("RELEASE SAVEPOINT interlock_{number}"))
            .await?;
        self.leave(depth);
        Ok(())
    }

    /// Undoes what was done since the savepoint.
    pub(crate) async fn roll_back_to(&mut self, depth: Depth) -> Result<(), sqlx::Error> {
        let Depth(number) = depth;
        self.send(format!(
            "ROLLBACK TO SAVEPOINT interlock_{number}; RELEASE SAVEPOINT interlock_{number}"
        ))
        .await?;
        self.leave(depth);
        self.dropped = self.dropped.filter(|dropped| *dropped < depth);
        Ok(())
    }

    /// Remembers a dropped savepoint, since nothing can be sent from `Drop`.
    pub(crate) fn drop_savepoint(&mut self, depth: Depth) {
        self.dropped = Some(self.dropped.map_or(depth, |dropped| dropped.min(depth)));
    }

    /// The savepoint that has to be rolled back before anything else is sent.
    pub(crate) fn dropped_savepoint(&self) -> Option<Depth> {
        self.dropped
    }

    /// Reads all pending replies, and returns the first error among them.
    pub(crate) async fn drain(&mut self) -> Result<(), sqlx::Error> {
        drain(self.sql()?).await
    }

    /// Sets a sentinel before something is sent that could end the transaction unseen.
    ///
    /// The sentinel lives and dies with the transaction, so that [`verify`](Self::verify) finds
    /// out even when another transaction was begun in its place.
    pub(crate) async fn set_sentinel(&mut self) -> Result<(), sqlx::Error> {
        if self.sentinel.is_none() {
            self.sql()?.execute("SAVEPOINT interlock_sentinel").await?;
            self.sentinel = Some(Sentinel {
                depth: self.depth,
                doubt: None,
            });
            self.mark(Health::Altered);
        }
        Ok(())
    }

    /// Records that what is sent next may end the transaction. The sentinel is set.
    pub(crate) fn mark_doubtful(&mut self, doubt: Doubt) {
        if let Some(sentinel) = &mut self.sentinel {
            sentinel.doubt = sentinel.doubt.max(Some(doubt));
        }
    }

    /// The reason to doubt that it is still open. A ROLLBACK may not undo all of it.
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        self.sentinel?.doubt
    }

    /// Finds out whether the transaction is still the one that has begun.
    ///
    /// Both servers roll back to a savepoint inside of an aborted transaction, and reject one that
    /// they do not know.
    pub(crate) async fn prove(&mut self) -> Proof {
        let Ok(sql) = self.sql() else {
            return Proof::None;
        };
        let _ = drain(sql).await;
        let returned = execute_and_probe(sql, "ROLLBACK TO SAVEPOINT interlock_sentinel").await;
        returned.map_or_else(|error| proof_of(&error, self.server), |()| Proof::Same)
    }

    /// Reads all pending replies, and removes the sentinel. Fails, each time, unless this
    /// transaction is open and healthy, for the server and for sqlx.
    ///
    /// `SELECT 1` would not do, since it also succeeds after the transaction has ended. Both
    /// servers reject a savepoint outside of its transaction, and inside of an aborted one.
    pub(crate) async fn verify(&mut self) -> Result<(), sqlx::Error> {
        let verified = self.try_verify().await;
        verified.map_err(|error| match Error::classify(&error) {
            Some(ErrorClass::Other) => {
                Error::database(ErrorKind::TransactionAborted, error).into_sqlx()
            }
            _ => error,
        })
    }

    async fn try_verify(&mut self) -> Result<(), sqlx::Error> {
        let sentinel = self.sentinel.is_some();
        let sql = self.sql()?;
        if PgTransactionManager::get_transaction_depth(sql) != 1 {
            let cause = "a transaction of sqlx was left open, or ended this one";
            return Err(Error::because(ErrorKind::TransactionAborted, cause).into_sqlx());
        }
        drain(sql).await?;
        if sentinel {
            execute_and_probe(sql, "RELEASE SAVEPOINT interlock_sentinel").await?;
            self.sentinel = None;
        }
        Ok(())
    }

    /// Finds out whether the connection is lost, of which no statement has told yet. An aborted
    /// transaction rejects the query, and that is a reply.
    pub(crate) async fn find_lost(&mut self) -> Option<sqlx::Error> {
        let asked = match self.sql() {
            Ok(sql) => sql.execute("SELECT 1").await,
            Err(_) => return None,
        };
        let lost = asked
            .err()
            .filter(|error| Error::classify(error) == Some(ErrorClass::ConnectionLost))?;
        self.mark(Health::Broken);
        Some(lost)
    }

    /// Does what a commit does, except for the commit: it fails as COMMIT would for a deferred
    /// constraint. CockroachDB has none.
    pub(crate) async fn dry_run_commit(mut self) -> Result<(), CommitError> {
        if self.server != Server::PostgreSql {
            return Ok(());
        }
        let checked = match self.sql() {
            Ok(sql) => sql.execute("SET CONSTRAINTS ALL IMMEDIATE").await.map(drop),
            Err(error) => Err(error),
        };
        checked.map_err(|error| CommitError::of_dry_run(error, self.server))
    }

    /// Commits, and awaits the acknowledgement until `limit`. On a definite failure the transaction
    /// is returned for a restart. Not to be cancelled: run it in a `Detached`.
    pub(crate) async fn commit(
        mut self,
        limit: Instant,
    ) -> Result<(), (CommitError, Option<Self>)> {
        let unsent = |error| (CommitError::unsent(error), None);
        let mut connection = self.connection.take().ok_or_else(|| unsent(gone()))?;
        let committed = timeout_at(limit, pin!(connection.commit())).await;
        let error = match committed.unwrap_or_else(timed_out) {
            Ok(Some(next)) => {
                next.give(connection);
                return Ok(());
            }
            Ok(None) => {
                connection.release();
                return Ok(());
            }
            Err(error) => error,
        };
        let (description, breaks) = (
            describe(&error),
            breaks_connection(&error, Moment::ReadWrite),
        );
        let Some(failed) = CommitError::of_commit(error, self.server) else {
            tracing::error!(error = description, "committed, but for its schema change");
            connection.close();
            return Ok(());
        };
        if breaks || failed.failure == CommitFailure::Unknown {
            connection.close();
            let could_write = self.begun == Access::ReadWrite;
            let failed = if could_write {
                failed
            } else {
                failed.of_void()
            };
            return Err((failed, None));
        }
        connection.mark_ended();
        self.connection = Some(connection);
        Err((failed, Some(self)))
    }

    /// Rolls back. Not to be cancelled: run it in a `Detached`.
    pub(crate) async fn roll_back(mut self) {
        if let Some(connection) = self.connection.take() {
            connection.roll_back().await;
        }
    }

    async fn send(&mut self, statement: String) -> Result<(), sqlx::Error> {
        let statement = AssertSqlSafe(statement).into_sql_str();
        self.sql()?.execute(statement).await?;
        Ok(())
    }

    /// The savepoint is gone, and with it a sentinel that was set inside. That the savepoint could
    /// be left proves what the sentinel would have proved.
    fn leave(&mut self, depth: Depth) {
        self.depth = depth.outside();
        self.sentinel = self.sentinel.filter(|sentinel| sentinel.depth < depth);
    }
}

/// The proof in the error of a return to the sentinel.
fn proof_of(error: &sqlx::Error, server: Server) -> Proof {
    match sqlstate::code(error).as_deref() {
        Some(sqlstate::NO_ACTIVE_SQL_TRANSACTION | sqlstate::INVALID_SAVEPOINT) => Proof::Ended,
        // CockroachDB rejects the return to a savepoint of a transaction that must restart.
        Some(sqlstate::SERIALIZATION_FAILURE) if server == Server::CockroachDb => Proof::Same,
        _ => Proof::None,
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        match self.connection.take() {
            // A request that takes the connection is not to wait for replies to this one.
            Some(connection) if self.is_quiet => connection.roll_back_later(),
            Some(connection) => connection.roll_back_now(),
            None => {}
        }
    }
}
