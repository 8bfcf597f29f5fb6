//! The settlement of an attempt: examine, decide; commit, or roll back.

use std::{pin::pin, sync::Arc};

use tokio::time::Instant;

use crate::{
    attempt::{
        commit::{commit, commit_failed},
        decide::{Decision, decide},
        examine::{examine, is_ended},
        failure::{Failure, Retry},
        limits::Deadlines,
        reply::Reply,
    },
    database::{Database, Doubt, timeout_at},
    error::{Error, ErrorKind},
    receipts::Receipt,
    report::Outcome,
    tx::{SlotState, Verdict},
};

/// Settles an attempt that ended with `reply`. `Ok` if the reply stands. If it commits, `receipt` is
/// stored with it.
///
/// Cancelled before COMMIT, it rolls back. Cancelled later, COMMIT and hooks are finished.
pub(crate) async fn settle(
    state: &mut SlotState,
    reply: Reply<'_>,
    receipt: Option<Box<Receipt>>,
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
        Decision::Commit => commit(state, receipt, database, deadlines).await,
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

/// Logs a reply that stands although nothing is committed. An [`Error`] in it is logged where it
/// leaves.
fn log_rollback(state: &SlotState, reply: Reply<'_>, outcome: Outcome) {
    let status = reply.status;
    let error = state.first_error();
    let sqlstate = error.as_ref().and_then(Error::sqlstate);
    let logged = reply.error.is_some();
    match state.verdict {
        Some(Verdict::Denied) if !logged => tracing::info!(status, "a policy denied"),
        Some(Verdict::Failed) if !logged => tracing::error!(
            status,
            sqlstate,
            "a policy failed; the log of axum::rejection, at TRACE, says why an extractor rejects"
        ),
        _ if outcome == Outcome::RolledBack => tracing::debug!(status, sqlstate, "rolled back"),
        _ => {}
    }
}
