//! Whether a transaction may write.

/// Whether a transaction may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Access {
    #[default]
    ReadWrite,
    ReadOnly,
}

impl Access {
    /// The BEGIN of a transaction with this access.
    ///
    /// Nothing travels with it but a ROLLBACK: on CockroachDB a SET in its batch would cost the
    /// server's own retry of the first statement
    /// (<https://www.cockroachlabs.com/docs/stable/transactions#automatic-retries>).
    pub(crate) fn begin(self) -> &'static str {
        match self {
            Self::ReadWrite => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            Self::ReadOnly => "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        }
    }

    /// A COMMIT, and behind it the [BEGIN](Self::begin) of another transaction. Both servers skip
    /// the BEGIN if the COMMIT fails.
    pub(crate) fn commit_and_begin(self) -> &'static str {
        match self {
            Self::ReadWrite => "COMMIT; BEGIN ISOLATION LEVEL SERIALIZABLE",
            Self::ReadOnly => "COMMIT; BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        }
    }
}
