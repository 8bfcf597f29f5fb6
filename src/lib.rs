//! Transactional authorization.

mod attempt;
mod body;
mod detach;
mod error;
mod held;
mod interlock;
mod layer;
mod policy;
mod report;
mod retry;
mod savepoint;
mod server;
mod settlement;
mod slot;
mod statement;
mod transaction;
mod tx;

pub use crate::{
    error::{Denied, Error, ErrorKind},
    interlock::Interlock,
    layer::{Authorize, AuthorizeLayer, ResponseFuture},
    policy::{Authorized, Policy},
    report::{Outcome, Report},
    savepoint::Savepoint,
    tx::Tx,
};

/// The guard for permission tables on PostgreSQL: `sql/serializable_guard.sql`, which says how to
/// attach it.
///
/// It makes the function `interlock_guard()`, for a trigger that refuses changes of permissions in
/// transactions below SERIALIZABLE. CockroachDB needs no guard.
pub const SERIALIZABLE_GUARD: &str = include_str!("../sql/serializable_guard.sql");
