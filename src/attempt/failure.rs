//! The failure of an attempt.

use crate::{
    database::Transaction,
    error::{Error, ErrorClass, Violation},
    report::Outcome,
    tx::SlotState,
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

    pub(crate) fn of_state(class: ErrorClass, error: Error, state: &mut SlotState) -> Self {
        let recorded = state.errors.iter().map(|recorded| &recorded.error);
        let violations = recorded.filter_map(Error::violation).cloned().collect();
        Self {
            violations,
            ..Self::new(class, error, state.transaction.take())
        }
    }
}
