//! The observer: what happens inside, for metrics, traces and audits.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use crate::error::ErrorClass;
use crate::{
    error::{Error, ErrorKind, sqlstate},
    report::Outcome,
};

/// Is told of every statement, attempt and end of work of an [`Interlock`](crate::Interlock).
///
/// Each method is called where the event happens, so it should be quick and must not block.
/// A panic in it is logged and changes nothing. Without an observer none of the events is made.
///
/// ```
/// use tower_interlock::observe::{AttemptEnded, Observer, WorkFinished};
///
/// struct Log;
///
/// impl Observer for Log {
///     fn attempt_ended(&self, attempt: &AttemptEnded<'_>) {
///         println!("attempt {} took {:?}, COMMIT {:?}", attempt.attempt, attempt.ran, attempt.committing);
///     }
///
///     fn work_finished(&self, work: &WorkFinished<'_>) {
///         println!("{:?}: {:?} after {} attempts", work.names, work.outcome, work.attempts);
///     }
/// }
///
/// # fn build(pool: sqlx::PgPool) -> tower_interlock::Interlock {
/// tower_interlock::Interlock::builder(pool).observe(Log).build()
/// # }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A statement of a [`Tx`](crate::Tx), a [`Savepoint`](crate::Savepoint) or a conditional write
    /// was executed.
    ///
    /// Not seen are statements on the raw [`Tx::connection`](crate::Tx::connection), and those
    /// that the crate sends itself, such as BEGIN and COMMIT.
    fn statement_executed(&self, statement: &StatementExecuted<'_>) {
        let _ = statement;
    }

    /// A [`Tx`](crate::Tx) has handed out its raw connection. Statements on it are not seen, up to
    /// the next statement on the `Tx`.
    fn connection_taken(&self, taken: &ConnectionTaken) {
        let _ = taken;
    }

    /// An attempt ended, by COMMIT, by ROLLBACK, or to be retried.
    ///
    /// An attempt that is dropped, or whose inner service fails without a response, has no such
    /// event.
    fn attempt_ended(&self, attempt: &AttemptEnded<'_>) {
        let _ = attempt;
    }

    /// A request, a transaction, a conditional write or a run of a job came to its end.
    ///
    /// Work that is dropped, such as a request whose client disconnected, has no such event, and
    /// neither has a request whose inner service fails without a response. Those of axum never do.
    fn work_finished(&self, work: &WorkFinished<'_>) {
        let _ = work;
    }

    /// A run of a job ended, and what has become of the job is recorded.
    ///
    /// It follows [`work_finished`](Self::work_finished) of the run. A run that was dropped has no
    /// such event, and neither has one whose process was killed.
    fn job_run_ended(&self, run: &JobRunEnded<'_>) {
        let _ = run;
    }
}

/// Identifies a request, a transaction or a conditional write within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkId(u64);

/// The kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WorkKind {
    /// A request behind a layer.
    Request,
    /// A closure of [`Interlock::transact`](crate::Interlock::transact).
    Transaction,
    /// A conditional write on the `Interlock`.
    ConditionalWrite,
    /// A run of a [job](crate::jobs).
    Job,
}

/// What has become of a job after a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JobEnd {
    /// It is done.
    Done,
    /// It has failed, and will be retried.
    Failed,
    /// A rule has denied it. It will never be run again.
    Denied,
    /// It has failed too often, or its payload cannot be decoded.
    Parked,
    /// The run has kept nothing, because its lease was over or its end could not be recorded.
    /// Another worker has the job, or it is due when the lease ends.
    LeaseLost,
}

/// Which part of the work executes a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// A policy.
    Policy,
    /// The handler, and the middleware between the layer and the handler.
    Handler,
    /// A closure of `transact`, a handler of jobs, or a conditional write outside of any other work.
    Work,
    /// A hook after the COMMIT.
    Hook,
}

/// A statement that was executed.
#[derive(Debug)]
#[non_exhaustive]
pub struct StatementExecuted<'a> {
    /// The work that it belongs to.
    pub work: WorkId,
    /// The attempt at that work, counted from 1.
    pub attempt: u32,
    /// The part of the work that executed it.
    pub phase: Phase,
    /// The text, with placeholders for the values.
    pub sql: &'a str,
    /// Whether it succeeded. A statement that was dropped before its end did not.
    pub ok: bool,
    /// The SQLSTATE, if the server replied with an error.
    pub sqlstate: Option<&'a str>,
}

/// A raw connection that was handed out.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ConnectionTaken {
    /// The work that it belongs to.
    pub work: WorkId,
    /// The attempt at that work, counted from 1.
    pub attempt: u32,
    /// The part of the work that has it.
    pub phase: Phase,
}

