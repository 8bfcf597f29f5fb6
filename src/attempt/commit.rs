//! The COMMIT of an attempt: its receipt before, its hooks after.

use std::{pin::pin, sync::Arc};

use futures_util::future::{Either, select};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use crate::{
    attempt::{
        failure::{Failure, Retry},
        limits::Deadlines,
    },
    database::{
        Access, CommitError, CommitFailure, Database, Detached, Health, Transaction, timeout_at,
    },
    error::{Error, ErrorClass, ErrorKind, Known, Moment, breaks_connection, describe, sqlstate},
    receipts::{self, Fence, Fenced, Receipt},
    report::Outcome,
    tx::{
        PendingHook, SlotState,
        scope::{self, Scope},
    },
};

/// Stores the receipt, commits, and waits for the acknowledgement.
pub(crate) async fn commit(
    state: &mut SlotState,
    receipt: Option<Box<Receipt>>,
    database: &Arc<Database>,
    deadlines: Deadlines,
) -> Result<Outcome, Failure> {
    let limit = deadlines.commit;
    let fence = match receipt {
        // Boxed: what is rarely needed is not to enlarge the future of every request.
        Some(receipt) => Box::pin(store(state, &receipt, database, deadlines.work)).await?,
        None => None,
    };
    let hooks = std::mem::take(&mut state.hooks);
    let known = std::mem::take(&mut state.known);
    let uncertain = state.is_uncertain();
    let Some(transaction) = state.transaction.take() else {
        run_hooks(hooks, database.token(), database);
        return Ok(Outcome::NoTransaction);
    };
    let (running, database) = (database.token(), Arc::clone(database));
    let committing = async move {
        let committed = match fence {
            // Boxed: what is rarely needed is not to enlarge the future of every request.
            Some(fence) => Box::pin(commit_or_decide(transaction, fence, deadlines)).await,
            None => transaction.commit(deadlines.given_up()).await,
        };
        log_commit(committed.as_ref().err().map(|(error, _)| error), limit);
        if committed.is_ok() {
            run_hooks(hooks, running, &database);
        }
        committed
    };
    match await_commit(committing, limit, &known).await {
        Ok(()) => Ok(Outcome::Committed),
        Err(Failure::Retry(retry)) if uncertain => Err(unrepeatable(&retry.error)),
        Err(failure) => Err(failure),
    }
}

/// Stores the receipt as the last statement of a transaction that may write. The fence can then
/// decide what has become of its COMMIT.
async fn store(
    state: &mut SlotState,
    receipt: &Receipt,
    database: &Arc<Database>,
    deadline: Instant,
) -> Result<Option<Fence>, Failure> {
    let Some(transaction) = &mut state.transaction else {
        return Ok(None);
    };
    if transaction.access() == Access::ReadOnly {
        return if receipt.fingerprint.is_none() {
            Ok(None)
        } else {
            let cause =
                "an idempotent request whose transaction is READ ONLY: no receipt can be stored";
            let error = Error::because(ErrorKind::Misconfigured, cause);
            Err(Failure::Replaced(error, Outcome::RolledBack))
        };
    }
    let stored = {
        let mut storing = Storing::new(transaction);
        let stored = {
            let store = async {
                let sql = storing.transaction.sql()?;
                receipts::store(database, sql, receipt).await
            };
            timeout_at(deadline, pin!(store)).await
        };
        storing.is_over = stored.is_some();
        stored
    };
    let Some(stored) = stored else {
        let error = Error::new(ErrorKind::DeadlineExceeded);
        return Err(Failure::Replaced(error, Outcome::RolledBack));
    };
    match stored {
        Ok(true) => Ok(Some(Fence::new(database, receipt))),
        Ok(false) => {
            let cause = "another request with the same idempotency key has committed";
            let error = Error::because(ErrorKind::RetriesExhausted, cause);
            Err(not_stored(
                state,
                Some(ErrorClass::SerializationFailure),
                error,
            ))
        }
        Err(error) => {
            if breaks_connection(&error, Moment::ReadWrite) {
                transaction.mark(Health::Broken);
            }
            let error = Error::recorded(&error, Moment::ReadWrite);
            let class = error.retryable_class(&state.known);
            Err(not_stored(state, class, error))
        }
    }
}

/// A transaction whose receipt is being stored. Dropped before that is over, its statement is
/// abandoned.
struct Storing<'t> {
    transaction: &'t mut Transaction,
    is_over: bool,
}

impl<'t> Storing<'t> {
    fn new(transaction: &'t mut Transaction) -> Self {
        Self {
            transaction,
            is_over: false,
        }
    }
}

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.transaction.mark(Health::Abandoned);
        }
    }
}

fn not_stored(state: &mut SlotState, class: Option<ErrorClass>, error: Error) -> Failure {
    match class {
        Some(_) if state.is_uncertain() => unrepeatable(&error),
        Some(class) => Failure::Retry(Retry::of_state(class, error, state)),
        None => Failure::Replaced(error, Outcome::RolledBack),
    }
}

