//! Work, and one attempt at it.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;

use crate::{
    attempt::{
        budget::exhausted,
        commit::{await_commit, log_commit},
        failure::{Failure, Retry},
        limits::{Deadlines, Limits},
        reply::Reply,
        settle,
    },
    database::{Access, CommitError, Server, Transaction, timeout_at},
    error::{Error, ErrorKind, Known, Violation},
    observe::Durations,
    receipts::Receipt,
    report::Outcome,
    tx::{
        SlotGuard, SlotState, WorkContext,
        scope::{self, Scope},
    },
};

/// Something that is attempted: a request, a closure, a conditional write.
pub(crate) trait Work: Send {
    type Output: Send;
    /// An error that ends the work without an output, as that of an inner service does.
    type Error: Send;

    /// The key of the queue in which the work waits after a serialization failure, if there is one.
    fn queue_key(&self) -> Option<&str>;

    /// Whether an attempt runs a statement outside of its transaction first. Then no transaction is
    /// begun for it in advance, so that it does not wait for a second connection.
    fn begins_outside(&self) -> bool {
        false
    }

    /// Whether the next attempt could begin.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Makes one attempt.
    fn attempt(
        &mut self,
        attempt: &mut Attempt<'_>,
    ) -> impl Future<Output = Result<Step<Self::Output>, Self::Error>> + Send;

    /// The output when there is no further attempt.
    fn exhausted(&mut self, attempts: u32, error: Error) -> Self::Output;
}

/// The end of an attempt.
pub(crate) enum Step<T> {
    Done(T),
    Retry(Retry),
}

impl Failure {
    /// The failure of work that cannot be done again.
    pub(crate) fn without_retry(self) -> Self {
        match self {
            Self::Retry(Retry { class, error, .. }) => {
                Self::Replaced(exhausted(class, &error), Outcome::RolledBack)
            }
            replaced @ Self::Replaced(..) => replaced,
        }
    }

    /// The step after a failed attempt, whose output is made from the error if it is done.
    pub(crate) fn into_step<T>(self, done: impl FnOnce(Error, Outcome) -> T) -> Step<T> {
        match self {
            Self::Replaced(error, outcome) => Step::Done(done(error, outcome)),
            Self::Retry(retry) => Step::Retry(retry),
        }
    }
}

/// One attempt at a work.
pub(crate) struct Attempt<'w> {
    context: &'w WorkContext,
    limits: &'w Limits,
    deadlines: Deadlines,
    number: u32,
    is_last: bool,
    /// A transaction that has begun in place of the previous attempt's.
    next_tx: Option<Transaction>,
    /// The violations of constraints that earlier attempts met.
    pub(crate) earlier_violations: Vec<Violation>,
    /// The times for the observer, if there is one.
    pub(crate) durations: Durations,
    pub(crate) error: Option<Error>,
    /// Whether the work was done before, so that there was no attempt.
    is_skipped: bool,
}

impl<'w> Attempt<'w> {
    pub(crate) fn new(
        context: &'w WorkContext,
        limits: &'w Limits,
        deadlines: Deadlines,
        number: u32,
        is_last: bool,
        next_tx: Option<Transaction>,
    ) -> Self {
        Self {
            context,
            limits,
            deadlines,
            number,
            is_last,
            next_tx,
            earlier_violations: Vec::new(),
            durations: Durations::default(),
            error: None,
            is_skipped: false,
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Records that the work was done before, so that there was no attempt.
    pub(crate) fn skip(&mut self) {
        self.is_skipped = true;
    }

    pub(crate) fn is_skipped(&self) -> bool {
        self.is_skipped
    }

    /// Whether there can be no further attempt.
    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }

    pub(crate) fn context(&self) -> &'w WorkContext {
        self.context
    }

