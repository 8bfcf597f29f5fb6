//! The state of one attempt's transaction.

use std::{pin::Pin, time::Duration};

use sqlx::SqlStr;

use crate::{
    database::{Access, Depth, Doubt, Transaction},
    error::{Error, ErrorClass, ErrorKind, Known, Moment},
    observe::Phase,
    report::{Names, Outcome},
};

/// A future that runs once the transaction is committed.
pub(crate) type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The state of one attempt's transaction.
#[derive(Default)]
pub(crate) struct SlotState {
    /// The transaction, while no statement runs on it.
    pub(crate) transaction: Option<Transaction>,
    /// The reason to doubt that the transaction is still open, also while it is not here.
    pub(crate) noted_doubt: Option<Doubt>,
    pub(crate) stage: Stage,
    /// The errors that no savepoint has undone, in order.
    pub(crate) errors: Vec<RecordedError>,
    /// Whether a statement was dropped while the server executed it, or a panic passed a `Tx`.
    pub(crate) abandoned: bool,
    /// Whether the last statement was an INSERT that skipped its row because of a conflict.
    pub(crate) skipped_insert: bool,
    pub(crate) verdict: Option<Verdict>,
    /// The texts of the policy's statements, while they are kept.
    pub(crate) texts: Vec<SqlStr>,
    /// The names of the policies, or of the transaction.
    pub(crate) names: Names,
    pub(crate) ending: Ending,
    pub(crate) hooks: Vec<PendingHook>,
    pub(crate) notes: Vec<Note>,
    pub(crate) access: Access,
    pub(crate) phase: Option<Phase>,
    pub(crate) leases: Leases,
    /// The violations that are no serialization failures.
    pub(crate) known: Known,
    /// How many COMMITs of work inside of the attempt were sent whose outcome is not known.
    pub(crate) uncertain: usize,
    /// How long the attempt waited for its connection and BEGIN, if it is observed.
    pub(crate) waited: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    /// No statement was asked for.
    #[default]
    Unopened,
    Opened,
    /// The attempt is over. Its state was taken.
    Closed,
}

/// How a `Tx` wants its transaction to end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ending {
    pub(crate) rollback_only: bool,
    pub(crate) keep_client_errors: bool,
}

/// The `Tx`s that are alive.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Leases {
    pub(crate) alive: usize,
    /// Whether one of them has the lease.
    pub(crate) granted: bool,
}

/// The strictest verdict so far. A later success cannot override it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// An inner layer saw a response of 4xx or 5xx.
    Rejected,
    /// A policy denied.
    Denied,
    /// A policy could not be checked.
    Failed,
}

/// An error of the transaction.
#[derive(Debug)]
pub(crate) struct RecordedError {
    pub(crate) error: Error,
    /// Inside of which savepoint it occurred.
    depth: Depth,
}

/// A hook that waits for COMMIT.
pub(crate) struct PendingHook {
    pub(crate) hook: Hook,
    /// Inside of which savepoint it was registered.
    depth: Depth,
}

/// A note for the receipt.
#[derive(Debug)]
pub(crate) struct Note {
    name: &'static str,
    value: serde_json::Value,
    /// Inside of which savepoint it was made.
    depth: Depth,
}

impl RecordedError {
    pub(crate) fn class(&self) -> ErrorClass {
        self.error.class().unwrap_or(ErrorClass::Other)
    }
}

impl SlotState {
    /// Whether a `Tx` is still alive.
    pub(crate) fn has_escaped(&self) -> bool {
        self.leases.alive > 0
    }

    /// The reason to doubt that the transaction is still open (T9).
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        let transaction = self.transaction.as_ref();
        transaction.map_or(self.noted_doubt, Transaction::doubt)
    }

    /// Whether another attempt could repeat something that was committed by other means.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.uncertain > 0
    }

    /// Whether an error is recorded that makes the work retryable.
    pub(crate) fn has_retryable(&self) -> bool {
        let mut errors = self.errors.iter();
        errors.any(|recorded| recorded.error.retryable_class(&self.known).is_some())
    }

    pub(crate) fn record(&mut self, error: Error, depth: Depth) {
        self.errors.push(RecordedError { error, depth });
    }

    /// Records an error of what was sent at settlement. Errors that leave the transaction
    /// unharmed do not occur there.
    pub(crate) fn record_sqlx(&mut self, error: &sqlx::Error, depth: Depth) {
        self.record(Error::recorded(error, Moment::ReadWrite), depth);
    }

    pub(crate) fn push_hook(&mut self, hook: Hook, depth: Depth) {
        self.hooks.push(PendingHook { hook, depth });
    }

    pub(crate) fn push_note(&mut self, name: &'static str, value: serde_json::Value, depth: Depth) {
        self.notes.push(Note { name, value, depth });
    }

    /// The notes as one object. The last one with a name counts.
    pub(crate) fn take_notes(&mut self) -> Option<serde_json::Value> {
        let notes = std::mem::take(&mut self.notes);
        let notes = notes.into_iter().map(|it| (it.name.to_owned(), it.value));
        let object: serde_json::Map<_, _> = notes.collect();
        (!object.is_empty()).then_some(object.into())
    }

    /// Moves what was done since the savepoint to what is around it.
    pub(crate) fn release(&mut self, depth: Depth) {
        let outside = depth.outside();
        for hook in &mut self.hooks {
            hook.depth = outside.min(hook.depth);
        }
        for recorded in &mut self.errors {
            recorded.depth = outside.min(recorded.depth);
        }
        for note in &mut self.notes {
            note.depth = outside.min(note.depth);
        }
    }

    /// Clears the errors and notes since the savepoint (T7) and returns its hooks. They are to be dropped
    /// outside of the lock, since they may own a `Tx`.
    #[must_use]
    pub(crate) fn roll_back_to(&mut self, depth: Depth) -> Vec<PendingHook> {
        let (errors, known) = (&mut self.errors, &self.known);
        errors.retain(|recorded| {
            recorded.depth < depth || recorded.error.retryable_class(known).is_some()
        });
        self.notes.retain(|note| note.depth < depth);
        self.hooks
            .extract_if(.., |hook| hook.depth >= depth)
            .collect()
    }

    /// The error that keeps the transaction from being committed.
    pub(crate) fn first_error(&self) -> Option<Error> {
        if let Some(recorded) = self.errors.first() {
            return Some(recorded.error.clone());
        }
        let cause = "a statement was abandoned, or a panic passed a Tx";
        self.abandoned
            .then(|| Error::because(ErrorKind::TransactionAborted, cause))
    }

    /// The outcome of the transaction if it is not committed.
    pub(crate) fn outcome(&self) -> Outcome {
        match self.stage {
            Stage::Opened => Outcome::RolledBack,
            Stage::Unopened | Stage::Closed => Outcome::NoTransaction,
        }
    }
}
