//! What became of a request, for logs and tests.

/// What the layer did, in the extensions of every answer that leaves it.
#[derive(Debug, Clone)]
pub struct Report {
    pub(crate) policies: Vec<&'static str>,
    pub(crate) attempts: u32,
    pub(crate) outcome: Outcome,
}

/// What became of the request's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// No statement was run, so there was nothing to commit.
    NoTransaction,
    /// The database acknowledged COMMIT.
    Committed,
    /// Nothing was kept.
    RolledBack,
    /// COMMIT was sent, and its outcome is not known.
    Unknown,
}

impl Report {
    /// The policies that were checked in the last attempt, by type name, the outermost first.
    #[must_use]
    pub fn policies(&self) -> &[&'static str] {
        &self.policies
    }

    /// How many attempts were made; 0 if the body was refused.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What became of the transaction.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}
