//! One attempt: layers, policies, the handler, step by step.

use tower_interlock::{ErrorKind, Outcome};

use super::{
    Answer, meaning::Trouble, settlement::Settled, status_of, transaction::Transaction, wire::Wire,
};
use crate::script::{End, FOREVER, Layer, OnError, Part, Plain, Script, Step};

/// What one attempt has come to know.
pub(super) struct Attempt<'r> {
    pub(super) script: &'r Script,
    pub(super) number: u32,
    pub(super) wire: &'r mut Wire,
    /// A statement was asked for.
    pub(super) opened: bool,
    pub(super) transaction: Option<Transaction>,
    /// The errors that nothing has healed, and in which savepoint they came up.
    pub(super) noted: Vec<(Trouble, usize)>,
    pub(super) abandoned: bool,
    pub(super) escaped: bool,
    pub(super) verdict: Option<Verdict>,
    pub(super) rollback_only: bool,
    pub(super) commit_on_error: bool,
    pub(super) read_only: bool,
    /// Which `Tx` has the lease.
    pub(super) holder: Option<Holder>,
    /// In which savepoint the steps are.
    pub(super) within: usize,
    /// The hooks, and in which savepoint they were registered.
    pub(super) hooks: Vec<(i64, usize)>,
    writes: i64,
}

/// What no later success may cover. The worst one stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Refused,
    Denied,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Own,
    Rival,
    Escaped,
}

/// What comes out of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Said {
    Status(u16),
    Error(Trouble),
}

/// What ends an attempt before it has an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    Panic,
    Deadline,
    /// It waits for what never comes.
    Hung,
}

/// What a policy or the handler is stopped by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Halt {
    Error(Trouble),
    Stop(Stop),
}

impl<'r> Attempt<'r> {
    pub(super) fn new(script: &'r Script, number: u32, wire: &'r mut Wire) -> Self {
        Self {
            script,
            number,
            wire,
            opened: false,
            transaction: None,
            noted: Vec::new(),
            abandoned: false,
            escaped: false,
            verdict: None,
            rollback_only: false,
            commit_on_error: false,
            read_only: script.outer.read_only,
            holder: None,
            within: 0,
            hooks: Vec::new(),
            writes: 0,
        }
    }

    /// "Nested layers of one `Interlock` join the transaction that is there."
    pub(super) fn visit(&mut self) -> Result<Said, Stop> {
        let script = self.script;
        if let Some(refusal) = self.check(&script.outer)? {
            return Ok(refusal);
        }
        let Some(inner) = &script.inner else {
            return self.handle();
        };
        let said = self.join(inner)?;
        // "A 4xx/5xx seen by a joined layer stays."
        if matches!(said.status(), 400..=599) {
            self.verdict(Verdict::Refused);
        }
        Ok(if script.covered {
            Said::Status(200)
        } else {
            said
        })
    }

    /// "Inner `read_only` narrows; an inner writer under an outer `read_only` is a 500 `Misconfigured`."
    fn join(&mut self, inner: &Layer) -> Result<Said, Stop> {
        if self.read_only && !inner.read_only {
            self.verdict(Verdict::Failed);
            return Ok(Said::Error(Trouble::of(ErrorKind::Misconfigured)));
        }
        self.read_only = inner.read_only;
        match self.check(inner)? {
            Some(refusal) => Ok(refusal),
            None => self.handle(),
        }
    }

    /// "A check that could not run is a 5xx and a rollback, never a 403, never an allow."
    fn check(&mut self, layer: &Layer) -> Result<Option<Said>, Stop> {
        let said = self.part(&layer.policy)?;
        // What its statements have left unread or unseen belongs to the check.
        if self.transaction.is_some() && self.holder.is_none() {
            if let Err(Halt::Stop(stop)) = self.hold(Holder::Own) {
                return Err(stop);
            }
            self.holder = None;
        }
        let refusal = match (said, self.fault()) {
            (Some(said), _) => said,
            (None, None) => return Ok(None),
            (None, Some(Trouble { kind, .. })) => Said::Error(Trouble { again: None, kind }),
        };
        self.verdict(match refusal.status() {
            500..=599 => Verdict::Failed,
            _ => Verdict::Denied,
        });
        Ok(Some(refusal))
    }

