//! When it commits: the rules of `docs/contract.md`, as a table.

use crate::{
    attempt::reply::{Reply, ReplyClass},
    database::Access,
    error::{Error, ErrorClass, ErrorKind, sqlstate},
    tx::{SlotState, Stage, Verdict},
};

/// The end of an attempt's transaction.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Roll back, and retry.
    Retry(ErrorClass, Error),
    /// Roll back, and reply with this error.
    Replace(Error),
    /// Roll back. The reply stands.
    RollBack,
    /// Commit, or do a dry run of it.
    Commit,
}

/// Applies the first rule that fits. Rule 1, a panic, does not come here: it drops the attempt.
pub(crate) fn decide(state: &SlotState, reply: Reply<'_>) -> Decision {
    if state.has_escaped() {
        return rule_2();
    }
    let repeatable = !state.is_uncertain() && !reply.error.is_some_and(Error::is_unknown);
    if let Some((class, error)) = retryable(state, reply) {
        if repeatable {
            let is_of_check = matches!(state.verdict, Some(Verdict::Denied | Verdict::Failed));
            let error = if is_of_check {
                error.of_check()
            } else {
                error.clone()
            };
            return Decision::Retry(class, error); // rule 3
        }
        if let Some(error) = conflict(state, reply) {
            // R4: the reply says that nothing was changed, which is not known.
            return Decision::Replace(error.with_kind(ErrorKind::OutcomeUnknown));
        }
    }
    let error = state.first_error();
    match state.verdict {
        Some(Verdict::Denied) if error.is_none() => return rule_4(state, reply.class),
        Some(Verdict::Denied | Verdict::Failed) => return rule_5(state, reply, error),
        Some(Verdict::Rejected) | None => {}
    }
    let kept = reply.class == ReplyClass::ClientError && state.ending.keep_client_errors;
    if !reply.class.is_success() && !kept {
        return rule_6(state, reply);
    }
    if let Some(error) = error {
        return rule_7(state, error, repeatable);
    }
    if reply.class.is_success() && state.verdict == Some(Verdict::Rejected) {
        return aborted("a success over the 4xx or 5xx of an inner layer"); // rule 8
    }
    if state.ending.rollback_only {
        return Decision::RollBack; // rule 9; a dry run does everything except the COMMIT
    }
    Decision::Commit // rule 10
}

fn rule_2() -> Decision {
    let cause = "a Tx is kept past its request: in a spawned task, in a streaming body, in the \
         state, or forgotten; let the handler drop it, and use Tx::after_commit, a job or \
         Interlock::transact for what comes later";
    Decision::Replace(Error::because(ErrorKind::TxEscaped, cause))
}

/// A policy denied. It may redirect to a login page, as long as it has run no statement.
fn rule_4(state: &SlotState, class: ReplyClass) -> Decision {
    let redirects = class == ReplyClass::Redirect && state.stage == Stage::Unopened;
    if class.is_success() && !redirects {
        aborted("a success over the denial of a policy")
    } else {
        Decision::RollBack
    }
}

/// A policy failed, or denied although an error is recorded.
fn rule_5(state: &SlotState, reply: Reply<'_>, error: Option<Error>) -> Decision {
    if state.verdict == Some(Verdict::Failed) && reply.class == ReplyClass::ServerError {
        return rule_6(state, reply);
    }
    error.map_or_else(
        || aborted("a policy failed"),
        |error| Decision::Replace(error.of_check()),
    )
}

/// The reply is an error, which stands unless more is known of it.
fn rule_6(state: &SlotState, reply: Reply<'_>) -> Decision {
    let is_the_reply = |error: &&Error| {
        let status = error.status().as_u16();
        reply.status.is_none_or(|replied| replied == status)
    };
    let Some(error) = reply.error.filter(is_the_reply) else {
        return Decision::RollBack;
    };
    if state.skipped_insert && error.is_row_not_found() {
        let cause = "ON CONFLICT DO NOTHING has skipped the row";
        return Decision::Replace(Error::because(ErrorKind::Conflict, cause));
    }
    // A write in a READ ONLY transaction is a mistake of the work, and says nothing of the server.
    let is_mistake = state.access == Access::ReadOnly
        && error.kind() == ErrorKind::Unavailable
        && error.sqlstate() == Some(sqlstate::READ_ONLY_SQL_TRANSACTION);
    if is_mistake {
        return Decision::Replace(error.with_kind(ErrorKind::Database));
    }
    Decision::RollBack
}

