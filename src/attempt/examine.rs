//! The examination of a transaction before its attempt is settled.

use tokio::time::Instant;

use crate::{
    attempt::reply::{Reply, ReplyClass},
    database::{Depth, Doubt, Health, Proof, Server, timeout_at},
    error::{Error, ErrorClass, sqlstate},
    tx::{SlotState, Verdict},
};

/// Finds out, as far as the settlement depends on it, what no statement has told.
pub(crate) async fn examine(state: &mut SlotState, reply: Reply<'_>) {
    verify(state, reply).await;
    find_lost(state, reply).await;
}

/// Whether the transaction was ended unseen. Without proof, a text with transaction control counts
/// as having ended it, and statements on the raw connection do not.
pub(crate) async fn is_ended(state: &mut SlotState, deadline: Instant) -> bool {
    let Some(doubt) = state.doubt() else {
        return false;
    };
    let Some(transaction) = &mut state.transaction else {
        return doubt == Doubt::Text; // An escaped `Tx` has it.
    };
    // Boxed: what is rarely needed is not to enlarge the future of every request.
    match timeout_at(deadline, Box::pin(transaction.prove())).await {
        Some(Proof::Same) => false,
        Some(Proof::Ended) => true,
        Some(Proof::None) | None => doubt == Doubt::Text,
    }
}

/// Verifies a transaction that is to be committed, as far as statements were not seen.
async fn verify(state: &mut SlotState, reply: Reply<'_>) {
    let denied = state.verdict > Some(Verdict::Rejected);
    let kept = state.ending.keep_client_errors && reply.class == ReplyClass::ClientError;
    if denied || !(reply.class.is_success() || kept) {
        return;
    }
    let Some(mut transaction) = state.transaction.take() else {
        return;
    };
    if let Some(depth) = transaction.dropped_savepoint() {
        if let Err(error) = transaction.drain().await {
            state.record_sqlx(&error, depth);
        }
        match transaction.roll_back_to(depth).await {
            Ok(()) => drop(state.roll_back_to(depth)),
            Err(error) => state.record_sqlx(&error, Depth::default()),
        }
    }
    if state.first_error().is_none()
        && let Err(error) = transaction.verify().await
    {
        state.record_sqlx(&error, Depth::default());
    }
    state.noted_doubt = transaction.doubt();
    state.transaction = Some(transaction);
}

/// Finds out whether the connection is lost where an error leaves that open. Whether the work may
/// be retried depends on it.
async fn find_lost(state: &mut SlotState, reply: Reply<'_>) {
    if state.has_retryable() || state.has_escaped() {
        return;
    }
    let Some(mut transaction) = state.transaction.take() else {
        return;
    };
    // A connection of the user's own may be meant: then the transaction is sound.
    if let Some(error) = reply.error
        && error.class() == Some(ErrorClass::ConnectionLost)
        && transaction.has_unseen()
        && let Err(failed) = transaction.verify().await
    {
        // Otherwise the connection still says whether the transaction was ended (T9).
        if Error::classify(&failed) == Some(ErrorClass::ConnectionLost) {
            transaction.mark(Health::Broken);
        }
        state.record(error.clone(), Depth::default());
    }
    // A CockroachDB node that drains cancels the statement first and closes the connection then.
    let codes = state.errors.iter().map(|recorded| &recorded.error);
    let canceled = codes
        .chain(reply.error)
        .any(|error| error.sqlstate() == Some(sqlstate::QUERY_CANCELED));
    if canceled
        && transaction.server() == Server::CockroachDb
        && let Some(error) = transaction.find_lost().await
    {
        state.record_sqlx(&error, Depth::default());
    }
    state.transaction = Some(transaction);
}
