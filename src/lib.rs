//! Transactional authorization.

mod attempt;
mod body;
mod detach;
mod error;
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
