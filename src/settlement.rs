//! The settlement of an attempt: commit it, roll it back, or run it again.

use std::{pin::pin, sync::Arc, time::Duration};

use axum_core::response::{IntoResponse as _, Response};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use crate::{
    detach::Detached,
    error::{Error, ErrorKind},
    interlock::{Settings, Shared},
    report::Outcome,
    retry::{self, Meaning, Refusal},
    slot::{Hook, State, Verdict},
    transaction::{CommitError, Transaction},
    until::until,
};

/// What comes of an attempt.
pub(crate) enum Settled {
    Answer {
        response: Response,
        outcome: Outcome,
    },
    Again {
        meaning: Meaning,
        error: Error,
        /// The transaction, to be ended.
        left: Option<Transaction>,
    },
}

/// Settles an attempt whose policies and handler have answered with `response`.
///
/// Cancelled before COMMIT, it rolls back. Cancelled later, COMMIT and hooks are finished.
pub(crate) async fn settle(
    mut state: State,
    response: Response,
    shared: &Arc<Shared>,
    settings: &Settings,
    deadline: Instant,
) -> Settled {
    let answer = Kind::of(&response, &state, settings);
    let verified = until(deadline, pin!(verify(&mut state, answer))).await;
    if verified.is_none() {
        return Settled::refused(Error::new(ErrorKind::DeadlineExceeded), state.outcome());
    }
    match decide(&state, answer, &response) {
        Decision::Again(meaning, error) => Settled::Again {
            meaning,
            error,
            left: state.transaction,
        },
        Decision::Refuse(error) => Settled::refused(error, state.outcome()),
        Decision::RollBack => {
            let outcome = state.outcome();
            log_rollback(&state, &response, outcome);
            Settled::Answer { response, outcome }
        }
        // Boxed: what is for tests only need not be in every request's future.
        Decision::Commit if settings.dry_run => Box::pin(rehearse(state, response, deadline)).await,
        Decision::Commit => commit(state, response, shared, later(deadline, settings.grace)).await,
    }
}

/// Settles an attempt whose service has answered with an error of its own. `None` if that error is
/// the answer.
pub(crate) fn settle_failure(state: State) -> Option<Settled> {
    let fault = state.faults.iter().find(|fault| fault.meaning.is_final());
    let Some(fault) = fault.filter(|_| !state.escaped()) else {
        tracing::debug!("the service failed, rolling back");
        return None;
    };
    Some(Settled::Again {
        meaning: fault.meaning,
        error: fault.error.clone(),
        left: state.transaction,
    })
}

impl Settled {
    pub(crate) fn refused(error: Error, outcome: Outcome) -> Self {
        Self::Answer {
            response: error.into_response(),
            outcome,
        }
    }
}

/// An answer that stands although nothing is committed. An [`Error`] in it is logged on its way out.
fn log_rollback(state: &State, response: &Response, outcome: Outcome) {
    let status = response.status().as_u16();
    let fault = state.fault();
    let sqlstate = fault.as_ref().and_then(Error::sqlstate);
    let told = response.extensions().get::<Error>().is_some();
    match state.verdict {
        Some(Verdict::Denied) if !told => tracing::info!(status, "a policy denied"),
        Some(Verdict::Failed) if !told => tracing::error!(status, sqlstate, "a policy failed"),
        _ if outcome == Outcome::RolledBack => tracing::debug!(status, sqlstate, "rolled back"),
        _ => {}
    }
}

/// A moment, or one that never comes if there is none so late.
pub(crate) fn later(moment: Instant, by: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
    let later = moment.checked_add(by);
    later
        .or_else(|| moment.checked_add(FOREVER))
        .unwrap_or(moment)
}

/// What an answer says about the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It claims that the request's effects are there.
    Success,
    /// A 4xx whose writes are to be kept.
    KeptError,
    Error,
}

impl Kind {
    fn of(response: &Response, state: &State, settings: &Settings) -> Self {
        let status = response.status();
        let succeeds = || {
            settings
                .commit_if
                .as_ref()
                .is_none_or(|condition| condition(response))
        };
        if (status.is_success() || status.is_redirection()) && succeeds() {
            Self::Success
        } else if status.is_client_error() && state.commit_on_error {
            Self::KeptError
        } else {
            Self::Error
        }
    }
}

