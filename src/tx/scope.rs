//! The scope of a task: the work that it is running.

use std::{iter::successors, sync::Arc};

pub(crate) use crate::tx::slot::Scope;
use crate::{
    database::Database,
    error::{Error, ErrorKind},
    observe::Phase,
    tx::slot::Slot,
};

tokio::task_local! {
    static SCOPE: Scope;
}

/// Runs `future` inside of `scope`. Tasks that it spawns are outside.
pub(crate) fn enter<F: Future>(scope: Scope, future: F) -> impl Future<Output = F::Output> {
    SCOPE.scope(scope, future)
}

/// The scope that the task is in.
pub(crate) fn current() -> Option<Scope> {
    SCOPE.try_with(Scope::clone).ok()
}

/// Returns the phase of the work that the task is running, and the number of the attempt. `None`
/// outside of work, and in tasks that work has spawned.
///
/// It is for observers of other things than this crate, such as statements on the pool: it tells
/// the ones of a policy from those of the handler. A hook counts as its own first attempt.
pub fn current_attempt() -> Option<(Phase, u32)> {
    let attempt = SCOPE.try_with(|scope| match scope {
        Scope::Attempt(slot) => (slot.phase(), slot.attempt()),
        Scope::Hook(_) => (Phase::Hook, 1),
    });
    attempt.ok()
}

/// The phase of the work that the task is running.
pub(crate) fn current_phase() -> Phase {
    let phase = SCOPE.try_with(|scope| match scope {
        Scope::Attempt(slot) => slot.phase(),
        Scope::Hook(_) => Phase::Hook,
    });
    phase.unwrap_or(Phase::Work)
}

/// Who the work that the task is running is recorded for.
pub(crate) fn principal() -> Option<Arc<str>> {
    let principal = SCOPE.try_with(|scope| match scope {
        Scope::Attempt(slot) => slot.principal().cloned(),
        Scope::Hook(_) => None,
    });
    principal.ok().flatten()
}

/// A COMMIT that was sent by work inside of an attempt, on a connection of its own. Unless its
/// outcome becomes known, no attempt around it may be repeated, whatever the error is wrapped in.
pub(crate) struct PendingOutcome(Option<Scope>);

impl PendingOutcome {
    /// To be made outside of the scope of the work that commits.
    pub(crate) fn new() -> Self {
        let scope = current();
        attempts(scope.as_ref()).for_each(Slot::outcome_pending);
        Self(scope)
    }

    pub(crate) fn known(self) {
        attempts(self.0.as_ref()).for_each(Slot::outcome_known);
    }
}

/// The attempts among the scopes around.
fn attempts(scope: Option<&Scope>) -> impl Iterator<Item = &Slot> {
    around(scope).filter_map(|scope| match scope {
        Scope::Attempt(slot) => Some(&**slot),
        Scope::Hook(_) => None,
    })
}

/// This scope and those around it. A hook has none around it.
fn around(scope: Option<&Scope>) -> impl Iterator<Item = &Scope> {
    successors(scope, |scope| match scope {
        Scope::Attempt(slot) => slot.outer(),
        Scope::Hook(_) => None,
    })
}

/// Checks that work on `database` may begin.
///
/// While the task has a transaction open on its pool, other work would wait for a connection, or
/// for locks, that its own work holds (T10). Inside of other work on `database`, or of a hook of
/// it, it belongs to work that was accepted, and `drain` waits for it.
///
/// # Errors
///
/// Returns `Misconfigured` for a second transaction, and `Unavailable` for new work once `drain`
/// was called.
pub(crate) fn check_may_begin(database: &Arc<Database>) -> Result<(), Error> {
    let around = SCOPE.try_with(|scope| Around::find(scope, database));
    match around.unwrap_or(Around::Nothing) {
        Around::Nothing => database.check_open(),
        Around::Accepted => Ok(()),
        Around::OpenTransaction => Err(Error::because(
            ErrorKind::Misconfigured,
            "a second transaction on one pool while the task has its Tx open: it would wait for its \
             own locks; run the statement on that Tx, before its first statement, or in \
             Tx::after_commit",
        )),
    }
}

/// The work of one database around a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Around {
    Nothing,
    /// Work without a transaction so far, or a hook.
    Accepted,
    OpenTransaction,
}

impl Around {
    fn find(scope: &Scope, database: &Arc<Database>) -> Self {
        let around = around(Some(scope)).map(|scope| match scope {
            Scope::Attempt(slot) => Self::of_attempt(slot, database),
            Scope::Hook(hooked) if Arc::ptr_eq(hooked, database) => Self::Accepted,
            Scope::Hook(_) => Self::Nothing,
        });
        around.max().unwrap_or(Self::Nothing)
    }

    fn of_attempt(slot: &Slot, database: &Arc<Database>) -> Self {
        if slot.is_open() && slot.database().shares_pool(database) {
            Self::OpenTransaction
        } else if slot.is_of(database) {
            Self::Accepted
        } else {
            Self::Nothing
        }
    }
}
