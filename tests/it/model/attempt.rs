//! One attempt: its layers, policies and handler, step by step.

use std::mem::replace;

use tower_interlock::{ErrorKind, Outcome};

use super::{
    Reply,
    errors::Trouble,
    settlement::{Settled, ended},
    status_of,
    transaction::Transaction,
    wire::Wire,
};
use crate::script::{End, FOREVER, Layer, OnError, Part, Plain, Script, Step};

/// The state of one attempt.
pub(super) struct Attempt<'r> {
    pub(super) script: &'r Script,
    pub(super) number: u32,
    pub(super) wire: &'r mut Wire,
    /// The work ran a statement.
    pub(super) opened: bool,
    pub(super) transaction: Option<Transaction>,
    /// The recorded errors, and the depth of the savepoint in which each was raised.
    pub(super) recorded: Vec<(Trouble, usize)>,
    pub(super) abandoned: bool,
    pub(super) escaped: bool,
    pub(super) verdict: Option<Verdict>,
    pub(super) rollback_only: bool,
    pub(super) commit_on_error: bool,
    pub(super) read_only: bool,
    /// The transaction is with the `Tx`, also between statements.
    pub(super) away: bool,
    /// The `Tx` that has the lease.
    pub(super) holder: Option<Holder>,
    /// The depth of the savepoint that the steps run in.
    pub(super) within: usize,
    /// The hooks, and the depth of the savepoint in which each was registered.
    pub(super) hooks: Vec<(i64, usize)>,
    writes: i64,
}

/// A finding that no later success overrides. The strictest one stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// An inner layer saw a 4xx or a 5xx.
    InnerError,
    Denied,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Own,
    Rival,
    Escaped,
}

/// The reply of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum LayerReply {
    Status(u16),
    Error(Trouble),
}

/// The end of an attempt before its settlement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stop {
    Panic,
    Deadline,
    /// It waits for ever.
    Hung,
}

/// The reason why a policy or the handler stops.
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
            recorded: Vec::new(),
            abandoned: false,
            escaped: false,
            verdict: None,
            rollback_only: false,
            commit_on_error: false,
            read_only: script.outer.read_only,
            away: false,
            holder: None,
            within: 0,
            hooks: Vec::new(),
            writes: 0,
        }
    }

    /// T3.
    pub(super) fn visit(&mut self) -> Result<LayerReply, Stop> {
        let script = self.script;
        if let Some(rejection) = self.check(&script.outer)? {
            return Ok(rejection);
        }
        let Some(inner) = &script.inner else {
            return self.handle();
        };
        let returned = self.join(inner)?;
        // Rule 8 needs it.
        if matches!(returned.status(), 400..=599) {
            self.verdict(Verdict::InnerError);
        }
        Ok(if script.covered {
            LayerReply::Status(200)
        } else {
            returned
        })
    }

    /// T3: an inner `read_only` narrows, and a writer inside of `read_only` is `Misconfigured`.
    fn join(&mut self, inner: &Layer) -> Result<LayerReply, Stop> {
        if self.read_only && !inner.read_only {
            self.verdict(Verdict::Failed);
            return Ok(LayerReply::Error(Trouble::of(ErrorKind::Misconfigured)));
        }
        self.read_only = inner.read_only;
        match self.check(inner)? {
            Some(rejection) => Ok(rejection),
            None => self.handle(),
        }
    }

    /// The policy of a layer, which denies by rule 4 or fails by rule 5.
    fn check(&mut self, layer: &Layer) -> Result<Option<LayerReply>, Stop> {
        let returned = self.part(&layer.policy)?;
        // Errors that its statements left unread or unseen belong to the policy.
        if self.transaction.is_some() && self.holder.is_none() {
            if let Err(Halt::Stop(stop)) = self.hold(Holder::Own) {
                return Err(stop);
            }
            self.holder = None;
            self.away = false;
        }
        let rejection = match (returned, self.fault()) {
            (Some(LayerReply::Error(trouble)), _) => LayerReply::Error(trouble.of_check()),
            (Some(returned), _) => returned,
            (None, None) => return Ok(None),
            (None, Some(fault)) => {
                let Trouble { kind, .. } = fault.of_check();
                LayerReply::Error(Trouble { retry: None, kind })
            }
        };
        self.verdict(match rejection.status() {
            500..=599 => Verdict::Failed,
            _ => Verdict::Denied,
        });
        Ok(Some(rejection))
    }

    fn handle(&mut self) -> Result<LayerReply, Stop> {
        match self.part(&self.script.handler) {
            Ok(returned) => Ok(returned.unwrap_or(LayerReply::Status(200))),
            // T8.
            Err(Stop::Panic) if self.script.caught => {
                self.abandoned = true;
                Ok(LayerReply::Status(200))
            }
            Err(stop) => Err(stop),
        }
    }

    /// Runs a policy or the handler. `None` if it passes.
    fn part(&mut self, part: &Part) -> Result<Option<LayerReply>, Stop> {
        let played = self.steps(&part.steps);
        // T4.
        let holder = self.holder.take();
        self.holder = holder.filter(|holder| *holder == Holder::Escaped);
        let away = replace(&mut self.away, false);
        match played {
            Ok(()) => {}
            Err(Halt::Error(trouble)) => return Ok(Some(LayerReply::Error(trouble))),
            Err(Halt::Stop(stop)) => return Err(stop),
        }
        Ok(match part.end {
            End::Pass => None,
            End::Respond(status) => Some(LayerReply::Status(status)),
            End::Keep(status) => {
                self.commit_on_error = true;
                Some(LayerReply::Status(status))
            }
            End::Escape => {
                self.escaped = true;
                if holder == Some(Holder::Own) {
                    self.holder = Some(Holder::Escaped);
                    self.away = away;
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
            // T8.
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

    /// The error that keeps the attempt from being committed.
    pub(super) fn fault(&self) -> Option<Trouble> {
        let recorded = self.recorded.first().map(|(trouble, _)| *trouble);
        recorded.or_else(|| {
            self.abandoned
                .then(|| Trouble::of(ErrorKind::TransactionAborted))
        })
    }

    /// The outcome if the attempt is not committed.
    pub(super) fn outcome(&self) -> Outcome {
        if self.opened {
            Outcome::RolledBack
        } else {
            Outcome::NoTransaction
        }
    }

    pub(super) fn stopped(&self, stop: Stop) -> Settled {
        let timed_out = match stop {
            Stop::Panic => false,
            Stop::Deadline => true,
            Stop::Hung => self.script.settings.deadline < FOREVER,
        };
        let transaction = self.transaction.as_ref();
        if timed_out && transaction.is_some_and(Transaction::in_doubt) {
            return ended(); // T9
        }
        let reply = match stop {
            // Rule 1.
            Stop::Panic => Reply::Panic,
            // X2.
            Stop::Deadline => Reply::Problem(ErrorKind::DeadlineExceeded),
            Stop::Hung if self.script.settings.deadline < FOREVER => {
                Reply::Problem(ErrorKind::DeadlineExceeded)
            }
            // X1.
            Stop::Hung => Reply::Gone,
        };
        Settled::Done(reply, self.outcome())
    }
}

impl LayerReply {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::Status(status) => status,
            Self::Error(trouble) => trouble.kind.map_or(500, status_of),
        }
    }

    pub(super) fn reply(self) -> Reply {
        match self {
            Self::Status(status) => Reply::Status(status),
            Self::Error(trouble) => trouble.kind.map_or(Reply::Failure, Reply::Problem),
        }
    }
}

impl From<Trouble> for Halt {
    fn from(trouble: Trouble) -> Self {
        Self::Error(trouble)
    }
}
