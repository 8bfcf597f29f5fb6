//! The report of a request.

use std::ops::Deref;

/// The report of the layer, in the extensions of every response that leaves it.
#[derive(Debug, Clone)]
pub struct Report {
    pub(crate) policies: Names,
    pub(crate) attempts: u32,
    pub(crate) outcome: Outcome,
}

/// The outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// No statement was run, so there was nothing to commit.
    NoTransaction,
    /// The database acknowledged COMMIT.
    Committed,
    /// Nothing was kept.
    RolledBack,
    /// The request was committed before, with the same idempotency key. The response is that of
    /// then.
    Replayed,
    /// COMMIT was sent and its outcome cannot be known, or the transaction was ended by other means
    /// than this crate.
    Unknown,
}

impl Report {
    /// Returns the policies that were checked in the last attempt, the outermost first: by the name
    /// given to their layer, else by type name.
    #[must_use]
    pub fn policies(&self) -> &[&'static str] {
        &self.policies
    }

    /// Returns the number of attempts. It is 0 if the request was rejected or replayed before the
    /// first one.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns what became of the transaction.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

/// The names of the policies of an attempt, or that of its transaction. One takes no allocation.
#[derive(Debug, Clone, Default)]
pub(crate) enum Names {
    #[default]
    None,
    One([&'static str; 1]),
    Several(Vec<&'static str>),
}

impl Names {
    pub(crate) fn push(&mut self, name: &'static str) {
        match self {
            Self::None => *self = Self::One([name]),
            Self::One([first]) => *self = Self::Several(vec![*first, name]),
            Self::Several(names) => names.push(name),
        }
    }
}

impl Deref for Names {
    type Target = [&'static str];

    fn deref(&self) -> &[&'static str] {
        match self {
            Self::None => &[],
            Self::One(name) => name,
            Self::Several(names) => names,
        }
    }
}
