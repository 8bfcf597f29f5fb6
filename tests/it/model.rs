//! Predicts the result of a request from the contract.
//!
//! The contract is docs/contract.md. Comments cite its rules by number. The model uses no code of
//! the crate but the names of results. It assumes a server that aborts a transaction at its first
//! error and undoes what is rolled back.

mod attempt;
mod errors;
mod settlement;
mod transaction;
mod wire;
pub(crate) mod write;

use std::{mem::replace, time::Duration};

use support::Kind;
use tower_interlock::{Error, ErrorKind, Outcome};

pub(crate) use self::wire::Strike;
use self::{attempt::Attempt, errors::Retry, settlement::Settled, wire::Wire};
use crate::{kit, script::Script};

/// The environment of a request.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) server: Kind,
    /// The number of connections of the pool.
    pub(crate) pool: u32,
    pub(crate) strikes: Vec<Strike>,
}

/// The predicted result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prediction {
    pub(crate) response: Reply,
    pub(crate) outcome: Outcome,
    pub(crate) attempts: u32,
    /// The rows that are stored in the end.
    pub(crate) rows: Vec<i64>,
    /// The hooks that ran.
    pub(crate) hooks: Vec<i64>,
    /// BEGINs and COMMITs that were sent for the attempts.
    pub(crate) begins: u32,
    pub(crate) commits: u32,
    /// How long the request waited for the server in vain.
    pub(crate) waited: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(u16),
    Problem(ErrorKind),
    /// Some 5xx. The rules leave open which.
    Failure,
    /// No response. The request panicked.
    Panic,
    /// No response. The client disconnected.
    Gone,
}

impl Reply {
    /// The reply of a response, which must be consistent with it.
    pub(crate) fn of(response: &kit::TestResponse) -> Self {
        match response.error() {
            Some(error) => {
                let kind = Error::kind(error);
                response.assert_problem(kind);
                assert_eq!(response.status.as_u16(), status_of(kind));
                Self::Problem(kind)
            }
            None => Self::Status(response.status.as_u16()),
        }
    }

    /// Whether this prediction matches what was `seen`.
    pub(crate) fn agrees_with(self, seen: Self) -> bool {
        match (self, seen) {
            (Self::Failure, Self::Status(status)) => status >= 500,
            (Self::Failure, Self::Problem(kind)) => status_of(kind) >= 500,
            (predicted, seen) => predicted == seen,
        }
    }
}

/// The predicted result of `script`. Attempts follow R1 to R5.
pub(crate) fn predict(script: &Script, world: &World) -> Prediction {
    let mut wire = Wire::new(world);
    let (mut lost, mut hidden, mut stale) = (false, false, 0);
    let mut attempts = 0;
    let (response, outcome) = loop {
        attempts += 1;
        let mut attempt = Attempt::new(script, attempts, &mut wire);
        let settled = attempt
            .visit()
            .and_then(|reply| attempt.settle(reply))
            .unwrap_or_else(|stop| attempt.stopped(stop));
        let (retry, open) = match settled {
            Settled::Done(reply, outcome) => break (reply, outcome),
            Settled::Retry(retry, open) => (retry, open),
        };
        // R1, R2, R3, R6, R7.
        let (allowed, kind) = match retry {
            Retry::Conflict => (true, ErrorKind::RetriesExhausted),
            Retry::Lost => (!replace(&mut lost, true), ErrorKind::Unavailable),
            Retry::Stale => {
                stale += 1;
                (stale <= world.pool + 1, ErrorKind::Unavailable)
            }
            Retry::Hidden => (!replace(&mut hidden, true), ErrorKind::TransactionAborted),
            Retry::Violation(_, kind) => (true, kind),
        };
        // R5.
        let in_time = !open || wire.roll_back(script.settings.deadline);
        if !allowed || !in_time || attempts == script.settings.max_attempts {
            break (Reply::Problem(kind), Outcome::RolledBack);
        }
    };
    Prediction {
        response,
        outcome,
        attempts,
        rows: wire.rows,
        hooks: wire.hooks,
        begins: wire.begins,
        commits: wire.commits,
        waited: wire.waited,
    }
}

/// The status of a problem of the crate.
fn status_of(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::Denied => 403,
        ErrorKind::NotFound => 404,
        ErrorKind::ConstraintViolation => 409,
        ErrorKind::RetriesExhausted | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => 503,
        _ => 500,
    }
}
