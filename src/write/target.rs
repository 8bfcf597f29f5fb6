//! The targets that a conditional write runs on.

use crate::{
    error::Error,
    tx::{Savepoint, Tx, TxExecutor},
    write::statements::{BoundStatement, Written},
};

/// A target that a [`ConditionalWrite`](crate::ConditionalWrite) runs on: `&Interlock`, `&mut Tx`,
/// `&mut Savepoint` or the `&mut *tx` of both.
///
/// A pool is not among them, since no part of it would retry a serialization failure:
///
/// ```compile_fail,E0277
/// # use tower_interlock::{ConditionalWrite, Error};
/// async fn run(write: &ConditionalWrite, pool: &sqlx::PgPool) -> Result<u64, Error> {
///     write.unbound().execute(pool).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a conditional write does not run on `{Self}`",
    note = "it runs on `&Interlock`, `&mut Tx` or `&mut Savepoint`"
)]
pub trait WriteTarget: sealed::Target {}

impl<T: sealed::Target> WriteTarget for T {}

pub(crate) mod sealed {
    use super::{BoundStatement, Error, Unreadable, Written};

    #[expect(unnameable_types, reason = "it seals WriteTarget")]
    pub trait Target: Send {
        /// The fate of a write whose row cannot be decoded.
        const UNREADABLE: Unreadable;

        /// Writes, or finds the condition that is not true. `None` if there is none.
        fn run(
            self,
            statement: BoundStatement,
        ) -> impl Future<Output = Result<Option<Written>, Error>> + Send;
    }
}

/// The fate of a write whose row cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(unnameable_types, reason = "a part of what seals WriteTarget")]
pub enum Unreadable {
    /// It is kept: it was its own COMMIT.
    Kept,
    /// That is decided with its transaction.
    Open,
}

impl sealed::Target for &mut Tx {
    const UNREADABLE: Unreadable = Unreadable::Open;

    async fn run(self, statement: BoundStatement) -> Result<Option<Written>, Error> {
        run_in_transaction(self, &statement).await
    }
}

impl sealed::Target for &mut Savepoint<'_> {
    const UNREADABLE: Unreadable = Unreadable::Open;

    async fn run(self, statement: BoundStatement) -> Result<Option<Written>, Error> {
        run_in_transaction(self, &statement).await
    }
}

impl sealed::Target for &mut TxExecutor {
    const UNREADABLE: Unreadable = Unreadable::Open;

    async fn run(self, statement: BoundStatement) -> Result<Option<Written>, Error> {
        run_in_transaction(self, &statement).await
    }
}

/// The diagnosis sees the same state as the write, so that what it does not find is not there.
pub(crate) async fn run_in_transaction(
    tx: &mut TxExecutor,
    statement: &BoundStatement,
) -> Result<Option<Written>, Error> {
    let written = statement.write(&mut *tx).await?;
    if written.is_some() {
        return Ok(written);
    }
    statement.diagnose(tx).await?.map_or(Ok(None), Err)
}
