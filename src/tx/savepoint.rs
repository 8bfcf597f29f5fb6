//! Savepoints: a part of the transaction that can fail alone.

use std::fmt;

use crate::{
    database::Depth,
    tx::{executor::delegate_executor, lease::Lease},
};

/// A savepoint of the transaction, from [`Tx::savepoint`](crate::Tx::savepoint).
///
/// `&mut Savepoint` is a [`sqlx::Executor`]. Rolling back clears the errors of the statements that
/// ran on it, so that the work can go on and succeed. A serialization failure is not cleared: it
/// concerns the whole transaction, and the work is retried.
///
/// Dropped, also by a cancelled future, it is rolled back before the next statement or COMMIT.
///
/// ```
/// # use tower_interlock::{Error, Tx};
/// /// Stores a note if it is valid, and goes on without it otherwise.
/// async fn try_note(tx: &mut Tx, text: &str) -> Result<bool, Error> {
///     let mut savepoint = tx.savepoint().await?;
///     let inserted = sqlx::query("INSERT INTO notes (text) VALUES ($1)").bind(text).execute(&mut savepoint).await;
///     if inserted.is_err() {
///         savepoint.rollback().await?;
///         return Ok(false);
///     }
///     savepoint.release().await?;
///     Ok(true)
/// }
/// ```
///
/// # Constraint violations
///
/// PostgreSQL checks unique, exclusion and foreign key constraints against the newest rows, so the
/// row in the way may be one that the transaction cannot see. The work is therefore retried once
/// for such a violation, and its rollback to the savepoint stands only if the next attempt meets
/// the same one. To insert a row or else update or skip it, `INSERT … ON CONFLICT` is right and
/// cheaper. CockroachDB reports a row that the transaction cannot see as a serialization failure,
/// and nothing is retried for the others.
#[must_use = "a savepoint that is dropped is rolled back"]
pub struct Savepoint<'t> {
    lease: &'t mut Lease,
    depth: Depth,
    open: bool,
}

impl<'t> Savepoint<'t> {
    pub(crate) async fn open(lease: &'t mut Lease) -> Result<Self, sqlx::Error> {
        let depth = lease.savepoint().await?;
        Ok(Self {
            lease,
            depth,
            open: true,
        })
    }

    /// Opens a savepoint inside of this one.
    ///
    /// # Errors
    ///
    /// Returns the database's error, or an [`Error`](crate::Error) of this crate; convert it with
    /// `Error::from`.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        Savepoint::open(self.lease).await
    }

    /// Keeps what was done on it, if the transaction is kept.
    ///
    /// # Errors
    ///
    /// Returns the database's error, or an [`Error`](crate::Error) of this crate. If a statement on
    /// it failed, this fails as well, and the savepoint is rolled back.
    pub async fn release(mut self) -> Result<(), sqlx::Error> {
        self.lease.release(self.depth).await?;
        self.open = false;
        Ok(())
    }

    /// Rolls back to the savepoint and clears the errors recorded since.
    ///
    /// # Errors
    ///
    /// Returns the database's error, or an [`Error`](crate::Error) of this crate. After a
    /// serialization failure it may succeed, and the work is retried all the same.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.lease.roll_back_to(self.depth).await?;
        self.open = false;
        Ok(())
    }

    /// Registers a hook as [`Tx::after_commit`](crate::Tx::after_commit) does. It is dropped when
    /// the savepoint is rolled back.
    pub fn after_commit(&mut self, hook: impl Future<Output = ()> + Send + 'static) {
        self.lease.slot().after_commit(self.depth, Box::pin(hook));
    }

    /// Adds a value to the receipt as [`Tx::note`](crate::Tx::note) does. It is dropped when the
    /// savepoint is rolled back.
    pub fn note(&mut self, name: &'static str, value: impl Into<serde_json::Value>) {
        self.lease.slot().note(self.depth, name, value.into());
    }

    pub(crate) fn depth(&self) -> Depth {
        self.depth
    }

    pub(crate) fn lease(&mut self) -> &mut Lease {
        self.lease
    }
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if self.open {
            self.lease.drop_savepoint(self.depth);
        }
    }
}

delegate_executor!(Savepoint<'_>);

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint")
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
