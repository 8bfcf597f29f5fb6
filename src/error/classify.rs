//! What a database error means for the transaction that it happened in.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::{kind::ErrorKind, sqlstate, violation::Violation};

/// What an error before COMMIT means for its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// A serialization failure or a deadlock. Another attempt may succeed.
    SerializationFailure,
    /// The connection is lost or unusable, and the transaction with it.
    ConnectionLost,
    /// A unique, exclusion or foreign key constraint was violated. On PostgreSQL the row in the way may
    /// be one that the transaction cannot see.
    ConstraintViolation,
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
            Self::SerializationFailure | Self::ConnectionLost | Self::ConstraintViolation
        )
    }
}

/// Classifies an error before COMMIT. `None` if the transaction goes on unharmed.
pub(crate) fn classify(error: &sqlx::Error) -> Option<ErrorClass> {
    match error {
        sqlx::Error::Database(database) => Some(match database.code().as_deref() {
            Some(sqlstate::SERIALIZATION_FAILURE | sqlstate::DEADLOCK_DETECTED) => {
                ErrorClass::SerializationFailure
            }
            Some(sqlstate::IN_FAILED_SQL_TRANSACTION) => ErrorClass::AlreadyAborted,
            // The message was wrong and the connection works: COPY in a text of several
            // statements, a wrong number of arguments.
            Some(sqlstate::PROTOCOL_VIOLATION) if !breaks_connection(error) => ErrorClass::Other,
            _ if is_stale_statement(error) => ErrorClass::ConnectionLost,
            _ if Violation::of(error).is_some() => ErrorClass::ConstraintViolation,
            Some(code) if ends_session(code) => ErrorClass::ConnectionLost,
            _ => ErrorClass::Other,
        }),
        sqlx::Error::Io(_) => Some(ErrorClass::ConnectionLost),
        sqlx::Error::Configuration(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => {
            Some(ErrorClass::Other)
        }
        _ => None,
    }
}

/// The kind of a database error that a policy, a handler or a closure returns.
pub(crate) fn kind(error: &sqlx::Error) -> ErrorKind {
    match error {
        sqlx::Error::RowNotFound => return ErrorKind::RowNotFound,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => return ErrorKind::Unavailable,
        _ => {}
    }
    match (classify(error), sqlstate::code(error).as_deref()) {
        (Some(ErrorClass::SerializationFailure), _) => ErrorKind::RetriesExhausted,
        (Some(ErrorClass::ConnectionLost), _) | (_, Some(sqlstate::TOO_MANY_CONNECTIONS)) => {
            ErrorKind::Unavailable
        }
        (_, Some(sqlstate::QUERY_CANCELED)) => ErrorKind::DeadlineExceeded,
        _ => ErrorKind::Database,
    }
}

/// The kind of an error of BEGIN, or of the connection that it needs.
///
/// A hot standby rejects SERIALIZABLE with 0A000, a read-only server READ WRITE with 25006.
pub(crate) fn kind_at_begin(error: &sqlx::Error) -> ErrorKind {
    match sqlstate::code(error).as_deref() {
        Some(
            sqlstate::FEATURE_NOT_SUPPORTED
            | sqlstate::READ_ONLY_SQL_TRANSACTION
            | sqlstate::LICENSE_REQUIRED,
        ) => ErrorKind::Unavailable,
        _ => kind(error),
    }
}

/// The kind of an error of a statement that is its own transaction and has written nothing.
pub(crate) fn kind_of_write(error: &sqlx::Error) -> ErrorKind {
    match sqlstate::code(error).as_deref() {
        Some(sqlstate::READ_ONLY_SQL_TRANSACTION) => ErrorKind::Unavailable,
        _ => kind(error),
    }
}

/// Describes an error for the log, without its message where that may repeat stored values: for
/// data exceptions, constraint violations and errors raised by functions.
pub(crate) fn describe(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else {
        return error.to_string();
    };
    match database.code().as_deref().map(sqlstate::class) {
        Some(sqlstate::DATA_EXCEPTION) => "data exception".to_owned(),
        Some(sqlstate::RAISED_BY_FUNCTION) => "raised by a function".to_owned(),
        Some(sqlstate::CONSTRAINT_VIOLATION) => format!(
            "violation of the constraint {:?} of {:?}",
            database.constraint().unwrap_or_default(),
            database.table().unwrap_or_default(),
        ),
        _ => error.to_string(),
    }
}

/// Whether the connection cannot be used any more.
pub(crate) fn breaks_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => true,
        error if is_stale_statement(error) => true,
        error => matches!(
            sqlstate::severity(error),
            Some(PgSeverity::Fatal | PgSeverity::Panic)
        ),
    }
}

/// Whether a prepared statement of the connection is older than a change of the schema.
///
/// sqlx keeps the statement in its cache, so it fails each time until the connection is closed.
pub(crate) fn is_stale_statement(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        let in_english = error.message() == "cached plan must not change result type";
        // PostgreSQL's message depends on `lc_messages`; its routine does not.
        let routine = error.try_downcast_ref().and_then(PgDatabaseError::routine);
        error.code().as_deref() == Some(sqlstate::FEATURE_NOT_SUPPORTED)
            && (in_english || routine == Some("RevalidateCachedQuery"))
    })
}

/// Shutdown, crash recovery, and the class of connection exceptions. 25P03, the timeout of an
/// idle transaction, is not among them: a retry would only run into it again.
fn ends_session(code: &str) -> bool {
    matches!(
        code,
        sqlstate::ADMIN_SHUTDOWN | sqlstate::CRASH_SHUTDOWN | sqlstate::CANNOT_CONNECT_NOW
    ) || sqlstate::class(code) == sqlstate::CONNECTION_EXCEPTION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_error_is_a_lost_connection_and_missing_row_is_no_error() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(classify(&broken), Some(ErrorClass::ConnectionLost));
        assert!(breaks_connection(&broken));
        assert_eq!(classify(&sqlx::Error::RowNotFound), None);
    }
}
