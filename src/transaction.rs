//! Begin, savepoints, drain, verify, commit, roll back, restart. No other module does these.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one module that acquires connections and begins transactions on them"
)]

mod link;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Executor as _, PgConnection, postgres::PgTransactionManager};
use sqlx_core::{sql_str::SqlSafeStr as _, transaction::TransactionManager as _};

pub(crate) use self::link::Link;
use self::link::{answers, drain};
use crate::{
    detach::Detached,
    error::{Error, ErrorKind},
    interlock::Shared,
    retry::{self, Meaning, Refusal},
    server::Kind,
};

/// An open transaction. Dropped, it is rolled back in the background.
pub(crate) struct Transaction {
    link: Option<Link>,
    server: Kind,
    read_only: bool,
    depth: u32,
    /// The outermost savepoint that was dropped without a word: to be rolled back to.
    dropped: Option<u32>,
    /// The depth at which the seal was set.
    seal: Option<u32>,
}

impl Transaction {
    /// Begins a SERIALIZABLE transaction, on `spare` if there is one, else on a connection of the pool.
    ///
    /// A connection that turns out to be dead costs no attempt: after a restart of the server the
    /// pool is full of them. Cancelled, BEGIN is finished and rolled back in the background.
    pub(crate) async fn begin(
        shared: &Arc<Shared>,
        mut spare: Option<Link>,
        read_only: bool,
    ) -> Result<Self, Error> {
        let mut tries = shared
            .pool
            .options()
            .get_max_connections()
            .saturating_add(1);
        loop {
            let link = match spare.take() {
                Some(link) => link,
                None => Link::acquire(shared).await?,
            };
            match Detached::new(link.begin(Arc::clone(shared), read_only)).await {
                Ok(transaction) => return Ok(transaction),
                Err(error) if tries > 0 && retry::meaning(&error) == Some(Meaning::Lost) => {
                    tracing::debug!(%error, "dead connection at BEGIN, taking another one");
                    tries -= 1;
                }
                Err(error) => return Err(Error::database(retry::kind_at_begin(&error), error)),
            }
        }
    }

    /// Ends this transaction and begins the next one in its place, in one round trip. `None` if the
    /// connection is not fit for it. Not to be cancelled: run it in a [`Detached`].
    pub(crate) async fn restart(mut self) -> Option<Self> {
        let link = self.link.take()?;
        let link = link.restart(self.read_only).await?;
        Some(Self::on(link, self.server, self.read_only))
    }

    fn on(link: Link, server: Kind, read_only: bool) -> Self {
        Self {
            link: Some(link),
            server,
            read_only,
            depth: 0,
            dropped: None,
            seal: None,
        }
    }