/// An attempt that ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct AttemptEnded<'a> {
    /// The work that it belongs to.
    pub work: WorkId,
    /// Its number, counted from 1.
    pub attempt: u32,
    /// The class of the error that it ended with, if that was an error of its transaction.
    pub class: Option<ErrorClass>,
    /// The SQLSTATE of that error.
    pub sqlstate: Option<&'a str>,
    /// Whether the work is retried.
    pub retried: bool,
    /// How long it waited: in the retry queue, for a connection and for BEGIN.
    pub waited: Duration,
    /// How long its policies, handler or closure ran, without `waited`.
    pub ran: Duration,
    /// How long it took to verify and to COMMIT or to decide against it.
    pub committing: Duration,
}

/// Work that came to its end.
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkFinished<'a> {
    /// The work.
    pub work: WorkId,
    /// The kind of work.
    pub kind: WorkKind,
    /// The policies of the last attempt, the name of the transaction, the kind of the job, or the
    /// text of the conditional write.
    pub names: &'a [&'static str],
    /// Who it is recorded for; see [`principal`](crate::InterlockBuilder::principal).
    pub principal: Option<&'a str>,
    /// The number of attempts.
    pub attempts: u32,
    /// The outcome of its transaction.
    pub outcome: Outcome,
    /// The kind of the error that it ended with, if that is one of this crate.
    pub error: Option<ErrorKind>,
    /// The SQLSTATE of that error.
    pub sqlstate: Option<&'a str>,
    /// How long it took, from the end of the request's body.
    pub duration: Duration,
}

/// A run of a job that ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct JobRunEnded<'a> {
    /// The id of the job.
    pub id: String,
    /// Its kind.
    pub kind: &'a str,
    /// Who it was enqueued for.
    pub principal: Option<&'a str>,
    /// The number of the run, counted from 1.
    pub run: u32,
    /// What has become of the job.
    pub end: JobEnd,
    /// The reason of the denial or failure.
    pub reason: Option<&'a str>,
}

/// One work as an observer sees it.
#[derive(Clone)]
pub(crate) struct Observation {
    observer: Arc<dyn Observer>,
    work: WorkId,
}

/// The durations of an attempt.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Durations {
    pub(crate) waited: Duration,
    pub(crate) ran: Duration,
    pub(crate) committing: Duration,
}

impl Observation {
    pub(crate) fn new(observer: &Arc<dyn Observer>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            observer: Arc::clone(observer),
            work: WorkId(NEXT.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(crate) fn statement_executed(
        &self,
        attempt: u32,
        phase: Phase,
        sql: &str,
        ok: bool,
        error: Option<&sqlx::Error>,
    ) {
        let sqlstate = error.and_then(sqlstate::code);
        self.tell(|observer| {
            observer.statement_executed(&StatementExecuted {
                work: self.work,
                attempt,
                phase,
                sql,
                ok,
                sqlstate: sqlstate.as_deref(),
            });
        });
    }

    pub(crate) fn connection_taken(&self, attempt: u32, phase: Phase) {
        self.tell(|observer| {
            observer.connection_taken(&ConnectionTaken {
                work: self.work,
                attempt,
                phase,
            });
        });
    }

    pub(crate) fn attempt_ended(
        &self,
        attempt: u32,
        error: Option<&Error>,
        retried: bool,
        durations: Durations,
    ) {
        self.tell(|observer| {
            observer.attempt_ended(&AttemptEnded {
                work: self.work,
                attempt,
                class: error.and_then(Error::class),
                sqlstate: error.and_then(Error::sqlstate),
                retried,
                waited: durations.waited,
                ran: durations.ran,
                committing: durations.committing,
            });
        });
    }

    pub(crate) fn work_finished(&self, finished: &Finished<'_>) {
        self.tell(|observer| {
            observer.work_finished(&WorkFinished {
                work: self.work,
                kind: finished.kind,
                names: finished.names,
                principal: finished.principal,
                attempts: finished.attempts,
                outcome: finished.outcome,
                error: finished.error.map(Error::kind),
                sqlstate: finished.error.and_then(Error::sqlstate),
                duration: finished.duration,
            });
        });
    }

    pub(crate) fn job_run_ended(&self, run: &JobRunEnded<'_>) {
        self.tell(|observer| observer.job_run_ended(run));
    }

    fn tell(&self, event: impl FnOnce(&dyn Observer)) {
        if catch_unwind(AssertUnwindSafe(|| event(&*self.observer))).is_err() {
            tracing::error!("the observer panicked");
        }
    }
}

/// The end of a work, before it is known to which one it belongs.
pub(crate) struct Finished<'a> {
    pub(crate) kind: WorkKind,
    pub(crate) names: &'a [&'static str],
    pub(crate) principal: Option<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) outcome: Outcome,
    pub(crate) error: Option<&'a Error>,
    pub(crate) duration: Duration,
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observation")
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}