/// The failure of work that would repeat what is not known to have failed (R4).
fn unrepeatable(error: &Error) -> Failure {
    let error = error.with_kind(ErrorKind::OutcomeUnknown);
    Failure::Replaced(error, Outcome::Unknown)
}

/// Sends COMMIT. If it is not acknowledged, the fence decides. A COMMIT that is only slow goes on
/// meanwhile, since the server may stop one whose connection is closed.
async fn commit_or_decide(
    transaction: Transaction,
    fence: Fence,
    deadlines: Deadlines,
) -> Result<(), (CommitError, Option<Transaction>)> {
    let halfway = deadlines.halfway();
    let mut committing = Detached::new(transaction.commit(deadlines.three_quarters()));
    let unknown = |(error, _): &(CommitError, _)| error.failure == CommitFailure::Unknown;
    let replied = timeout_at(halfway, &mut committing).await;
    let (fenced, error) = match replied {
        Some(Err((error, _))) if error.failure == CommitFailure::Unknown => {
            (fence.decide(deadlines.given_up()).await, error)
        }
        Some(decided) => return decided,
        None => {
            let deciding = Box::pin(fence.decide(deadlines.given_up()));
            match select(committing, deciding).await {
                Either::Left((Err(failed), deciding)) if unknown(&failed) => {
                    (deciding.await, failed.0)
                }
                Either::Left((decided, _)) => return decided,
                // Dropped, the COMMIT is finished in the background.
                Either::Right((fenced, _)) => (fenced, CommitError::silent()),
            }
        }
    };
    tracing::info!(?fenced, "COMMIT was not acknowledged");
    match fenced {
        Fenced::Committed => Ok(()),
        Fenced::Void => Err((error.of_void(), None)),
        Fenced::Unknown => Err((error, None)),
    }
}

/// Awaits a COMMIT, or a statement that is its own COMMIT, until `limit`. Cancelled, it goes on in
/// the background.
pub(crate) async fn await_commit<T: Send + 'static>(
    committing: impl Future<Output = Result<T, (CommitError, Option<Transaction>)>> + Send + 'static,
    limit: Instant,
    known: &Known,
) -> Result<T, Failure> {
    // Work around this one must not be retried until the outcome is known.
    let pending = scope::PendingOutcome::new();
    let committing = Detached::new(committing.in_current_span());
    let Some(committed) = timeout_at(limit, committing).await else {
        let cause = "there was no reply to COMMIT in time; it goes on for a while, and its outcome will be logged";
        let error = Error::because(ErrorKind::OutcomeUnknown, cause);
        return Err(Failure::Replaced(error, Outcome::Unknown));
    };
    let unknown = |(error, _): &(CommitError, _)| error.failure == CommitFailure::Unknown;
    if !committed.as_ref().is_err_and(unknown) {
        pending.known();
    }
    committed.map_err(|(error, unfinished)| commit_failed(error, unfinished, known))
}

pub(crate) fn commit_failed(
    error: CommitError,
    unfinished: Option<Transaction>,
    known: &Known,
) -> Failure {
    let failure = error.failure;
    let error = error.into_error();
    match failure {
        CommitFailure::Retryable(ErrorClass::ConstraintViolation)
            if error.violation().is_none_or(|it| known.contains(it)) =>
        {
            Failure::Replaced(error, Outcome::RolledBack)
        }
        CommitFailure::Retryable(class) => Failure::Retry(Retry::new(class, error, unfinished)),
        CommitFailure::RolledBack => Failure::Replaced(error, Outcome::RolledBack),
        CommitFailure::Unknown => Failure::Replaced(error, Outcome::Unknown),
    }
}

/// Runs the hooks in the background, one after the other. A panic in one does not stop the next.
fn run_hooks(hooks: Vec<PendingHook>, running: TaskTrackerToken, database: &Arc<Database>) {
    if hooks.is_empty() {
        return;
    }
    let scope = Scope::Hook(Arc::clone(database));
    let hooks = async move {
        for PendingHook { hook, .. } in hooks {
            let hook = scope::enter(scope.clone(), hook);
            if tokio::spawn(hook.in_current_span()).await.is_err() {
                tracing::error!("an after_commit hook panicked");
            }
        }
        drop(running);
    };
    tokio::spawn(hooks.in_current_span());
}

/// Logs what came of a COMMIT that was awaited until `limit`.
pub(crate) fn log_commit(failed: Option<&CommitError>, limit: Instant) {
    let outcome = match failed.map(|failed| failed.failure) {
        None => "committed",
        Some(CommitFailure::Unknown) => "unknown",
        Some(_) => "rolled back",
    };
    let sqlstate = failed.and_then(|failed| sqlstate::code(&failed.error));
    let sqlstate = sqlstate.as_deref();
    let error = failed.map(|failed| describe(&failed.error));
    if Instant::now() >= limit {
        tracing::warn!(
            outcome,
            sqlstate,
            error,
            "a COMMIT that was reported as unknown is over"
        );
    } else if outcome == "unknown" {
        tracing::error!(outcome, sqlstate, error, "COMMIT");
    } else {
        tracing::debug!(outcome, sqlstate, error, "COMMIT");
    }
}