/// An error is recorded. If an earlier error was hidden, only its consequence is known.
fn rule_7(state: &SlotState, error: Error, repeatable: bool) -> Decision {
    let first = state.errors.first().map(|recorded| recorded.class());
    if first == Some(ErrorClass::AlreadyAborted) && repeatable {
        Decision::Retry(ErrorClass::AlreadyAborted, error)
    } else {
        Decision::Replace(error.with_kind(ErrorKind::TransactionAborted))
    }
}

/// The error of rule 3: recorded, or known from the reply alone because it occurred on the raw
/// connection. Whether a lost connection of the reply was that one, the settlement has found out.
fn retryable<'s>(state: &'s SlotState, reply: Reply<'s>) -> Option<(ErrorClass, &'s Error)> {
    let recorded = state.errors.iter().map(|recorded| &recorded.error);
    let own =
        conflict(state, reply).filter(|error| error.class() != Some(ErrorClass::ConnectionLost));
    recorded
        .chain(own)
        .find_map(|error| Some((error.retryable_class(&state.known)?, error)))
}

/// The error of the reply, if it is retryable.
fn conflict<'r>(state: &SlotState, reply: Reply<'r>) -> Option<&'r Error> {
    let retryable = |error: &&Error| error.retryable_class(&state.known).is_some();
    reply.error.filter(retryable)
}