    /// The connection, for statements. One that was broken off would let them wait for nothing.
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        match &mut self.link {
            Some(link) if !link.broken => link.connection(),
            _ => Err(gone()),
        }
    }

    /// The connection is not to be trusted before it has shown that it is in step.
    fn doubt(&mut self) {
        if let Some(link) = &mut self.link {
            link.doubtful = true;
        }
    }

    /// The connection is not to be used again.
    pub(crate) fn break_off(&mut self) {
        if let Some(link) = &mut self.link {
            link.broken = true;
        }
    }

    /// How many savepoints are open.
    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    /// Makes the transaction READ ONLY if `read_only` and it is not yet.
    pub(crate) async fn narrow(&mut self, read_only: bool) -> Result<(), sqlx::Error> {
        if read_only && !self.read_only {
            self.connection()?
                .execute("SET TRANSACTION READ ONLY")
                .await?;
            self.read_only = true;
        }
        Ok(())
    }

    /// Opens a savepoint and returns its depth, counted from 1.
    pub(crate) async fn savepoint(&mut self) -> Result<u32, sqlx::Error> {
        let depth = self.depth + 1;
        self.send(format!("SAVEPOINT interlock_{depth}")).await?;
        self.depth = depth;
        Ok(depth)
    }

    /// Keeps what was done since the savepoint.
    pub(crate) async fn release(&mut self, depth: u32) -> Result<(), sqlx::Error> {
        self.send(format!("RELEASE SAVEPOINT interlock_{depth}"))
            .await?;
        self.leave(depth);
        Ok(())
    }

    /// Reads what the server still has to say.
    pub(crate) async fn drain(&mut self) -> Result<(), sqlx::Error> {
        drain(self.connection()?).await
    }

    /// Undoes what was done since the savepoint.
    pub(crate) async fn roll_back_to(&mut self, depth: u32) -> Result<(), sqlx::Error> {
        self.send(format!(
            "ROLLBACK TO SAVEPOINT interlock_{depth}; RELEASE SAVEPOINT interlock_{depth}"
        ))
        .await?;
        self.leave(depth);
        self.dropped = self.dropped.filter(|dropped| *dropped < depth);
        Ok(())
    }

    /// Remembers that the savepoint was dropped: nothing can be sent from `Drop`.
    pub(crate) fn drop_savepoint(&mut self, depth: u32) {
        self.dropped = Some(self.dropped.map_or(depth, |dropped| dropped.min(depth)));
    }

    /// The savepoint that has to be rolled back to before anything else is sent.
    pub(crate) fn dropped_savepoint(&self) -> Option<u32> {
        self.dropped
    }

    /// Marks the transaction, before something is sent that could end it unseen.
    ///
    /// The mark lives and dies with the transaction, so [`verify`](Self::verify) finds out even
    /// when another transaction was begun in its place.
    pub(crate) async fn seal(&mut self) -> Result<(), sqlx::Error> {
        if self.seal.is_none() {
            self.connection()?
                .execute("SAVEPOINT interlock_seal")
                .await?;
            self.seal = Some(self.depth);
            self.doubt();
        }
        Ok(())
    }

    /// Reads what the server still has to say, and breaks the seal. Fails, each time, unless this
    /// transaction is open and healthy, on the server and for sqlx.
    ///
    /// Not with `SELECT 1`, which also succeeds after the transaction has ended: a savepoint is
    /// unknown outside of its transaction, and refused in an aborted one, by both servers.
    pub(crate) async fn verify(&mut self) -> Result<(), sqlx::Error> {
        let verified = self.try_verify().await;
        verified.map_err(|error| match retry::meaning(&error) {
            Some(Meaning::Failed) => Error::database(ErrorKind::Aborted, error).into_sqlx(),
            _ => error,
        })
    }

    async fn try_verify(&mut self) -> Result<(), sqlx::Error> {
        let sealed = self.seal.is_some();
        let connection = self.connection()?;
        if PgTransactionManager::get_transaction_depth(connection) != 1 {
            let cause = "a transaction of sqlx was left open, or ended this one";
            return Err(Error::because(ErrorKind::Aborted, cause).into_sqlx());
        }
        drain(connection).await?;
        if sealed {
            answers(
                connection,
                "RELEASE SAVEPOINT interlock_seal; SELECT 'in step'",
            )
            .await?;
            self.seal = None;
        }
        Ok(())
    }

    /// Fails as COMMIT would for a deferred constraint. CockroachDB has none.
    pub(crate) async fn check_constraints(&mut self) -> Result<(), sqlx::Error> {
        if self.server == Kind::PostgreSql {
            self.connection()?
                .execute("SET CONSTRAINTS ALL IMMEDIATE")
                .await?;
        }
        Ok(())
    }

    /// Does what a commit does, except for the commit.
    pub(crate) async fn rehearse(mut self) -> Result<(), CommitError> {
        let Err(error) = self.check_constraints().await else {
            return Ok(());
        };
        // Nothing was committed that could be unknown.
        let refusal = match retry::refusal(&error, self.server) {
            Some(refusal @ (Refusal::Conflict | Refusal::Rejected)) => refusal,
            _ => Refusal::Definite,
        };
        Err(CommitError {
            refusal,
            error,
            left: None,
        })
    }

    /// Commits. Not to be cancelled: run it in a [`Detached`].
    pub(crate) async fn commit(mut self) -> Result<(), CommitError> {
        let Some(mut link) = self.link.take() else {
            return Err(CommitError::unsent(gone()));
        };
        let connection = link.connection().map_err(CommitError::unsent)?;
        match PgTransactionManager::commit(connection).await {
            Ok(()) => {
                link.hand_on();
                Ok(())
            }
            Err(error) => match retry::refusal(&error, self.server) {
                None => {
                    tracing::error!(%error, "committed, but for its schema change");
                    link.close();
                    Ok(())
                }
                Some(refusal @ Refusal::Unknown) => {
                    link.close();
                    Err(CommitError {
                        refusal,
                        error,
                        left: None,
                    })
                }
                Some(refusal) => {
                    link.ended = true;
                    self.link = Some(link);
                    Err(CommitError {
                        refusal,
                        error,
                        left: Some(self),
                    })
                }
            },
        }
    }

    /// Rolls back. Not to be cancelled: run it in a [`Detached`].
    pub(crate) async fn roll_back(mut self) {
        if let Some(link) = self.link.take() {
            link.roll_back().await;
        }
    }

    async fn send(&mut self, statement: String) -> Result<(), sqlx::Error> {
        self.connection()?
            .execute(AssertSqlSafe(statement).into_sql_str())
            .await?;
        Ok(())
    }

    /// The savepoint is gone, and with it a seal that was set inside. That it could be left
    /// proves what the seal would have proved.
    fn leave(&mut self, depth: u32) {
        self.depth = depth - 1;
        self.seal = self.seal.filter(|seal| *seal < depth);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            let runtime = link.runtime.clone();
            // sqlx needs a runtime where a connection is dropped, as here when ours is gone.
            let _runtime = runtime.enter();
            runtime.spawn(link.roll_back());
        }
    }
}

/// Why a COMMIT was not acknowledged.
pub(crate) struct CommitError {
    pub(crate) refusal: Refusal,
    pub(crate) error: sqlx::Error,
    /// What the server has ended, where its connection can be used again.
    pub(crate) left: Option<Transaction>,
}

impl CommitError {
    fn unsent(error: sqlx::Error) -> Self {
        Self {
            refusal: Refusal::Definite,
            error,
            left: None,
        }
    }
}

fn gone() -> sqlx::Error {
    Error::because(ErrorKind::Aborted, "the transaction is gone").into_sqlx()
}
