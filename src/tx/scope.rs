//! The scope of a task: the work that it is running.

use std::sync::Arc;

use crate::{
    database::Database,
    error::{Error, ErrorKind},
    observe::Phase,
    tx::slot::Slot,
};

tokio::task_local! {
    static SCOPE: Scope;
}

/// What a task is running.
#[derive(Clone)]
pub(crate) enum Scope {
    /// An attempt.
    Attempt(Arc<Slot>),
    /// A hook.
    Hook,
}

/// Runs `future` inside of `scope`. Tasks that it spawns are outside.
pub(crate) fn enter<F: Future>(scope: Scope, future: F) -> impl Future<Output = F::Output> {
    SCOPE.scope(scope, future)
}

/// The slot of the attempt that the task is running.
pub(crate) fn current_slot() -> Option<Arc<Slot>> {
    let slot = SCOPE.try_with(|scope| match scope {
        Scope::Attempt(slot) => Some(Arc::clone(slot)),
        Scope::Hook => None,
    });
    slot.ok().flatten()
}

/// The phase of the work that the task is running.
pub(crate) fn current_phase() -> Phase {
    let phase = SCOPE.try_with(|scope| match scope {
        Scope::Attempt(slot) => slot.phase(),
        Scope::Hook => Phase::Hook,
    });
    phase.unwrap_or(Phase::Work)
}

/// Who the work that the task is running is recorded for.
pub(crate) fn principal() -> Option<Arc<str>> {
    current_slot()?.principal().cloned()
}

/// A COMMIT that was sent by work inside of an attempt, on a connection of its own. Unless its
/// outcome becomes known, no attempt around it may be repeated, whatever the error is wrapped in.
pub(crate) struct PendingOutcome(Option<Arc<Slot>>);

impl PendingOutcome {
    /// To be made outside of the scope of the work that commits.
    pub(crate) fn new() -> Self {
        let slot = current_slot();
        around(slot.as_deref()).for_each(Slot::outcome_pending);
        Self(slot)
    }

    pub(crate) fn known(self) {
        around(self.0.as_deref()).for_each(Slot::outcome_known);
    }
}

fn around(slot: Option<&Slot>) -> impl Iterator<Item = &Slot> {
    std::iter::successors(slot, |slot| slot.outer())
}

/// Rejects a second transaction on `database` while the task has one open (T10): it would wait for
/// a connection, or for locks, that its own work holds.
///
/// # Errors
///
/// Returns `Misconfigured`.
pub(crate) fn check_no_open_transaction(database: &Arc<Database>) -> Result<(), Error> {
    let is_open = SCOPE.try_with(|scope| {
        let Scope::Attempt(slot) = scope else {
            return false;
        };
        around(Some(slot)).any(|slot| slot.is_of(database) && slot.is_open())
    });
    if is_open.unwrap_or(false) {
        return Err(Error::because(
            ErrorKind::Misconfigured,
            "a second transaction of one Interlock while the task has its Tx open: \
             it would wait for its own locks; run the statement on that Tx, before its first \
             statement, or in Tx::after_commit",
        ));
    }
    Ok(())
}
