//! The classes of errors: what each means for a retry.

/// The meaning of an error before COMMIT for its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// A serialization failure or a deadlock. Another attempt may succeed.
    SerializationFailure,
    /// The connection is lost or unusable, and the transaction with it.
    ConnectionLost,
    /// A unique, exclusion or foreign key constraint was violated. On PostgreSQL the row in the way
    /// may be one that the transaction cannot see.
    ConstraintViolation,
    /// What the connection has prepared does not fit the server any more, as after a change of the
    /// schema. Nothing was executed. Another connection prepares it anew.
    StaleSession,
    /// The transaction had been aborted by an earlier error.
    AlreadyAborted,
    /// Any other error. The transaction is aborted.
    Other,
}

impl ErrorClass {
    /// Whether the error concerns the whole transaction, so that no savepoint can undo it.
    pub(crate) fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::SerializationFailure
                | Self::ConnectionLost
                | Self::StaleSession
                | Self::ConstraintViolation
        )
    }
}
