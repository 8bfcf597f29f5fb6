//! An observer that records its events.

use std::sync::{Arc, Mutex};

use tower_interlock::{
    ErrorKind, Outcome,
    observe::{
        AttemptEnded, ConnectionTaken, ErrorClass, JobEnd, JobRunEnded, Observer, Phase,
        StatementExecuted, WorkFinished, WorkKind,
    },
};

/// An observer that records its events.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<Seen>>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    Statement {
        attempt: u32,
        phase: Phase,
        sql: String,
        ok: bool,
        sqlstate: Option<String>,
    },
    Connection {
        attempt: u32,
        phase: Phase,
    },
    Attempt {
        number: u32,
        class: Option<ErrorClass>,
        sqlstate: Option<String>,
        retried: bool,
    },
    Finished {
        kind: WorkKind,
        names: Vec<&'static str>,
        principal: Option<String>,
        attempts: u32,
        outcome: Outcome,
        error: Option<ErrorKind>,
    },
    Job {
        end: JobEnd,
        reason: Option<String>,
    },
}

impl Recorder {
    /// The events since the last call.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// The phases and texts of the statements since the last call, if they succeeded.
    pub(crate) fn take_statements(&self) -> Vec<(Phase, String)> {
        let statements = self.take().into_iter().filter_map(|event| match event {
            Seen::Statement {
                phase,
                sql,
                ok: true,
                ..
            } => Some((phase, sql)),
            _ => None,
        });
        statements.collect()
    }

    /// What has become of jobs since the last call, and why.
    pub(crate) fn take_ends(&self) -> Vec<(JobEnd, Option<String>)> {
        let ends = self.take().into_iter().filter_map(|event| match event {
            Seen::Job { end, reason } => Some((end, reason)),
            _ => None,
        });
        ends.collect()
    }

    /// The outcome and the attempts of the last work.
    pub(crate) fn last(&self) -> Option<(Outcome, u32)> {
        let events = self.0.lock().unwrap();
        events.iter().rev().find_map(|event| match event {
            Seen::Finished {
                outcome, attempts, ..
            } => Some((*outcome, *attempts)),
            _ => None,
        })
    }

    fn push(&self, event: Seen) {
        self.0.lock().unwrap().push(event);
    }
}

impl Observer for Recorder {
    fn statement_executed(&self, statement: &StatementExecuted<'_>) {
        self.push(Seen::Statement {
            attempt: statement.attempt,
            phase: statement.phase,
            sql: statement.sql.to_owned(),
            ok: statement.ok,
            sqlstate: statement.sqlstate.map(str::to_owned),
        });
    }

    fn connection_taken(&self, taken: &ConnectionTaken) {
        self.push(Seen::Connection {
            attempt: taken.attempt,
            phase: taken.phase,
        });
    }

    fn attempt_ended(&self, attempt: &AttemptEnded<'_>) {
        self.push(Seen::Attempt {
            number: attempt.attempt,
            class: attempt.class,
            sqlstate: attempt.sqlstate.map(str::to_owned),
            retried: attempt.retried,
        });
    }

    fn work_finished(&self, work: &WorkFinished<'_>) {
        self.push(Seen::Finished {
            kind: work.kind,
            names: work.names.to_vec(),
            principal: work.principal.map(str::to_owned),
            attempts: work.attempts,
            outcome: work.outcome,
            error: work.error,
        });
    }

    fn job_run_ended(&self, run: &JobRunEnded<'_>) {
        self.push(Seen::Job {
            end: run.end,
            reason: run.reason.map(str::to_owned),
        });
    }
}
