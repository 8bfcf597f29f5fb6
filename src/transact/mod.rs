//! Transactions outside of requests.

mod receipt;

use std::{
    any::{Any, type_name},
    convert::Infallible,
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::Instant as Deadline;
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    attempt::{self, Attempt, Engine, Failure, Limits, Reply, ReplyClass, Step, Work},
    database::Access,
    error::{Error, ErrorKind},
    observe::{Finished, WorkKind},
    report::Outcome,
    transact::receipt::TransactionReceipt,
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
    idempotency_key: Option<Vec<u8>>,
}

impl<'i> TransactionBuilder<'i> {
    pub(crate) fn new(engine: &'i Engine, limits: Limits) -> Self {
        Self {
            engine,
            limits,
            name: None,
            access: Access::ReadWrite,
            principal: None,
            idempotency_key: None,
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

    /// Commits at most once for each key, which belongs to the name and the principal of the
    /// transaction. If it was committed before, the result is the error
    /// [`AlreadyDone`](crate::ErrorKind::AlreadyDone), and `work` does not run.
    ///
    /// The key is used up exactly if the transaction commits. It needs
    /// [`receipts`](crate::InterlockBuilder::receipts) and a [name](Self::named).
    pub fn idempotency_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.idempotency_key = Some(key.as_ref().to_vec());
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
        let (engine, access) = (self.engine, self.access);
        let running = engine.database.token();
        let context = engine.context(self.principal.clone().or_else(scope::principal));
        let receipt = match self.prepare(&context) {
            Ok(receipt) => receipt,
            Err(error) => {
                error.log();
                return Err(E::from(error));
            }
        };
        let started = Instant::now();
        let limit = Deadline::now() + self.limits.deadline;
        let mut work = ClosureWork {
            work,
            name,
            access,
            receipt,
        };
        let Ok(finished) = attempt::run(engine, &context, &self.limits, access, &mut work).await;
        let finished = match &work.receipt {
            Some(receipt) if finished.may_be_done() && Deadline::now() < limit => {
                match receipt.check_unused(&engine.database, limit).await {
                    // It was committed meanwhile, which may be the reason why this one has failed.
                    Err(error) if error.kind() == ErrorKind::AlreadyDone => {
                        FinishedClosure::failed(finished.attempts, error)
                    }
                    _ => finished,
                }
            }
            _ => finished,
        };
        drop(running);
        finished.report(name, &context, started.elapsed());
        finished.result
    }
}

impl TransactionBuilder<'_> {
    /// Checks that the transaction may begin, and prepares its receipt.
    fn prepare(&self, context: &WorkContext) -> Result<Option<TransactionReceipt>, Error> {
        scope::check_may_begin(&self.engine.database)?;
        let settings = self.engine.receipts.as_ref();
        let settings = settings.filter(|_| self.access == Access::ReadWrite);
        let principal = context.principal.as_ref();
        TransactionReceipt::new(
            settings,
            principal,
            self.name,
            self.idempotency_key.as_deref(),
        )
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
    receipt: Option<TransactionReceipt>,
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

    fn begins_outside(&self) -> bool {
        self.receipt.as_ref().is_some_and(|it| it.is_keyed())
    }

    async fn attempt(
        &mut self,
        attempt: &mut Attempt<'_>,
    ) -> Result<Step<Self::Output>, Infallible> {
        let attempts = attempt.number();
        let database = &attempt.context().database;
        if let Some(receipt) = &self.receipt
            && let Err(error) = receipt.check_unused(database, attempt.deadline()).await
        {
            attempt.skip();
            let failed = FinishedClosure::failed(attempts - 1, error);
            return Ok(Step::Done(failed));
        }
        let slot = attempt.open(self.access);
        let result = {
            let work = pin!(async { (self.work)(Tx::new(&slot)).await });
            attempt.run(&slot, work).await
        };
        let mut state = slot.close();
        let failure = match result {
            Some(result) => {
                let receipt = self.receipt.as_ref().filter(|_| result.is_ok());
                let receipt = receipt.map(|it| it.to_store(self.name, attempts, &mut state));
                let settled = match receipt.transpose() {
                    Ok(receipt) => attempt.settle(&mut state, reply_of(&result), receipt).await,
                    Err(error) => Err(Failure::Replaced(error, state.outcome())),
                };
                match settled {
                    Ok(outcome) => {
                        return Ok(Step::Done(FinishedClosure {
                            result,
                            error: None,
                            attempts,
                            outcome,
                        }));
                    }
                    Err(failure) => failure,
                }
            }
            None => attempt.settle_timeout(&state),
        };
        Ok(failure.into_step(|error, outcome| FinishedClosure {
            outcome,
            ..FinishedClosure::failed(attempts, error)
        }))
    }

    fn exhausted(&mut self, attempts: u32, error: Error) -> Self::Output {
        FinishedClosure::failed(attempts, error)
    }
}

impl<T, E: From<Error>> FinishedClosure<T, E> {
    fn failed(attempts: u32, error: Error) -> Self {
        Self {
            result: Err(E::from(error.clone())),
            outcome: match error.kind() {
                ErrorKind::AlreadyDone => Outcome::Replayed,
                _ => Outcome::RolledBack,
            },
            error: Some(error),
            attempts,
        }
    }

    /// Whether it has failed, perhaps since a copy of it was committed meanwhile.
    fn may_be_done(&self) -> bool {
        let kind = self.error.as_ref().map(Error::kind);
        self.result.is_err() && kind != Some(ErrorKind::AlreadyDone)
    }

    fn report(&self, name: &'static str, context: &WorkContext, duration: Duration) {
        // Once: a log repeats a field that is recorded again.
        Span::current().record("attempt", self.attempts);
        if let Some(error) = &self.error {
            error.log();
        }
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
