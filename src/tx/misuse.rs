//! What is not done to a `Tx`: its methods exist so that the compiler says what to do instead.
//!
//! Each is bound by a trait that nothing implements. A lifetime in the bound keeps it from being
//! rejected here.

use std::future::Ready;

use crate::tx::{executor::TxExecutor, savepoint::Savepoint};

#[doc(hidden)]
impl TxExecutor {
    pub fn commit<'never>(&mut self) -> Ready<Result<(), sqlx::Error>>
    where
        &'never Self: Commit,
    {
        <&'never Self>::never()
    }

    pub fn rollback<'never>(&mut self) -> Ready<Result<(), sqlx::Error>>
    where
        &'never Self: Rollback,
    {
        <&'never Self>::never()
    }

    pub fn begin<'never>(&mut self) -> Ready<Result<Savepoint<'_>, sqlx::Error>>
    where
        &'never Self: Begin,
    {
        <&'never Self>::never()
    }
}

#[diagnostic::on_unimplemented(
    message = "a `Tx` is committed by its layer, not by hand",
    label = "remove this call",
    note = "the layer commits if the handler returns a success, `transact` if the closure returns `Ok`",
    note = "on a savepoint, call `release`"
)]
#[expect(unnameable_types, reason = "nothing implements it")]
pub trait Commit {
    fn never() -> !;
}

#[diagnostic::on_unimplemented(
    message = "a `Tx` is rolled back by its layer, not by hand",
    label = "return an error instead",
    note = "the layer rolls back if the handler returns an error, `transact` if the closure returns `Err`",
    note = "to roll back under a success, call `rollback_only`; to roll back a part, use `savepoint`"
)]
#[expect(unnameable_types, reason = "nothing implements it")]
pub trait Rollback {
    fn never() -> !;
}

#[diagnostic::on_unimplemented(
    message = "a `Tx` is inside of its transaction already",
    label = "call `savepoint` instead",
    note = "the first statement on a `Tx` begins the transaction; a savepoint nests in it"
)]
#[expect(unnameable_types, reason = "nothing implements it")]
pub trait Begin {
    fn never() -> !;
}

#[diagnostic::on_unimplemented(
    message = "a `Tx` belongs to one request, and is not cloned",
    label = "this needs `Clone`",
    note = "take `mut tx: Tx` as an argument of the handler, and keep the pool or the `Interlock` in the state",
    note = "pass `&mut tx` to functions"
)]
#[expect(unnameable_types, reason = "nothing implements it")]
pub trait Keep {
    fn never() -> !;
}
