//! The settlement of an attempt: examine, decide; COMMIT and hooks, or roll back.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use crate::{
    attempt::{
        decide::{Decision, decide},
        examine::{examine, is_ended},
        reply::Reply,
    },
    database::{CommitError, CommitFailure, Database, Detached, Doubt, Transaction, timeout_at},
    error::{Error, ErrorClass, ErrorKind, Known, Violation, describe, sqlstate},
    report::Outcome,
    tx::{
        PendingHook, SlotState, Verdict,
        scope::{self, Scope},
    },
};

/// Why the reply of an attempt does not stand.
pub(crate) enum Failure {
    /// This error takes its place.
    Replaced(Error, Outcome),
    Retry(Retry),
}

/// An attempt that failed and may be retried.
pub(crate) struct Retry {
    pub(crate) class: ErrorClass,
    pub(crate) error: Error,
    /// The transaction, to be rolled back.
    pub(crate) unfinished: Option<Transaction>,
    /// The constraints that the attempt violated.
    pub(crate) violations: Vec<Violation>,
}

impl Retry {
    pub(crate) fn new(class: ErrorClass, error: Error, unfinished: Option<Transaction>) -> Self {
        let violations = error.violation().cloned().into_iter().collect();
        Self {
            class,
            error,
            unfinished,
            violations,
        }
    }

    fn of_state(class: ErrorClass, error: Error, state: &mut SlotState) -> Self {
        let recorded = state.errors.iter().map(|recorded| &recorded.error);
        let violations = recorded.filter_map(Error::violation).cloned().collect();
        Self {
            violations,
            ..Self::new(class, error, state.transaction.take())
        }
    }
}

/// Until when the steps of a settlement may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// Everything before COMMIT is sent.
    pub(crate) work: Instant,
    /// The acknowledgement of COMMIT.
    pub(crate) commit: Instant,
}

impl Deadlines {
    /// When a COMMIT that is not acknowledged is given up in the background as well, and its
    /// connection closed.
    pub(crate) fn given_up(self) -> Instant {
        self.commit + GIVEN_UP_AFTER
    }
}

const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

/// Settles an attempt that ended with `reply`. `Ok` if the reply stands.
///
/// Cancelled before COMMIT, it rolls back. Cancelled later, COMMIT and hooks are finished.
pub(crate) async fn settle(
    state: &mut SlotState,
    reply: Reply<'_>,
    database: &Arc<Database>,
    dry_run: bool,
    deadlines: Deadlines,
) -> Result<Outcome, Failure> {
    let examined = timeout_at(deadlines.work, pin!(examine(state, reply))).await;
    if examined.is_none() {
        return Err(settle_timeout(state));
    }
    let decision = decide(state, reply);
    // T9: what a text has committed in its middle is neither rolled back nor to be done again.
    if !matches!(decision, Decision::Commit) && is_ended(state, deadlines.work).await {
        return Err(ended(state, reply.error));
    }
    match decision {
        Decision::Retry(class, error) => Err(Failure::Retry(Retry::of_state(class, error, state))),
        Decision::Replace(error) => Err(Failure::Replaced(error, state.outcome())),
        Decision::RollBack => {
            let outcome = state.outcome();
            log_rollback(state, reply, outcome);
            Ok(outcome)
        }
        // Boxed: what only tests need is not to enlarge the future of every request.
        Decision::Commit if dry_run => Box::pin(dry_run_commit(state, deadlines.work)).await,
        Decision::Commit => commit(state, database, deadlines).await,
    }
}

/// Settles an attempt that ended with an error of the inner service. `None` if that error is the
/// reply.
pub(crate) async fn settle_service_error(
    state: &mut SlotState,
    deadlines: Deadlines,
) -> Option<Failure> {
    let retryable = state.errors.iter().find_map(|recorded| {
        let class = recorded.error.retryable_class(&state.known)?;
        Some((class, recorded.error.clone()))
    });
    let stands = state.has_escaped() || state.is_uncertain();
    let Some((class, error)) = retryable.filter(|_| !stands) else {
        tracing::debug!("the service failed, rolling back");
        return None;
    };
    if is_ended(state, deadlines.work).await {
        return Some(ended(state, None));
    }
    Some(Failure::Retry(Retry::of_state(class, error, state)))
}

/// Settles an attempt that did not end before the deadline.
pub(crate) fn settle_timeout(state: &SlotState) -> Failure {
    if state.doubt() == Some(Doubt::Text) {
        return ended(state, None);
    }
    let error = Error::new(ErrorKind::DeadlineExceeded);
    Failure::Replaced(error, state.outcome())
}

/// The failure of an attempt whose transaction was ended by other means, or may have been.
fn ended(state: &SlotState, error: Option<&Error>) -> Failure {
    let first = state.first_error();
    let error = Error::ended(first.as_ref().or(error));
    Failure::Replaced(error, Outcome::Unknown)
}

/// Commits, and waits for the acknowledgement.
async fn commit(
    state: &mut SlotState,
    database: &Arc<Database>,
    deadlines: Deadlines,
) -> Result<Outcome, Failure> {
    let limit = deadlines.commit;
    let hooks = std::mem::take(&mut state.hooks);
    let known = std::mem::take(&mut state.known);
    let uncertain = state.is_uncertain();
    let Some(transaction) = state.transaction.take() else {
        run_hooks(hooks, database.token(), database);
        return Ok(Outcome::NoTransaction);
    };
    let (running, database) = (database.token(), Arc::clone(database));
    let committing = async move {
        let committed = transaction.commit(deadlines.given_up()).await;
        log_commit(committed.as_ref().err().map(|(error, _)| error), limit);
        if committed.is_ok() {
            run_hooks(hooks, running, &database);
        }
        committed
    };
    match await_commit(committing, limit, &known).await {
        Ok(()) => Ok(Outcome::Committed),
        // It would repeat what is not known to have failed.
        Err(Failure::Retry(retry)) if uncertain => {
            let error = retry.error.with_kind(ErrorKind::OutcomeUnknown);
            Err(Failure::Replaced(error, Outcome::Unknown))
        }
        Err(failure) => Err(failure),
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

fn commit_failed(error: CommitError, unfinished: Option<Transaction>, known: &Known) -> Failure {
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

/// Does everything that a commit does, except for the commit.
async fn dry_run_commit(state: &mut SlotState, deadline: Instant) -> Result<Outcome, Failure> {
    let outcome = state.outcome();
    let checked = match state.transaction.take() {
        Some(transaction) => timeout_at(deadline, pin!(transaction.dry_run_commit())).await,
        None => Some(Ok(())),
    };
    match checked {
        Some(Ok(())) => Ok(outcome),
        Some(Err(error)) => Err(commit_failed(error, None, &state.known)),
        None => {
            let error = Error::new(ErrorKind::DeadlineExceeded);
            Err(Failure::Replaced(error, outcome))
        }
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

/// Logs a reply that stands although nothing is committed. An [`Error`] in it is logged where it
/// leaves.
fn log_rollback(state: &SlotState, reply: Reply<'_>, outcome: Outcome) {
    let status = reply.status;
    let error = state.first_error();
    let sqlstate = error.as_ref().and_then(Error::sqlstate);
    let logged = reply.error.is_some();
    match state.verdict {
        Some(Verdict::Denied) if !logged => tracing::info!(status, "a policy denied"),
        Some(Verdict::Failed) if !logged => tracing::error!(status, sqlstate, "a policy failed"),
        _ if outcome == Outcome::RolledBack => tracing::debug!(status, sqlstate, "rolled back"),
        _ => {}
    }
}
