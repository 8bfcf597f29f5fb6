//! What has to come of a request, by the rules alone.
//!
//! It is written from the contract of the crate, whose sentences stand quoted at the code that
//! follows them, and uses nothing of the crate but the names of what it answers. The server that it
//! assumes aborts a transaction at its first error, and undoes what is rolled back.

mod attempt;
mod meaning;
mod settlement;
mod transaction;
mod wire;
pub(crate) mod write;

use std::{mem::replace, time::Duration};

use support::Kind;
use tower_interlock::{Error, ErrorKind, Outcome};

pub(crate) use self::wire::Strike;
use self::{attempt::Attempt, meaning::Again, settlement::Settled, wire::Wire};
use crate::{kit, script::Script};

/// Where a request is made.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) server: Kind,
    /// How many connections the pool has.
    pub(crate) pool: u32,
    pub(crate) strikes: Vec<Strike>,
}

/// What has to come of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prediction {
    pub(crate) answer: Answer,
    pub(crate) outcome: Outcome,
    pub(crate) attempts: u32,
    /// What is stored in the end.
    pub(crate) rows: Vec<i64>,
    /// The hooks that have run in the end.
    pub(crate) hooks: Vec<i64>,
    /// BEGINs and COMMITs that were sent for the attempts.
    pub(crate) begins: u32,
    pub(crate) commits: u32,
    /// How long it waited for what did not come.
    pub(crate) waited: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Status(u16),
    Problem(ErrorKind),
    /// Some 5xx: the rules leave open which.
    Failure,
    /// None, but a panic.
    Panic,
    /// None: the client has disconnected.
    Gone,
}

impl Answer {
    /// What an answer says, which must tell nothing more.
    pub(crate) fn of(answer: &kit::Answer) -> Self {
        match answer.response.extensions().get() {
            Some(error) => {
                let kind = Error::kind(error);
                answer.assert_problem(kind);
                assert_eq!(answer.status.as_u16(), status_of(kind));
                Self::Problem(kind)
            }
            None => Self::Status(answer.status.as_u16()),
        }
    }

    /// Whether this, predicted, is what was `seen`.
    pub(crate) fn agrees_with(self, seen: Self) -> bool {
        match (self, seen) {
            (Self::Failure, Self::Status(status)) => status >= 500,
            (Self::Failure, Self::Problem(kind)) => status_of(kind) >= 500,
            (predicted, seen) => predicted == seen,
        }
    }
}

/// "40001 and 40P01 anywhere; a connection lost before COMMIT was sent: in mid-transaction once."
/// "Verification failed: once retried if the cause was hidden (25P02)."
pub(crate) fn predict(script: &Script, world: &World) -> Prediction {
    let mut wire = Wire::new(world);
    let (mut lost, mut hidden) = (false, false);
    let mut attempts = 0;
    let (answer, outcome) = loop {
        attempts += 1;
        let mut attempt = Attempt::new(script, attempts, &mut wire);
        let settled = attempt
            .visit()
            .and_then(|answer| attempt.settle(answer))
            .unwrap_or_else(|stop| attempt.stopped(stop));
        let (again, open) = match settled {
            Settled::Answer(answer, outcome) => break (answer, outcome),
            Settled::Again(again, open) => (again, open),
        };
        // "`Contended`: attempts used up." "`Unavailable`: no usable connection."
        let (allowed, kind) = match again {
            Again::Conflict => (true, ErrorKind::Contended),
            Again::Lost => (!replace(&mut lost, true), ErrorKind::Unavailable),
            Again::Hidden => (!replace(&mut hidden, true), ErrorKind::Aborted),
        };
        // "ROLLBACK before the pause."
        let in_time = !open || wire.roll_back(script.settings.deadline);
        if !allowed || !in_time || attempts == script.settings.max_attempts {
            break (Answer::Problem(kind), Outcome::RolledBack);
        }
    };
    Prediction {
        answer,
        outcome,
        attempts,
        rows: wire.rows,
        hooks: wire.hooks,
        begins: wire.begins,
        commits: wire.commits,
        waited: wire.waited,
    }
}

/// "Answers the layer makes itself."
fn status_of(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::Denied => 403,
        ErrorKind::NotFound => 404,
        ErrorKind::Rejected => 409,
        ErrorKind::Contended | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => 503,
        _ => 500,
    }
}
