//! The SQLSTATEs that the crate knows by name, and how to read one from an error.
//!
//! Sources: [PostgreSQL](https://www.postgresql.org/docs/current/errcodes-appendix.html) and
//! CockroachDB's `pkg/sql/pgwire/pgcode/codes.go`.

use std::borrow::Cow;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
pub(crate) const READ_ONLY_SQL_TRANSACTION: &str = "25006";
pub(crate) const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
pub(crate) const SERIALIZATION_FAILURE: &str = "40001";
pub(crate) const DEADLOCK_DETECTED: &str = "40P01";
pub(crate) const FOREIGN_KEY_VIOLATION: &str = "23503";
pub(crate) const UNIQUE_VIOLATION: &str = "23505";
pub(crate) const EXCLUSION_VIOLATION: &str = "23P01";
pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
pub(crate) const QUERY_CANCELED: &str = "57014";
pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
pub(crate) const CRASH_SHUTDOWN: &str = "57P02";
pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
/// CockroachDB: the transaction is committed, but its schema change failed.
pub(crate) const COMMITTED_WITHOUT_SCHEMA_CHANGE: &str = "XXA00";
/// CockroachDB: the licence throttles the number of open transactions.
pub(crate) const LICENSE_REQUIRED: &str = "XXC02";

pub(crate) const CONNECTION_EXCEPTION: &str = "08";
pub(crate) const UNSUPPORTED: &str = "0A";
pub(crate) const CARDINALITY_VIOLATION: &str = "21";
pub(crate) const DATA_EXCEPTION: &str = "22";
pub(crate) const CONSTRAINT_VIOLATION: &str = "23";
pub(crate) const INVALID_TRANSACTION_STATE: &str = "25";
pub(crate) const SYNTAX_OR_ACCESS: &str = "42";
pub(crate) const RAISED_BY_FUNCTION: &str = "P0";

/// The SQLSTATE of a database error.
pub(crate) fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// The class of a SQLSTATE: its first two characters.
pub(crate) fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

pub(crate) fn severity(error: &sqlx::Error) -> Option<PgSeverity> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::severity)
}
