//! The effect of a COMMIT that was not acknowledged: SQLSTATE × server.

use std::io;

use crate::{
    database::server::Server,
    error::{
        Effects, Error, ErrorClass, ErrorKind, Moment, effects, is_interrupt,
        is_rolled_back_by_postgres, kind,
    },
};

/// The effect of a failed COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFailure {
    /// Nothing. Another attempt may succeed.
    Retryable(ErrorClass),
    /// Nothing.
    RolledBack,
    /// The transaction is committed or not.
    Unknown,
}

/// Why a COMMIT, or a statement that is its own COMMIT, was not acknowledged.
#[derive(Debug)]
pub(crate) struct CommitError {
    pub(crate) failure: CommitFailure,
    kind: ErrorKind,
    pub(crate) error: sqlx::Error,
}

impl CommitError {
    /// The failure of a COMMIT whose reply is `error`. `None` if it has committed.
    pub(crate) fn of_commit(error: sqlx::Error, server: Server) -> Option<Self> {
        match (server, effects(&error)) {
            // C5
            (Server::CockroachDb, Effects::Committed) => None,
            (Server::CockroachDb, Effects::RolledBack) => Some(Self::rolled_back(error, server)),
            (Server::PostgreSql, _) if is_rolled_back_by_postgres(&error) => {
                Some(Self::rolled_back(error, server))
            }
            _ => Some(Self::unknown(error)),
        }
    }

    /// The failure of a statement that is its own COMMIT (C7).
    pub(crate) fn of_write(error: sqlx::Error, server: Server) -> Self {
        match (server, effects(&error)) {
            (Server::CockroachDb, Effects::RolledBack) | (_, Effects::Unwritten) => {
                Self::rolled_back(error, server)
            }
            (Server::PostgreSql, _) if is_rolled_back_by_postgres(&error) => {
                Self::rolled_back(error, server)
            }
            // A single statement changes no schema.
            _ => Self::unknown(error),
        }
    }

    /// The failure of a COMMIT that was not sent, or of a statement that was not evaluated.
    pub(crate) fn unsent(error: sqlx::Error) -> Self {
        Self {
            failure: CommitFailure::RolledBack,
            kind: kind(&error, Moment::ReadWrite),
            error,
        }
    }

    /// The same failure of a statement that did all that COMMIT does except for the commit, so
    /// that nothing is unknown.
    pub(crate) fn of_dry_run(error: sqlx::Error, server: Server) -> Self {
        Self::rolled_back(error, server)
    }

    /// The failure of a COMMIT that was not acknowledged, and is known to have changed nothing: the
    /// transaction could only read, or a fence has found out.
    pub(crate) fn of_void(self) -> Self {
        if self.failure != CommitFailure::Unknown {
            return self;
        }
        Self {
            failure: CommitFailure::Retryable(ErrorClass::ConnectionLost),
            kind: ErrorKind::Unavailable,
            error: self.error,
        }
    }

    pub(crate) fn into_error(self) -> Error {
        Error::database(self.kind, self.error)
    }

    /// It is rolled back, and the error says whether it may be retried (C2 to C4). A connection
    /// that is lost without such a proof, as that of a foreign server, is no reason. CockroachDB
    /// reports a row that the transaction cannot see as a serialization failure.
    fn rolled_back(error: sqlx::Error, server: Server) -> Self {
        let failure = match Error::classify(&error) {
            Some(class @ (ErrorClass::SerializationFailure | ErrorClass::StaleSession)) => {
                CommitFailure::Retryable(class)
            }
            Some(class @ ErrorClass::ConstraintViolation) if server == Server::PostgreSql => {
                CommitFailure::Retryable(class)
            }
            Some(class @ ErrorClass::ConnectionLost) if is_interrupt(&error) => {
                CommitFailure::Retryable(class)
            }
            _ => CommitFailure::RolledBack,
        };
        Self {
            failure,
            ..Self::unsent(error)
        }
    }

    /// The failure of a COMMIT without a reply.
    pub(crate) fn silent() -> Self {
        Self::unknown(io::Error::from(io::ErrorKind::TimedOut).into())
    }

    /// C6
    fn unknown(error: sqlx::Error) -> Self {
        Self {
            failure: CommitFailure::Unknown,
            kind: ErrorKind::OutcomeUnknown,
            error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_lost_in_commit_is_an_unknown_outcome() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let commit = CommitError::of_commit(lost(), Server::PostgreSql).unwrap();
        assert_eq!(commit.failure, CommitFailure::Unknown);
        let write = CommitError::of_write(lost(), Server::CockroachDb);
        assert_eq!(write.into_error().kind(), ErrorKind::OutcomeUnknown);
    }

    #[test]
    fn lost_commit_of_a_transaction_that_could_only_read_may_run_again() {
        let lost = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let commit = CommitError::of_commit(lost, Server::CockroachDb).unwrap();
        let again = CommitFailure::Retryable(ErrorClass::ConnectionLost);
        assert_eq!(commit.of_void().failure, again);
    }
}