    fn handle(&mut self) -> Result<Said, Stop> {
        match self.part(&self.script.handler) {
            Ok(said) => Ok(said.unwrap_or(Said::Status(200))),
            // "A `Tx` dropped during unwinding aborts the attempt."
            Err(Stop::Panic) if self.script.caught => {
                self.abandoned = true;
                Ok(Said::Status(200))
            }
            Err(stop) => Err(stop),
        }
    }

    /// `None` if a policy allows.
    fn part(&mut self, part: &Part) -> Result<Option<Said>, Stop> {
        let played = self.steps(&part.steps);
        // "An owned lease, given back on drop."
        let holder = self.holder.take();
        self.holder = holder.filter(|holder| *holder == Holder::Escaped);
        match played {
            Ok(()) => {}
            Err(Halt::Error(trouble)) => return Ok(Some(Said::Error(trouble))),
            Err(Halt::Stop(stop)) => return Err(stop),
        }
        Ok(match part.end {
            End::Pass => None,
            End::Answer(status) => Some(Said::Status(status)),
            End::Keep(status) => {
                self.commit_on_error = true;
                Some(Said::Status(status))
            }
            End::Escape => {
                self.escaped = true;
                if holder == Some(Holder::Own) {
                    self.holder = Some(Holder::Escaped);
                }
                None
            }
        })
    }

    pub(super) fn steps(&mut self, steps: &[Step]) -> Result<(), Halt> {
        steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &Step) -> Result<(), Halt> {
        let (done, on_error) = match step {
            Step::Do(statement, on_error) => (self.statement(*statement), *on_error),
            Step::Savepoint(steps, close, on_error) => (self.savepoint(steps, *close), *on_error),
            // "Any other statement future dropped unfinished aborts the attempt."
            Step::Abandon => {
                let done = self.plain(Plain::Read);
                self.abandoned |= done.is_ok();
                (done, OnError::Swallow)
            }
            Step::RollbackOnly => {
                self.rollback_only = true;
                return Ok(());
            }
            Step::Hook => {
                self.hooks.push((self.writes, self.within));
                return Ok(());
            }
            Step::Sleep => return Ok(()),
            Step::Hang => return Err(Halt::Stop(Stop::Hung)),
            Step::Panic => return Err(Halt::Stop(Stop::Panic)),
        };
        match done {
            Err(Halt::Error(_)) if on_error == OnError::Swallow => Ok(()),
            done => done,
        }
    }

    pub(super) fn next_write(&mut self) -> i64 {
        self.writes += 1;
        self.writes - 1
    }

    fn verdict(&mut self, verdict: Verdict) {
        self.verdict = self.verdict.max(Some(verdict));
    }

    /// What makes it unfit to succeed.
    pub(super) fn fault(&self) -> Option<Trouble> {
        let noted = self.noted.first().map(|(trouble, _)| *trouble);
        noted.or_else(|| self.abandoned.then(|| Trouble::of(ErrorKind::Aborted)))
    }

    /// What became of it, if it is not committed.
    pub(super) fn outcome(&self) -> Outcome {
        if self.opened {
            Outcome::RolledBack
        } else {
            Outcome::NoTransaction
        }
    }

    pub(super) fn stopped(&self, stop: Stop) -> Settled {
        let answer = match stop {
            // "Panic: rolled back, the panic goes on."
            Stop::Panic => Answer::Panic,
            // "`DeadlineExceeded`: before COMMIT was sent."
            Stop::Deadline => Answer::Problem(ErrorKind::DeadlineExceeded),
            Stop::Hung if self.script.settings.deadline < FOREVER => {
                Answer::Problem(ErrorKind::DeadlineExceeded)
            }
            // "Policy and handler may be cancelled at any await: that rolls back."
            Stop::Hung => Answer::Gone,
        };
        Settled::Answer(answer, self.outcome())
    }
}

impl Said {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Status(status) => status,
            Self::Error(trouble) => trouble.kind.map_or(500, status_of),
        }
    }

    pub(super) fn answer(self) -> Answer {
        match self {
            Self::Status(status) => Answer::Status(status),
            Self::Error(trouble) => trouble.kind.map_or(Answer::Failure, Answer::Problem),
        }
    }
}

impl From<Trouble> for Halt {
    fn from(trouble: Trouble) -> Self {
        Self::Error(trouble)
    }
}
