//! What has to come of a conditional write on an `Interlock`.

use std::time::Duration;

use support::{Kind, Moment};
use tower_interlock::ErrorKind;

use super::{
    World,
    meaning::{Again, Commit, Trouble},
    wire::{HANGS, Heard, Strike, Wire},
};

/// How it is with the conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// All are true.
    True,
    /// One is not.
    False,
    /// All are true, and the statement finds nothing to write.
    Nothing,
    /// One is not true at first, and all are when the reason is looked for.
    TrueMeanwhile,
}

/// A write, and what goes wrong.
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

/// At the write when it is alone, and at the statement that finds the reason.
pub(crate) const WRITE: Moment = Moment::Text("INSERT INTO effects");
pub(crate) const REASON: Moment = Moment::Text("CASE WHEN");

/// Its answer, and how many rows are stored in the end.
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
    let mut together = false;
    for _ in 0..write.max_attempts {
        let mut tried = if together {
            run.together()
        } else {
            run.alone()
        };
        // "All true by then: write and diagnosis once more in one SERIALIZABLE transaction."
        if !together && matches!(tried, Err(Stop::Unexplained)) {
            together = true;
            tried = run.together();
        }
        let answer = match tried {
            Ok(()) => Ok(()),
            Err(Stop::Kind(kind)) => Err(kind),
            // "Still no row: `NotFound`."
            Err(Stop::Unexplained) => Err(ErrorKind::NotFound),
            Err(Stop::Again) => continue,
        };
        return (answer, run.rows);
    }
    (Err(ErrorKind::Contended), run.rows)
}

struct Run<'w> {
    write: &'w Write,
    wire: Wire,
    rows: usize,
}

enum Stop {
    Again,
    Unexplained,
    Kind(ErrorKind),
}

impl Run<'_> {
    /// "On `&Interlock` the statement is its own COMMIT." "No row back: one diagnosing statement."
    fn alone(&mut self) -> Result<(), Stop> {
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

    fn together(&mut self) -> Result<(), Stop> {
        self.begin()?;
        self.statement(&Moment::Statement(1))?;
        if self.write.scene == Scene::TrueMeanwhile {
            return self.commit(&Moment::Commit, 1);
        }
        self.statement(&Moment::Statement(2))?;
        Err(Stop::Unexplained)
    }

    /// "Its errors are classified as COMMIT's, a lost connection is `OutcomeUnknown`, only
    /// 40001/40P01 are retried."
    fn commit(&mut self, moment: &Moment, rows: usize) -> Result<(), Stop> {
        let patience = self.write.deadline + self.write.grace;
        let reply = self.wire.send(moment, patience);
        if reply.done {
            self.rows += rows;
        }
        Err(match Commit::of(&reply.heard, self.write.server) {
            Commit::Acknowledged => return Ok(()),
            Commit::Conflict => Stop::Again,
            Commit::Rejected => Stop::Kind(ErrorKind::Rejected),
            Commit::Refused => match &reply.heard {
                Heard::Error(error) => Stop::of(Trouble::reported(error)),
                _ => Stop::Kind(ErrorKind::Database),
            },
            Commit::Unknown => Stop::Kind(ErrorKind::OutcomeUnknown),
        })
    }

    /// A statement that keeps nothing by itself.
    fn statement(&mut self, moment: &Moment) -> Result<(), Stop> {
        let reply = self.wire.send(moment, self.write.deadline);
        Err(match &reply.heard {
            Heard::Done => return Ok(()),
            Heard::Silence => Stop::Kind(ErrorKind::DeadlineExceeded),
            Heard::Lost => Stop::Kind(ErrorKind::Unavailable),
            Heard::Error(error) => Stop::of(Trouble::reported(error)),
        })
    }

    /// "At BEGIN it costs no attempt (bounded by pool size + 1)."
    fn begin(&mut self) -> Result<(), Stop> {
        let deadline = self.write.deadline;
        let mut repeats = self.write.pool + 1;
        loop {
            let reply = self.wire.send(&Moment::Begin, deadline.min(HANGS));
            let trouble = match &reply.heard {
                Heard::Done => return Ok(()),
                Heard::Silence if deadline <= HANGS => {
                    return Err(Stop::Kind(ErrorKind::DeadlineExceeded));
                }
                Heard::Silence | Heard::Lost => Trouble::LOST,
                Heard::Error(error) => Trouble::reported_at_begin(error),
            };
            if trouble.again != Some(Again::Lost) || repeats == 0 {
                return Err(Stop::of(trouble));
            }
            repeats -= 1;
        }
    }
}

impl Stop {
    fn of(trouble: Trouble) -> Self {
        match trouble.again {
            Some(Again::Conflict) => Self::Again,
            _ => Self::Kind(trouble.kind.unwrap_or(ErrorKind::Database)),
        }
    }
}
