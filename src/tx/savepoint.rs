//! Savepoints: a part of the transaction that can fail alone.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use crate::{
    database::Depth,
    tx::{execute::delegate_executor, executor::TxExecutor},
};

/// A savepoint of the transaction, from [`Tx::savepoint`](TxExecutor::savepoint).
///
/// `&mut Savepoint` and `&mut *savepoint` are [`sqlx::Executor`]s. Rolling back clears the errors of
/// the statements that ran on it, so that the work can go on and succeed. A serialization failure is
/// not cleared: it concerns the whole transaction, and the work is retried.
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
    executor: &'t mut TxExecutor,
    /// Kept here as well: a savepoint inside of it that was forgotten does not end with it.
    depth: Depth,
    open: bool,
}

impl TxExecutor {
    /// Opens a savepoint. What is done on it can be undone, and its errors cleared, without giving
    /// up the transaction.
    ///
    /// # Errors
    ///
    /// Returns the database's error, or an [`Error`](crate::Error) of this crate; convert it with
    /// `Error::from`.
    #[doc(alias = "begin")]
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        let depth = self.lease().savepoint().await?;
        self.set_depth(depth);
        Ok(Savepoint {
            executor: self,
            depth,
            open: true,
        })
    }
}

impl Savepoint<'_> {
    /// Keeps what was done on it, if the transaction is kept.
    ///
    /// # Errors
    ///
    /// Returns the database's error, or an [`Error`](crate::Error) of this crate. If a statement on
    /// it failed, this fails as well, and the savepoint is rolled back.
    #[doc(alias = "commit")]
    pub async fn release(mut self) -> Result<(), sqlx::Error> {
        self.executor.lease().release(self.depth).await?;
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
        self.executor.lease().roll_back_to(self.depth).await?;
        self.open = false;
        Ok(())
    }
}

impl Deref for Savepoint<'_> {
    type Target = TxExecutor;

    fn deref(&self) -> &TxExecutor {
        self.executor
    }
}

impl DerefMut for Savepoint<'_> {
    fn deref_mut(&mut self) -> &mut TxExecutor {
        self.executor
    }
}

delegate_executor!(Savepoint<'_>);

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if self.open {
            self.executor.lease().drop_savepoint(self.depth);
        }
        self.executor.set_depth(self.depth.outside());
    }
}

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint")
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
