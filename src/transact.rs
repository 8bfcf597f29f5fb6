//! Transactions outside of requests.

use std::{
    any::{Any, type_name},
    convert::Infallible,
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    attempt::{self, Attempt, Engine, Limits, Reply, ReplyClass, Step, Work},
    database::Access,
    error::Error,
    observe::{Finished, WorkKind},
    report::Outcome,
    tx::{Tx, WorkContext, scope},
};

/// A transaction of [`Interlock::transaction`](crate::Interlock::transaction), before it
/// [runs](Self::run).
#[must_use = "it does nothing until it runs"]
pub struct TransactionBuilder<'i> {
    engine: &'i Engine,
    limits: Limits,
    name: Option<&'static str>,
    access: Access,
    principal: Option<Arc<str>>,
}

impl<'i> TransactionBuilder<'i> {
    pub(crate) fn new(engine: &'i Engine, limits: Limits) -> Self {
        Self {
            engine,
            limits,
            name: None,
            access: Access::ReadWrite,
            principal: None,
        }
    }

    /// Names the transaction, such as `"documents.purge"`, for the log and the observer. After a
    /// serialization failure, transactions of one name are retried in turn. Default: the type name
    /// of the closure.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Makes the transaction READ ONLY: the database rejects every write.
    pub fn read_only(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }

    /// Sets who the transaction is recorded for. Default: the principal of the request, inside of a
    /// request. It is no authorization.
    pub fn principal(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(Arc::from(principal.into()));
        self
    }

    /// Overrides [`InterlockBuilder::deadline`](crate::InterlockBuilder::deadline).
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.set_deadline(deadline);
        self
    }

    /// Overrides [`InterlockBuilder::grace`](crate::InterlockBuilder::grace).
    pub fn grace(mut self, grace: Duration) -> Self {
        self.limits.set_grace(grace);
        self
    }

    /// Overrides [`InterlockBuilder::max_attempts`](crate::InterlockBuilder::max_attempts).
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.limits.set_max_attempts(attempts);
        self
    }

    /// Runs `work` in a SERIALIZABLE transaction, as
    /// [`Interlock::transact`](crate::Interlock::transact) does.
    ///
    /// # Errors
    ///
    /// Returns the error of `work`, or an [`Error`] converted to it.
    pub async fn run<T, E, F, Fut>(self, work: F) -> Result<T, E>
    where
        F: FnMut(Tx) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: From<Error> + Send + 'static,
    {
        let name = self.name.unwrap_or_else(type_name::<F>);
        let span = tracing::error_span!("transact", name, attempt = Empty);
        self.run_named(name, work).instrument(span).await
    }

    async fn run_named<T, E, F, Fut>(self, name: &'static str, work: F) -> Result<T, E>
    where
        F: FnMut(Tx) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: From<Error> + Send + 'static,
    {
        let database = &self.engine.database;
        let running = database.token();
        if let Err(error) = scope::check_may_begin(database) {
            error.log();
            return Err(E::from(error));
        }
        let context = self
            .engine
            .context(self.principal.or_else(scope::principal));
        let started = Instant::now();
        let mut work = ClosureWork {
            work,
            name,
            access: self.access,
        };
        let Ok(finished) =
            attempt::run(self.engine, &context, &self.limits, self.access, &mut work).await;
        drop(running);
        finished.report(name, &context, started.elapsed());
        finished.result
    }
}

impl fmt::Debug for TransactionBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionBuilder")
            .field("name", &self.name)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// A closure as work.
struct ClosureWork<F> {
    work: F,
    name: &'static str,
    access: Access,
}

/// The end of the attempts at a closure.
struct FinishedClosure<T, E> {
    result: Result<T, E>,
    /// The error of this crate that took the place of the closure's result.
    error: Option<Error>,
    attempts: u32,
    outcome: Outcome,
}

impl<T, E, F, Fut> Work for ClosureWork<F>
where
    F: FnMut(Tx) -> Fut + Send,
    Fut: Future<Output = Result<T, E>> + Send,
    T: Send,
    E: From<Error> + Send + 'static,
{
    type Output = FinishedClosure<T, E>;
    type Error = Infallible;

    fn queue_key(&self) -> Option<&str> {
        Some(self.name)
    }

    async fn attempt(
        &mut self,
        attempt: &mut Attempt<'_>,
    ) -> Result<Step<Self::Output>, Infallible> {
        let attempts = attempt.number();
        let slot = attempt.open(self.access);
        let work = pin!(async { (self.work)(Tx::new(&slot)).await });
        let result = attempt.run(&slot, work).await;
        let mut state = slot.close();
        let failure = match result {
            Some(result) => match attempt.settle(&mut state, reply_of(&result)).await {
                Ok(outcome) => {
                    record_attempt(attempts);
                    return Ok(Step::Done(FinishedClosure {
                        result,
                        error: None,
                        attempts,
                        outcome,
                    }));
                }
                Err(failure) => failure,
            },
            None => attempt.settle_timeout(&state),
        };
        Ok(failure.into_step(|error, outcome| FinishedClosure::failed(attempts, error, outcome)))
    }

    fn exhausted(&mut self, attempts: u32, error: Error) -> Self::Output {
        FinishedClosure::failed(attempts, error, Outcome::RolledBack)
    }
}

impl<T, E: From<Error>> FinishedClosure<T, E> {
    fn failed(attempts: u32, error: Error, outcome: Outcome) -> Self {
        record_attempt(attempts);
        error.log();
        Self {
            result: Err(E::from(error.clone())),
            error: Some(error),
            attempts,
            outcome,
        }
    }

    fn report(&self, name: &'static str, context: &WorkContext, duration: Duration) {
        if let Some(observation) = &context.observation {
            observation.work_finished(&Finished {
                kind: WorkKind::Transaction,
                names: &[name],
                principal: context.principal.as_deref(),
                attempts: self.attempts,
                outcome: self.outcome,
                error: self.error.as_ref(),
                duration,
            });
        }
    }
}

/// Records the last attempt in the span, once: a log repeats a field that is recorded again.
fn record_attempt(attempt: u32) {
    Span::current().record("attempt", attempt);
}

/// The reply that the result of a closure is. An `Err` is never kept.
fn reply_of<T, E: 'static>(result: &Result<T, E>) -> Reply<'_> {
    let (class, error) = match result {
        Ok(_) => (ReplyClass::Success, None),
        Err(error) => (ReplyClass::Declined, (error as &dyn Any).downcast_ref()),
    };
    Reply {
        class,
        error,
        status: None,
    }
}