fn aborted(cause: &'static str) -> Decision {
    Decision::Replace(Error::because(ErrorKind::TransactionAborted, cause))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        database::Depth,
        error::{Known, Moment},
    };

    /// A row of the table: a state, a reply, and what is decided.
    fn decided(change: impl FnOnce(&mut SlotState), class: ReplyClass) -> String {
        let mut state = SlotState {
            stage: Stage::Opened,
            ..SlotState::default()
        };
        change(&mut state);
        let reply = Reply {
            class,
            error: None,
            status: None,
        };
        describe(decide(&state, reply))
    }

    fn describe(decision: Decision) -> String {
        match decision {
            Decision::Retry(class, _) => format!("retry {class:?}"),
            Decision::Replace(error) => format!("{:?}", error.kind()),
            Decision::RollBack => "roll back".to_owned(),
            Decision::Commit => "commit".to_owned(),
        }
    }

    fn record(error: &sqlx::Error) -> impl Fn(&mut SlotState) + use<> {
        let error = Error::recorded(error, Moment::ReadWrite);
        move |state| state.record(error.clone(), Depth::default())
    }

    fn lost() -> sqlx::Error {
        sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())
    }

    fn failure() -> sqlx::Error {
        sqlx::Error::Protocol("unexpected".to_owned())
    }

    use ReplyClass::{ClientError, Declined, Redirect, ServerError, Success};

    #[test]
    fn rule_2_escaped_tx_is_neither_committed_nor_retried() {
        let escape = |state: &mut SlotState| state.leases.alive = 1;
        assert_eq!(decided(escape, Success), "TxEscaped");
        let lost = record(&lost());
        let both = |state: &mut SlotState| {
            escape(state);
            lost(state);
        };
        assert_eq!(decided(both, ServerError), "TxEscaped");
    }

    #[test]
    fn rule_3_lost_connection_is_retried_whatever_the_reply() {
        for class in [Success, Redirect, ClientError, ServerError] {
            assert_eq!(decided(record(&lost()), class), "retry ConnectionLost");
        }
    }

    #[test]
    fn rule_3_unique_violation_is_retried_unless_it_is_known() {
        let violation = || Error::of_constraint("notes_pkey");
        let met = |state: &mut SlotState| {
            state.known = Known::Earlier(Vec::new());
            state.record(violation(), Depth::default());
        };
        assert_eq!(decided(met, Success), "retry ConstraintViolation");
        let known = |state: &mut SlotState| {
            state.known = Known::Earlier(violation().violation().cloned().into_iter().collect());
            state.record(violation(), Depth::default());
        };
        assert_eq!(decided(known, Success), "TransactionAborted");
        let on_cockroachdb = |state: &mut SlotState| {
            state.record(violation(), Depth::default());
        };
        assert_eq!(decided(on_cockroachdb, ClientError), "roll back");
    }

    fn decided_over(change: impl FnOnce(&mut SlotState), error: &Error) -> String {
        let mut state = SlotState::default();
        change(&mut state);
        let reply = Reply {
            class: ServerError,
            error: Some(error),
            status: Some(error.status().as_u16()),
        };
        describe(decide(&state, reply))
    }

    fn of_class(class: ErrorClass) -> Error {
        Error::from(lost()).with_class(class)
    }

    #[test]
    fn rule_3_error_of_the_reply_counts() {
        for class in [ErrorClass::SerializationFailure, ErrorClass::StaleSession] {
            let expected = format!("retry {class:?}");
            assert_eq!(decided_over(|_| (), &of_class(class)), expected);
        }
    }

    /// It may be one of the user's own.
    #[test]
    fn rule_3_lost_connection_that_is_not_recorded_is_not_retried() {
        assert_eq!(decided_over(|_| (), &Error::from(lost())), "roll back");
    }

    #[test]
    fn rule_3_unknown_outcome_is_not_retried_whatever_is_recorded() {
        let error = Error::from(lost()).with_kind(ErrorKind::OutcomeUnknown);
        assert_eq!(decided_over(|_| (), &error), "roll back");
        assert_eq!(decided_over(record(&lost()), &error), "roll back");
    }

    #[test]
    fn rule_3_unknown_outcome_inside_of_the_attempt_is_not_retried() {
        let lost = record(&lost());
        let uncertain = |state: &mut SlotState| {
            state.uncertain = 1;
            lost(state);
        };
        assert_eq!(decided(uncertain, ServerError), "roll back");
        assert_eq!(decided(uncertain, Success), "TransactionAborted");
        let conflict = of_class(ErrorClass::SerializationFailure);
        assert_eq!(decided_over(uncertain, &conflict), "OutcomeUnknown");
    }

    #[test]
    fn rule_4_denial_stands_and_cannot_become_a_success() {
        let deny = |state: &mut SlotState| state.verdict = Some(Verdict::Denied);
        assert_eq!(decided(deny, ClientError), "roll back");
        assert_eq!(decided(deny, Success), "TransactionAborted");
        assert_eq!(decided(deny, Redirect), "TransactionAborted");
        let unopened = |state: &mut SlotState| {
            deny(state);
            state.stage = Stage::Unopened;
        };
        assert_eq!(decided(unopened, Redirect), "roll back");
    }

    #[test]
    fn rule_5_failed_policy_is_a_server_error() {
        let fail = |state: &mut SlotState| state.verdict = Some(Verdict::Failed);
        assert_eq!(decided(fail, ServerError), "roll back");
        assert_eq!(decided(fail, Success), "TransactionAborted");
        let failure = record(&failure());
        let denied_over_an_error = |state: &mut SlotState| {
            state.verdict = Some(Verdict::Denied);
            failure(state);
        };
        assert_eq!(decided(denied_over_an_error, ClientError), "Database");
    }

    #[test]
    fn rule_6_error_reply_rolls_back_and_stands() {
        for class in [ClientError, ServerError, Declined] {
            assert_eq!(decided(|_| (), class), "roll back");
            assert_eq!(decided(record(&failure()), class), "roll back");
        }
    }

    #[test]
    fn rule_6_kept_client_error_commits() {
        let keep = |state: &mut SlotState| state.ending.keep_client_errors = true;
        assert_eq!(decided(keep, ClientError), "commit");
        assert_eq!(decided(keep, ServerError), "roll back");
        assert_eq!(decided(keep, Declined), "roll back");
    }

    #[test]
    fn rule_7_success_over_an_error_is_aborted() {
        assert_eq!(decided(record(&failure()), Success), "TransactionAborted");
        let abandon = |state: &mut SlotState| state.abandoned = true;
        assert_eq!(decided(abandon, Success), "TransactionAborted");
    }

    #[test]
    fn rule_8_success_over_a_rejection_is_aborted() {
        let reject = |state: &mut SlotState| state.verdict = Some(Verdict::Rejected);
        assert_eq!(decided(reject, Success), "TransactionAborted");
        assert_eq!(decided(reject, ClientError), "roll back");
    }

    #[test]
    fn rule_9_rollback_only_rolls_back() {
        let only = |state: &mut SlotState| state.ending.rollback_only = true;
        assert_eq!(decided(only, Success), "roll back");
    }

    #[test]
    fn rule_10_everything_else_commits() {
        assert_eq!(decided(|_| (), Success), "commit");
        assert_eq!(decided(|_| (), Redirect), "commit");
    }
}