enum Decision {
    Again(Meaning, Error),
    Refuse(Error),
    RollBack,
    Commit,
}

/// When it commits: the first rule that applies, numbered as in the docs of `AuthorizeLayer`.
/// (The first one, a panic, never comes here: it drops the attempt.)
fn decide(state: &State, answer: Kind, response: &Response) -> Decision {
    // 2
    if state.escaped() {
        let cause = "a Tx is still around: in a spawned task, in a streaming body, or forgotten";
        return Decision::Refuse(Error::because(ErrorKind::Escaped, cause));
    }
    // 3
    if let Some((meaning, error)) = retryable(state, response) {
        return Decision::Again(meaning, error);
    }
    let fault = state.fault();
    match (state.verdict, &fault) {
        // 4
        (Some(Verdict::Denied), None) => {
            // A policy may redirect to a login page, as long as it has not begun anything.
            let redirects = response.status().is_redirection() && !state.opened;
            return if answer == Kind::Success && !redirects {
                Decision::Refuse(aborted("an answer of success over the denial of a policy"))
            } else {
                Decision::RollBack
            };
        }
        // 5
        (Some(Verdict::Failed), _) if response.status().is_server_error() => {
            return Decision::RollBack;
        }
        (Some(Verdict::Failed | Verdict::Denied), _) => {
            return Decision::Refuse(fault.unwrap_or_else(|| aborted("a policy failed")));
        }
        (Some(Verdict::Refused) | None, _) => {}
    }
    // 7
    if answer == Kind::Error {
        return Decision::RollBack;
    }
    // 6
    if let Some(fault) = fault {
        let hidden = state
            .faults
            .first()
            .is_some_and(|first| first.meaning == Meaning::Hidden);
        return if hidden {
            Decision::Again(Meaning::Hidden, fault)
        } else {
            Decision::Refuse(fault.with_kind(ErrorKind::Aborted))
        };
    }
    if answer == Kind::Success && state.verdict == Some(Verdict::Refused) {
        return Decision::Refuse(aborted(
            "an answer of success over the 4xx or 5xx of a handler",
        ));
    }
    // 8, but for a dry run, which does everything except the COMMIT
    if state.rollback_only {
        return Decision::RollBack;
    }
    // 9
    Decision::Commit
}

/// A conflict or a lost connection, wherever it shows: also where only the answer tells of it,
/// because it happened on the raw connection.
fn retryable(state: &State, response: &Response) -> Option<(Meaning, Error)> {
    let noted = state
        .faults
        .iter()
        .map(|fault| (fault.meaning, &fault.error));
    let answered = response.extensions().get::<Error>();
    let answered = answered.and_then(|error| Some((error.meaning()?, error)));
    noted
        .chain(answered)
        .find(|(meaning, _)| meaning.is_final())
        .map(|(meaning, error)| (meaning, error.clone()))
}

/// Makes sure of a transaction that is to be committed, as far as statements could escape notice.
async fn verify(state: &mut State, answer: Kind) {
    if answer == Kind::Error || state.verdict > Some(Verdict::Refused) {
        return;
    }
    let Some(mut transaction) = state.transaction.take() else {
        return;
    };
    if let Some(depth) = transaction.dropped_savepoint() {
        if let Err(error) = transaction.drain().await {
            state.note(&error, depth);
        }
        match transaction.roll_back_to(depth).await {
            Ok(()) => drop(state.rolled_back(depth)),
            Err(error) => state.note(&error, 0),
        }
    }
    if state.fault().is_none()
        && let Err(error) = transaction.verify().await
    {
        state.note(&error, 0);
    }
    state.transaction = Some(transaction);
}

