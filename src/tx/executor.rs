//! What can be done on a `Tx` and on its savepoints alike.

use std::{fmt, sync::Arc};

use crate::{
    database::Depth,
    tx::{lease::Lease, slot::Slot},
};

/// The transaction without the right to end it: what `&mut *tx` is, for a [`Tx`](crate::Tx) and
/// for a [`Savepoint`](crate::Savepoint).
///
/// `&mut TxExecutor` is a [`sqlx::Executor`]. A function that takes it runs on the transaction and
/// on a savepoint:
///
/// ```
/// use tower_interlock::{Error, Tx, TxExecutor};
///
/// async fn add_note(tx: &mut TxExecutor, text: &str) -> Result<(), Error> {
///     sqlx::query("INSERT INTO notes (text) VALUES ($1)").bind(text).execute(&mut *tx).await?;
///     sqlx::query("UPDATE counters SET notes = notes + 1").execute(tx).await?;
///     Ok(())
/// }
///
/// async fn handler(mut tx: Tx) -> Result<(), Error> {
///     add_note(&mut tx, "on the transaction").await?;
///     let mut savepoint = tx.savepoint().await?;
///     add_note(&mut savepoint, "on the savepoint").await?;
///     Ok(savepoint.release().await?)
/// }
/// ```
///
/// It is unsized, so it cannot be moved, and no two of them can be swapped: a savepoint stays on
/// its transaction.
///
/// ```compile_fail,E0277
/// # use tower_interlock::Tx;
/// fn swap(one: &mut Tx, other: &mut Tx) {
///     std::mem::swap(&mut **one, &mut **other);
/// }
/// ```
#[doc(alias = "PgConnection")]
pub struct TxExecutor<Tail: ?Sized = [()]> {
    lease: Lease,
    /// Inside of which savepoint hooks and notes are registered.
    depth: Depth,
    /// An array of no length, and unsized as a slice of it.
    _tail: Tail,
}

impl TxExecutor<[(); 0]> {
    pub(crate) fn new(slot: &Arc<Slot>) -> Self {
        Self {
            lease: Lease::new(Arc::clone(slot)),
            depth: Depth::default(),
            _tail: [],
        }
    }
}

impl TxExecutor {
    /// Rolls back at the end although the reply is a success.
    #[doc(alias = "rollback")]
    pub fn rollback_only(&mut self) {
        self.slot().set_rollback_only();
    }

    /// Runs `hook` in the background once COMMIT is acknowledged, after the hooks registered
    /// before.
    ///
    /// It runs at most once: not after a rollback, not for an attempt that is retried, not when
    /// COMMIT is never acknowledged, and not when the process ends before. The client's disconnect
    /// does not stop it, and [`drain`](crate::Interlock::drain) waits for it. The response does
    /// not. It is dropped when the savepoint that it was registered on is rolled back.
    pub fn after_commit(&mut self, hook: impl Future<Output = ()> + Send + 'static) {
        self.slot().after_commit(self.depth, Box::pin(hook));
    }

    /// Adds a value to the [receipt](crate::Receipts) of the work, such as the document that it
    /// changes. A second value with the same name replaces the first one.
    ///
    /// It is stored exactly if the receipt is, and dropped when the savepoint that it was added on
    /// is rolled back. Without receipts it is dropped. It must not be a secret, and a NUL in it
    /// fails the transaction, as in any text of the database.
    ///
    /// ```
    /// # use tower_interlock::{Error, Tx};
    /// # async fn update(mut tx: Tx, document: i64, body: &str) -> Result<(), Error> {
    /// tx.note("document", document);
    /// sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
    ///     .bind(document)
    ///     .bind(body)
    ///     .execute(&mut tx)
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Who has changed document 7:
    ///
    /// ```sql
    /// SELECT at, principal, policies, method, path FROM interlock_receipts
    /// WHERE detail @> '{"document": 7}' AND status <> 0 ORDER BY at;
    /// ```
    pub fn note(&mut self, name: &'static str, value: impl Into<serde_json::Value>) {
        self.slot().note(self.depth, name, value.into());
    }

    /// Returns the number of the attempt, counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.slot().attempt()
    }

    /// Returns who the work is recorded for; see
    /// [`principal`](crate::InterlockBuilder::principal). It is no authorization.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        self.slot().principal().map(|principal| &**principal)
    }

    pub(crate) fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    pub(crate) fn slot(&self) -> &Slot {
        self.lease.slot()
    }

    pub(crate) fn set_depth(&mut self, depth: Depth) {
        self.depth = depth;
    }
}

impl<Tail: ?Sized> fmt::Debug for TxExecutor<Tail> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxExecutor")
            .field("attempt", &self.lease.slot().attempt())
            .field("leased", &self.lease.is_granted())
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