    /// Until when everything before COMMIT may take.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadlines.work
    }

    /// When a statement that is its own COMMIT is given up, and its connection closed.
    pub(crate) fn given_up(&self) -> Instant {
        self.deadlines.given_up()
    }

    /// A slot for the attempt.
    pub(crate) fn open(&mut self, access: Access) -> SlotGuard {
        SlotGuard::new(
            self.context.clone(),
            self.number,
            access,
            self.next_tx.take(),
            self.known(),
            scope::current(),
        )
    }

    /// The violations of constraints that are no serialization failures.
    pub(crate) fn known(&self) -> Known {
        match self.context.database.known_server() {
            Some(Server::CockroachDb) => Known::All,
            Some(Server::PostgreSql) | None => Known::Earlier(self.earlier_violations.clone()),
        }
    }

    /// Runs `future` in the scope of the slot, until the deadline.
    pub(crate) async fn run<F>(&mut self, slot: &SlotGuard, future: F) -> Option<F::Output>
    where
        F: Future + Unpin,
    {
        let started = self.started();
        let scope = Scope::Attempt(Arc::clone(slot));
        let output = timeout_at(self.deadlines.work, pin!(scope::enter(scope, future))).await;
        if let Some(started) = started {
            self.durations.ran = started.elapsed();
        }
        output
    }

    /// Awaits what changes nothing by itself, until the deadline.
    pub(crate) async fn in_time<F: Future>(&self, future: F) -> Result<F::Output, Error> {
        let output = timeout_at(self.deadlines.work, pin!(future)).await;
        output.ok_or_else(|| Error::new(ErrorKind::DeadlineExceeded))
    }

    /// Settles the attempt, which ended with `reply`. `Ok` if the reply stands. If it commits,
    /// `receipt` is stored with it.
    pub(crate) async fn settle(
        &mut self,
        state: &mut SlotState,
        reply: Reply<'_>,
        receipt: Option<Box<Receipt>>,
    ) -> Result<Outcome, Failure> {
        let started = self.started();
        let waited = state.waited;
        let database = &self.context.database;
        let dry_run = self.limits.dry_run;
        let settled =
            settle::settle(state, reply, receipt, database, dry_run, self.deadlines).await;
        if let Some(started) = started {
            self.durations.committing = started.elapsed();
            self.durations.waited += waited;
            self.durations.ran = self.durations.ran.saturating_sub(waited);
            match &settled {
                Ok(_) => self.error = reply.error.cloned(),
                Err(failure) => self.note(failure),
            }
        }
        settled
    }

    /// Settles an attempt that ended with an error of the inner service. `None` if that error is
    /// the output.
    pub(crate) async fn settle_service_error(&mut self, state: &mut SlotState) -> Option<Failure> {
        let failure = settle::settle_service_error(state, self.deadlines).await?;
        self.note(&failure);
        Some(failure)
    }

    /// Settles an attempt that did not end before the deadline.
    pub(crate) fn settle_timeout(&mut self, state: &SlotState) -> Failure {
        let failure = settle::settle_timeout(state);
        self.note(&failure);
        failure
    }

    /// Awaits a statement that is its own COMMIT. Cancelled, it goes on in the background.
    pub(crate) async fn commit<T: Send + 'static>(
        &mut self,
        committing: impl Future<Output = Result<T, CommitError>> + Send + 'static,
    ) -> Result<T, Failure> {
        let started = self.started();
        let limit = self.deadlines.commit;
        let committing = async move {
            let committed = committing.await;
            log_commit(committed.as_ref().err(), limit);
            committed.map_err(|error| (error, None))
        };
        let committed = await_commit(committing, limit, &self.known()).await;
        if let Some(started) = started {
            self.durations.committing = started.elapsed();
            if let Err(failure) = &committed {
                self.note(failure);
            }
        }
        committed
    }

    /// Keeps the error for the observer.
    fn note(&mut self, failure: &Failure) {
        if self.context.observation.is_some() {
            self.error = Some(match failure {
                Failure::Replaced(error, _) => error.clone(),
                Failure::Retry(retry) => retry.error.clone(),
            });
        }
    }

    fn started(&self) -> Option<Instant> {
        self.context.observation.as_ref().map(|_| Instant::now())
    }
}
