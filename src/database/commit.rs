//! What a COMMIT that was not acknowledged has done: SQLSTATE × server.

use sqlx::postgres::PgSeverity;

use crate::{
    database::server::Server,
    error::{Error, ErrorKind, breaks_connection, is_stale_statement, kind_of_write, sqlstate},
};

/// What a failed COMMIT has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFailure {
    /// Nothing. Another attempt may succeed.
    SerializationFailure,
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
        let (failure, kind) = classify_commit(&error, server)?;
        Some(Self {
            failure,
            kind,
            error,
        })
    }

    /// The failure of a statement that is its own COMMIT (C7).
    pub(crate) fn of_write(error: sqlx::Error, server: Server) -> Self {
        let (failure, kind) = match classify_commit(&error, server) {
            // Another connection prepares the statement anew.
            _ if is_stale_statement(&error) => CONFLICT,
            Some((CommitFailure::RolledBack, ErrorKind::ConstraintViolation)) => CONSTRAINT,
            Some((CommitFailure::RolledBack, _)) => return Self::unsent(error),
            _ if is_before_evaluation(&error) => return Self::unsent(error),
            Some(known) => known,
            // A single statement changes no schema.
            None => UNKNOWN,
        };
        Self {
            failure,
            kind,
            error,
        }
    }

    /// The failure of a COMMIT that was not sent, or of a statement that was not evaluated.
    pub(crate) fn unsent(error: sqlx::Error) -> Self {
        Self {
            failure: CommitFailure::RolledBack,
            kind: kind_of_write(&error),
            error,
        }
    }

    /// The same failure of a statement that did all that COMMIT does except for the commit, so
    /// that nothing is unknown.
    pub(crate) fn of_dry_run(error: sqlx::Error, server: Server) -> Self {
        let (failure, kind) = match classify_commit(&error, server) {
            Some(known) if known != UNKNOWN => known,
            _ => (CommitFailure::RolledBack, ErrorKind::Database),
        };
        Self {
            failure,
            kind,
            error,
        }
    }

    pub(crate) fn into_error(self) -> Error {
        Error::database(self.kind, self.error)
    }
}

/// What COMMIT has done when its reply is `error`. `None` if it has committed.
///
/// CockroachDB stored the rows of most COMMITs that timed out, while an `ERROR`
/// of PostgreSQL's COMMIT always is an abort
/// (<https://www.cockroachlabs.com/docs/stable/common-errors#result-is-ambiguous>).
fn classify_commit(error: &sqlx::Error, server: Server) -> Option<(CommitFailure, ErrorKind)> {
    let rolled_back = (CommitFailure::RolledBack, ErrorKind::Database);
    Some(match sqlstate::code(error).as_deref() {
        // C2
        Some(sqlstate::SERIALIZATION_FAILURE | sqlstate::DEADLOCK_DETECTED) => CONFLICT,
        // C3
        Some(code) if sqlstate::class(code) == sqlstate::CONSTRAINT_VIOLATION => CONSTRAINT,
        // C4
        Some(sqlstate::IN_FAILED_SQL_TRANSACTION) => rolled_back,
        _ if server == Server::PostgreSql
            && sqlstate::severity(error) == Some(PgSeverity::Error) =>
        {
            rolled_back
        }
        // C5
        Some(sqlstate::COMMITTED_WITHOUT_SCHEMA_CHANGE) if server == Server::CockroachDb => {
            return None;
        }
        // C6
        _ => UNKNOWN,
    })
}

/// Whether the error was raised before the statement was evaluated: while its arguments were
/// encoded, its text was prepared or its expressions were computed.
///
/// Neither server commits before all of a statement is evaluated.
fn is_before_evaluation(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) | sqlx::Error::TypeNotFound { .. } => true,
        error if breaks_connection(error) => false,
        error => matches!(
            sqlstate::code(error).as_deref().map(sqlstate::class),
            Some(
                sqlstate::UNSUPPORTED
                    | sqlstate::CARDINALITY_VIOLATION
                    | sqlstate::DATA_EXCEPTION
                    | sqlstate::INVALID_TRANSACTION_STATE
                    | sqlstate::SYNTAX_OR_ACCESS
            )
        ),
    }
}

const CONFLICT: (CommitFailure, ErrorKind) = (
    CommitFailure::SerializationFailure,
    ErrorKind::RetriesExhausted,
);
const CONSTRAINT: (CommitFailure, ErrorKind) =
    (CommitFailure::RolledBack, ErrorKind::ConstraintViolation);
const UNKNOWN: (CommitFailure, ErrorKind) = (CommitFailure::Unknown, ErrorKind::OutcomeUnknown);

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
}
