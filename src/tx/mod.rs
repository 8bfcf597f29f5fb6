//! The transaction in the hands of policies, handlers and closures.

mod execute;
mod executor;
mod lease;
mod misuse;
mod savepoint;
pub(crate) mod scope;
mod session;
mod slot;
mod state;
mod statement;
mod untracked;
mod words;

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use sqlx::PgConnection;

pub use self::{executor::TxExecutor, savepoint::Savepoint};
pub(crate) use self::{
    lease::Lease,
    session::alters_session,
    slot::{JobContext, Slot, SlotGuard, WorkContext},
    state::{PendingHook, SlotState, Stage, Verdict},
    untracked::{untracked_reads, untracked_words},
};
use crate::tx::{execute::delegate_executor, misuse::Keep};

/// The transaction of a request or a closure.
///
/// `&mut Tx` is a [`sqlx::Executor`], and so is the [`TxExecutor`] that it dereferences to:
/// `&mut *tx` runs a statement on a `tx: Tx` and on a `tx: &mut Tx`.
///
/// The transaction begins with the first statement, so it does not matter where among the arguments
/// `Tx` stands, and a request that is rejected before costs no BEGIN. It is SERIALIZABLE, it is the
/// same one for every policy and for the handler, and the [layer](crate::AuthorizeLayer) or
/// [`transact`](crate::Interlock::transact) alone ends it.
///
/// One `Tx` of a request is used at a time: the first statement takes the lease, and dropping the
/// `Tx` returns it. A statement on a second one meanwhile fails with
/// [`TxInUse`](crate::ErrorKind::TxInUse).
///
/// Every error of a statement is recorded, also one that the handler ignores: it aborted the
/// transaction, and a response that claims success becomes a 500. To go on after an error that is
/// expected, use a [`savepoint`](TxExecutor::savepoint).
///
/// A text that begins with transaction control (`COMMIT`, `SET TRANSACTION`, …) is rejected, and so
/// are `RESET ALL`, `DISCARD` and `LISTEN`.
///
/// # Session
///
/// A statement that leaves something on its session that outlives the transaction costs the
/// connection: it is closed after the transaction, and the pool makes a new one. That is a `SET` or
/// `RESET`, `PREPARE`, `DEALLOCATE`, `DO`, `DECLARE … WITH HOLD`, a temporary table, `set_config`,
/// an advisory lock of the session, and any text of several statements. `SET LOCAL`, `set_config(…,
/// …, true)` and `pg_advisory_xact_lock` end with the transaction and cost nothing. A function of
/// your own that changes its session is not seen: let it use `set_config` with `true`.
///
/// # Cancellation
///
/// A row stream may be dropped after any row. A statement that is dropped while the server executes
/// it (a timeout in the handler, a lost `select!`) may have taken effect or not: the work can then
/// no longer succeed.
///
/// A `Tx` must not outlive its work. In a spawned task or a streaming body it turns the response
/// into a 500 [`TxEscaped`](crate::ErrorKind::TxEscaped), and nothing is kept.
#[doc(alias = "Transaction")]
pub struct Tx {
    executor: TxExecutor<[(); 0]>,
}

impl Tx {
    pub(crate) fn new(slot: &Arc<Slot>) -> Self {
        Self {
            executor: TxExecutor::new(slot),
        }
    }

    /// Returns the raw connection, for what an [`Executor`](sqlx::Executor) cannot do.
    ///
    /// Statements on it are not tracked. One round trip before it is returned and one before the
    /// end verify that it is still the same transaction, and for a COMMIT that it is healthy. If it
    /// was ended, the outcome is [`Unknown`](crate::Outcome::Unknown), and the work is not retried.
    /// A COMMIT on it is not noticed if the connection is lost, or the deadline passes, right
    /// after: do not send one. A serialization failure on it is retried only if the policy, handler
    /// or closure returns it as an [`Error`](crate::Error).
    ///
    /// The connection is closed after the transaction. Whatever was left on its session would reach
    /// other requests, a temporary table even their permission checks, and there is no query that
    /// finds all of it: PostgreSQL does not list custom settings. So this is for imports and
    /// reports; a request that is sent often should use the `Tx` itself, because a new connection
    /// costs some milliseconds.
    ///
    /// # Errors
    ///
    /// Returns the database's error, or an [`Error`](crate::Error) of this crate; convert it with
    /// `Error::from`.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.lease().raw_connection().await
    }

    /// Commits although the response is a 4xx: for a counter of failed logins, or an audit row.
    ///
    /// It has no effect if a policy denied, a statement failed or the response is a 5xx. It
    /// consumes the `Tx` because nothing may follow it. A closure of
    /// [`transact`](crate::Interlock::transact) has no 4xx, so it has no effect there.
    pub fn commit_on_client_error(self) {
        self.slot().keep_client_errors();
    }
}

impl Deref for Tx {
    type Target = TxExecutor;

    fn deref(&self) -> &TxExecutor {
        &self.executor
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut TxExecutor {
        &mut self.executor
    }
}

delegate_executor!(Tx);

#[doc(hidden)]
impl<'never> Clone for Tx
where
    &'never Self: Keep,
{
    fn clone(&self) -> Self {
        <&'never Self>::never()
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tx").field(&self.executor).finish()
    }
}