/// Commits, and waits for the answer until `limit`.
async fn commit(mut state: State, response: Response, shared: &Shared, limit: Instant) -> Settled {
    let hooks = std::mem::take(&mut state.hooks);
    let running = shared.running.token();
    let Some(transaction) = state.transaction.take() else {
        run_hooks(hooks, running);
        return Settled::Answer {
            response,
            outcome: Outcome::NoTransaction,
        };
    };
    let committing = acknowledge(transaction, hooks, running, limit).in_current_span();
    let Some(acknowledged) = until(limit, Detached::new(committing)).await else {
        let cause = "COMMIT was not answered in time; it goes on, and its outcome will be logged";
        return Settled::refused(
            Error::because(ErrorKind::OutcomeUnknown, cause),
            Outcome::Unknown,
        );
    };
    match acknowledged {
        Ok(()) => Settled::Answer {
            response,
            outcome: Outcome::Committed,
        },
        Err(error) => refused(error),
    }
}

/// Does everything that a commit does, except for the commit.
async fn rehearse(mut state: State, response: Response, deadline: Instant) -> Settled {
    let outcome = state.outcome();
    let rehearsed = match state.transaction.take() {
        Some(transaction) => until(deadline, pin!(transaction.rehearse())).await,
        None => Some(Ok(())),
    };
    match rehearsed {
        Some(Ok(())) => Settled::Answer { response, outcome },
        Some(Err(error)) => refused(error),
        None => Settled::refused(Error::new(ErrorKind::DeadlineExceeded), outcome),
    }
}

fn refused(refused: CommitError) -> Settled {
    let (kind, outcome) = match refused.refusal {
        Refusal::Conflict => {
            return Settled::Again {
                meaning: Meaning::Conflict,
                error: Error::database(ErrorKind::Contended, refused.error),
                left: refused.left,
            };
        }
        Refusal::Rejected => (ErrorKind::Rejected, Outcome::RolledBack),
        Refusal::Definite => (ErrorKind::Database, Outcome::RolledBack),
        Refusal::Unknown => (ErrorKind::OutcomeUnknown, Outcome::Unknown),
    };
    Settled::refused(Error::database(kind, refused.error), outcome)
}

/// The part that must not stop half-way: COMMIT, its log and its hooks.
pub(crate) async fn acknowledge(
    transaction: Transaction,
    hooks: Vec<(u32, Hook)>,
    running: TaskTrackerToken,
    limit: Instant,
) -> Result<(), CommitError> {
    let committed = transaction.commit().await;
    log(&committed, limit);
    if committed.is_ok() {
        run_hooks(hooks, running);
    }
    committed
}

/// Tells the log what became of a COMMIT that was awaited until `limit`.
pub(crate) fn log<T>(committed: &Result<T, CommitError>, limit: Instant) {
    let outcome = match committed {
        Ok(_) => "committed",
        Err(CommitError {
            refusal: Refusal::Unknown,
            ..
        }) => "unknown",
        Err(_) => "rolled back",
    };
    let error = committed.as_ref().err().map(|refused| &refused.error);
    let sqlstate = error.and_then(|error| error.as_database_error()?.code());
    let sqlstate = sqlstate.as_deref();
    let error = error.map(retry::describe);
    if Instant::now() >= limit {
        tracing::warn!(
            outcome,
            sqlstate,
            error,
            "a COMMIT that was answered as unknown is over"
        );
    } else if outcome == "unknown" {
        tracing::error!(outcome, sqlstate, error, "COMMIT");
    } else {
        tracing::debug!(outcome, sqlstate, error, "COMMIT");
    }
}

/// Runs the hooks in the background, one after the other. A panic in one does not stop the next.
fn run_hooks(hooks: Vec<(u32, Hook)>, running: TaskTrackerToken) {
    if hooks.is_empty() {
        return;
    }
    let hooks = async move {
        for (_, hook) in hooks {
            if tokio::spawn(hook.in_current_span()).await.is_err() {
                tracing::error!("an after_commit hook panicked");
            }
        }
        drop(running);
    };
    tokio::spawn(hooks.in_current_span());
}

fn aborted(cause: &'static str) -> Error {
    Error::because(ErrorKind::Aborted, cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_is_too_long() {
        let now = Instant::now();
        assert!(later(now, Duration::MAX) > now);
        let last = (0..64).fold(now, |moment, _| later(moment, Duration::MAX / 4));
        assert!(later(last, Duration::MAX) >= last);
    }
}
