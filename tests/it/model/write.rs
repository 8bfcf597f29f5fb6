//! Predicts the result of a conditional write on an `Interlock`.

use std::{mem::replace, time::Duration};

use support::{Kind, Moment};
use tower_interlock::ErrorKind;

use super::{
    World,
    errors::{Commit, Constraint, Retry, Trouble},
    wire::{BEGIN_HANGS, Heard, Strike, Wire},
};

/// The state of the conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// All are true.
    True,
    /// One is not.
    False,
    /// All are true, and the statement finds no row to write.
    Nothing,
    /// One is false for the write, and all are true for the diagnosis.
    TrueMeanwhile,
}

/// A write and its fault.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) scene: Scene,
    pub(crate) server: Kind,
    pub(crate) pool: u32,
    pub(crate) max_attempts: u32,
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) strike: Strike,
}

/// The moments of the write as a single statement, and of the diagnosis.
pub(crate) const WRITE: Moment = Moment::Text("INSERT INTO effects");
pub(crate) const REASON: Moment = Moment::Text("CASE WHEN");

/// The result of a write, and the number of stored rows.
pub(crate) fn predict(write: &Write) -> (Result<(), ErrorKind>, usize) {
    let mut run = Run {
        write,
        wire: Wire::new(&World {
            server: write.server,
            pool: write.pool,
            strikes: vec![write.strike.clone()],
        }),
        rows: 0,
    };
    let (mut in_transaction, mut lost, mut stale) = (false, false, 0);
    for attempt in 1.. {
        let mut result = if in_transaction {
            run.in_transaction()
        } else {
            run.single_statement()
        };
        // All conditions are true by now. Both statements run once more in one transaction.
        if !in_transaction && matches!(result, Err(Stop::Unexplained)) {
            in_transaction = true;
            result = run.in_transaction();
        }
        let last = attempt == write.max_attempts;
        let result = match result {
            Ok(()) => Ok(()),
            Err(Stop::Kind(kind)) => Err(kind),
            // R7
            Err(Stop::Violation(_, kind)) if last => Err(kind),
            Err(Stop::Violation(constraint, _)) => {
                run.wire.known.push(constraint);
                continue;
            }
            Err(Stop::Unexplained) => Err(ErrorKind::NotFound),
            // R1
            Err(Stop::Conflict) if last => Err(ErrorKind::RetriesExhausted),
            Err(Stop::Conflict) => continue,
            // R2
            Err(Stop::Lost) if last || replace(&mut lost, true) => Err(ErrorKind::Unavailable),
            Err(Stop::Lost) => continue,
            // R6
            Err(Stop::Stale) if last || stale > write.pool => Err(ErrorKind::Unavailable),
            Err(Stop::Stale) => {
                stale += 1;
                continue;
            }
        };
        return (result, run.rows);
    }
    unreachable!("the last attempt has a result")
}

struct Run<'w> {
    write: &'w Write,
    wire: Wire,
    rows: usize,
}

enum Stop {
    /// A serialization failure.
    Conflict,
    /// A connection that was lost before COMMIT was sent.
    Lost,
    /// A session of no use.
    Stale,
    Violation(Constraint, ErrorKind),
    Unexplained,
    Kind(ErrorKind),
}

impl Run<'_> {
    /// The write as a single statement, which is its own COMMIT (C7). Without a row, the diagnosis.
    fn single_statement(&mut self) -> Result<(), Stop> {
        let writes = self.write.scene == Scene::True;
        self.commit(&WRITE, usize::from(writes))?;
        if writes {
            return Ok(());
        }
        self.statement(&REASON)?;
        Err(match self.write.scene {
            Scene::False => Stop::Kind(ErrorKind::Denied),
            _ => Stop::Unexplained,
        })
    }

    /// The write and the diagnosis in one transaction.
    fn in_transaction(&mut self) -> Result<(), Stop> {
        self.begin()?;
        self.statement(&Moment::Statement(1))?;
        if self.write.scene == Scene::TrueMeanwhile {
            return self.commit(&Moment::Commit, 1);
        }
        self.statement(&Moment::Statement(2))?;
        Err(Stop::Unexplained)
    }

    /// A COMMIT, or a statement that is its own COMMIT: C2 to C7.
    fn commit(&mut self, moment: &Moment, rows: usize) -> Result<(), Stop> {
        let patience = self.write.deadline + self.write.grace;
        let delivery = self.wire.send(moment, patience);
        if delivery.done {
            self.rows += rows;
        }
        // The error of a statement says what failed. The error of COMMIT does not always.
        let commit = match moment {
            Moment::Commit => Commit::of(&delivery.heard, self.write.server),
            _ => Commit::of_write(&delivery.heard, self.write.server),
        };
        Err(match commit {
            Commit::Acknowledged => return Ok(()),
            Commit::Conflict => Stop::Conflict,
            Commit::Rejected(trouble) => match self.wire.met(trouble).retry {
                Some(Retry::Violation(constraint, kind)) => Stop::Violation(constraint, kind),
                _ => Stop::Kind(trouble.kind.unwrap_or(ErrorKind::Database)),
            },
            Commit::Unknown => Stop::Kind(ErrorKind::OutcomeUnknown),
        })
    }

    /// A statement that commits nothing.
    fn statement(&mut self, moment: &Moment) -> Result<(), Stop> {
        let delivery = self.wire.send(moment, self.write.deadline);
        Err(match &delivery.heard {
            Heard::Done => return Ok(()),
            Heard::Silence => Stop::Kind(ErrorKind::DeadlineExceeded),
            Heard::Lost => Stop::Lost,
            Heard::Error(error) => Stop::of(self.wire.met(Trouble::reported(error))),
        })
    }

    /// R2.
    fn begin(&mut self) -> Result<(), Stop> {
        let deadline = self.write.deadline;
        let mut retries_left = self.write.pool + 1;
        loop {
            let delivery = self.wire.send(&Moment::Begin, deadline.min(BEGIN_HANGS));
            let trouble = match &delivery.heard {
                Heard::Done => return Ok(()),
                Heard::Silence if deadline <= BEGIN_HANGS => {
                    return Err(Stop::Kind(ErrorKind::DeadlineExceeded));
                }
                Heard::Silence | Heard::Lost => Trouble::LOST,
                Heard::Error(error) => self.wire.met(Trouble::reported_at_begin(error)),
            };
            if !trouble.is_lost_at_begin(&delivery.heard) || retries_left == 0 {
                return Err(Stop::of(trouble));
            }
            retries_left -= 1;
        }
    }
}

impl Stop {
    fn of(trouble: Trouble) -> Self {
        match trouble.retry {
            Some(Retry::Conflict) => Self::Conflict,
            Some(Retry::Lost) => Self::Lost,
            Some(Retry::Stale) => Self::Stale,
            Some(Retry::Violation(constraint, kind)) => Self::Violation(constraint, kind),
            _ => Self::Kind(trouble.kind.unwrap_or(ErrorKind::Database)),
        }
    }
}
