//! The table of SQLSTATEs, and how to read one from an error.
//!
//! Sources: [PostgreSQL](https://www.postgresql.org/docs/current/errcodes-appendix.html) and
//! CockroachDB's `pkg/sql/pgwire/pgcode/codes.go`.

use std::borrow::Cow;

use sqlx::postgres::PgDatabaseError;

use crate::error::{class::ErrorClass, kind::ErrorKind};

pub(crate) const FOREIGN_KEY_VIOLATION: &str = "23503";
pub(crate) const UNIQUE_VIOLATION: &str = "23505";
pub(crate) const EXCLUSION_VIOLATION: &str = "23P01";
pub(crate) const NO_ACTIVE_SQL_TRANSACTION: &str = "25P01";
pub(crate) const INVALID_SAVEPOINT: &str = "3B001";
pub(crate) const SERIALIZATION_FAILURE: &str = "40001";
pub(crate) const QUERY_CANCELED: &str = "57014";
pub(crate) const READ_ONLY_SQL_TRANSACTION: &str = "25006";
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";
pub(crate) const UNDEFINED_COLUMN: &str = "42703";
pub(crate) const UNDEFINED_TABLE: &str = "42P01";

pub(crate) const DATA_EXCEPTION: &str = "22";
pub(crate) const CONSTRAINT_VIOLATION: &str = "23";
pub(crate) const RAISED_BY_FUNCTION: &str = "P0";

/// The SQLSTATE of a database error.
pub(crate) fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error()?.code()
}

/// The class of a SQLSTATE: its first two characters.
pub(crate) fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

/// The PostgreSQL function that raised an error. It is never translated, and a pooler sends none.
pub(crate) fn routine(error: &sqlx::Error) -> Option<&str> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()?
        .routine()
}

/// The meaning of an error of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meaning {
    pub(crate) class: ErrorClass,
    pub(crate) kind: ErrorKind,
    pub(crate) session: Session,
    pub(crate) effects: Effects,
}

/// The fate of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Kept,
    /// Another connection may do better, or this one is gone.
    Closed,
}

/// The effect on CockroachDB of a COMMIT with this error as its reply, or of a statement that is
/// its own COMMIT. On PostgreSQL the severity decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effects {
    /// The transaction is rolled back.
    RolledBack,
    /// The statement has written nothing: it was rejected before all of it was evaluated.
    /// Nothing is known of a COMMIT.
    Unwritten,
    Unknown,
    /// The transaction is committed, but its schema change failed.
    Committed,
}

/// When a row of the table applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// The severity is FATAL or PANIC.
    Fatal,
    /// It is the reply to BEGIN.
    Begin,
    /// The transaction is READ ONLY by `read_only()`.
    ReadOnly,
    /// The message contains this text.
    Message(&'static str),
    /// This function of PostgreSQL raised it.
    Routine(&'static str),
}

const CONFLICT: Meaning = Meaning {
    class: ErrorClass::SerializationFailure,
    kind: ErrorKind::RetriesExhausted,
    session: Session::Kept,
    effects: Effects::RolledBack,
};
const LOST: Meaning = Meaning {
    class: ErrorClass::ConnectionLost,
    kind: ErrorKind::Unavailable,
    session: Session::Closed,
    effects: Effects::Unknown,
};
const STALE: Meaning = Meaning {
    class: ErrorClass::StaleSession,
    kind: ErrorKind::Unavailable,
    session: Session::Closed,
    effects: Effects::Unwritten,
};
/// The words of a pooler, too, which proves nothing.
const IDLE: Meaning = Meaning {
    effects: Effects::Unknown,
    ..STALE
};
const HIDDEN: Meaning = Meaning {
    class: ErrorClass::AlreadyAborted,
    kind: ErrorKind::Database,
    session: Session::Kept,
    effects: Effects::RolledBack,
};
/// The statement was evaluated and rejected.
const REJECTED: Meaning = Meaning {
    class: ErrorClass::Other,
    kind: ErrorKind::Database,
    session: Session::Kept,
    effects: Effects::Unwritten,
};
/// Nothing says how far it came.
const FAILED: Meaning = Meaning {
    effects: Effects::Unknown,
    ..REJECTED
};
/// The session may not be where the crate takes it to be.
const DUBIOUS: Meaning = Meaning {
    session: Session::Closed,
    ..FAILED
};
const CONSTRAINT: Meaning = Meaning {
    kind: ErrorKind::ConstraintViolation,
    effects: Effects::RolledBack,
    ..REJECTED
};
const UNSEEN: Meaning = Meaning {
    class: ErrorClass::ConstraintViolation,
    ..CONSTRAINT
};
const DENIED: Meaning = Meaning {
    kind: ErrorKind::Denied,
    ..REJECTED
};
const CONTENDED: Meaning = Meaning {
    kind: ErrorKind::RetriesExhausted,
    ..REJECTED
};
/// The server has no resources for it, or cannot reach them. A retry would add to the load.
const UNAVAILABLE: Meaning = Meaning {
    kind: ErrorKind::Unavailable,
    ..FAILED
};
const THROTTLED: Meaning = Meaning {
    kind: ErrorKind::Unavailable,
    ..REJECTED
};
/// The server, or this session of it, does not take writes.
const READ_ONLY_SERVER: Meaning = Meaning {
    session: Session::Closed,
    ..THROTTLED
};
const NO_ENTRY: Meaning = Meaning {
    session: Session::Closed,
    ..UNAVAILABLE
};
const CANCELED: Meaning = Meaning {
    kind: ErrorKind::DeadlineExceeded,
    ..FAILED
};
const TIMED_OUT: Meaning = Meaning {
    session: Session::Closed,
    ..CANCELED
};
const COMMITTED: Meaning = Meaning {
    effects: Effects::Committed,
    ..DUBIOUS
};

/// The first row that fits decides. A code has five characters, a class two, and the empty text is
/// every code.
pub(crate) const TABLE: &[(&str, When, Meaning)] = &[
    // A retry would meet the same timeout of the transaction, or the same error.
    ("25P03", When::Fatal, TIMED_OUT),
    ("25P04", When::Fatal, TIMED_OUT),
    // The session was idle, so nothing ran.
    ("57P05", When::Fatal, IDLE),
    ("28", When::Fatal, NO_ENTRY),
    ("3D000", When::Fatal, NO_ENTRY),
    ("", When::Fatal, LOST),
    ("03", When::Always, FAILED),
    // The session goes on: the message was wrong. A pooler sends it as FATAL.
    ("08P01", When::Always, REJECTED),
    // That of a foreign server, or of another node.
    ("08", When::Always, LOST),
    ("09", When::Always, REJECTED),
    (
        "0A000",
        When::Message("cached plan must not change result type"),
        STALE,
    ),
    ("0A000", When::Routine("RevalidateCachedQuery"), STALE),
    // A hot standby rejects SERIALIZABLE.
    ("0A000", When::Begin, NO_ENTRY),
    ("0A", When::Always, REJECTED),
    ("0B", When::Always, REJECTED),
    ("0F", When::Always, REJECTED),
    ("0L", When::Always, REJECTED),
    ("0P", When::Always, REJECTED),
    ("0Z", When::Always, REJECTED),
    ("10", When::Always, REJECTED),
    ("20", When::Always, REJECTED),
    ("21", When::Always, REJECTED),
    ("22", When::Always, REJECTED),
    // The row in the way may be one that the transaction cannot see.
    (FOREIGN_KEY_VIOLATION, When::Always, UNSEEN),
    (UNIQUE_VIOLATION, When::Always, UNSEEN),
    (EXCLUSION_VIOLATION, When::Always, UNSEEN),
    ("23", When::Always, CONSTRAINT),
    ("24", When::Always, REJECTED),
    ("25P02", When::Always, HIDDEN),
    ("25006", When::ReadOnly, REJECTED),
    ("25006", When::Always, READ_ONLY_SERVER),
    ("25", When::Always, REJECTED),
    // sqlx has prepared the statement, and the session has it no more, or another one.
    ("26000", When::Message(SQLX_STATEMENT), STALE),
    ("26", When::Always, REJECTED),
    ("27", When::Always, REJECTED),
    ("28", When::Always, REJECTED),
    ("2B", When::Always, REJECTED),
    ("2D", When::Always, REJECTED),
    ("2F", When::Always, REJECTED),
    ("34", When::Always, REJECTED),
    ("38", When::Always, REJECTED),
    ("39", When::Always, REJECTED),
    ("3B", When::Always, REJECTED),
    ("3D", When::Always, REJECTED),
    ("3F", When::Always, REJECTED),
    ("40001", When::Always, CONFLICT),
    ("40P01", When::Always, CONFLICT),
    ("40002", When::Always, CONSTRAINT),
    // CockroachDB: the result of a COMMIT inside of the statement is ambiguous.
    ("40003", When::Always, DUBIOUS),
    ("40", When::Always, FAILED),
    ("42P05", When::Message(SQLX_STATEMENT), STALE),
    // Row-level security rejects the row, which the user may not write. Without these marks it is
    // the role of the pool that lacks a privilege.
    ("42501", When::Routine("ExecWithCheckOptions"), DENIED),
    (
        "42501",
        When::Message("new row violates row-level security policy"),
        DENIED,
    ),
    ("42", When::Always, REJECTED),
    // The CHECK OPTION of a view.
    ("44", When::Always, CONSTRAINT),
    ("53", When::Always, UNAVAILABLE),
    // Too complex a statement, too many columns or arguments.
    ("54001", When::Always, REJECTED),
    ("54011", When::Always, REJECTED),
    ("54023", When::Always, REJECTED),
    ("54", When::Always, FAILED),
    // NOWAIT and `lock_timeout`: the statement was not to wait.
    ("55P03", When::Always, CONTENDED),
    ("55006", When::Always, THROTTLED),
    ("55", When::Always, REJECTED),
    ("57014", When::Always, CANCELED),
    ("57000", When::Always, FAILED),
    // Shutdown, crash, start.
    ("57", When::Always, LOST),
    // CockroachDB: a range, or the connection of a node to another one.
    ("58C00", When::Always, UNAVAILABLE),
    ("58C01", When::Always, NO_ENTRY),
    ("58", When::Always, FAILED),
    // PostgreSQL before 17: the snapshot is too old, and a new one is not.
    ("72", When::Always, CONFLICT),
    ("F0", When::Always, FAILED),
    // A foreign server that cannot be reached.
    ("HV00N", When::Always, THROTTLED),
    ("HV", When::Always, FAILED),
    ("P0", When::Always, REJECTED),
    ("XC", When::Always, FAILED),
    // A type or function was made anew. PostgreSQL does not translate this message.
    ("XX000", When::Message("cache lookup failed for"), STALE),
    // Corrupted data, corrupted index.
    ("XX001", When::Always, DUBIOUS),
    ("XX002", When::Always, DUBIOUS),
    ("XXA00", When::Always, COMMITTED),
    ("XXC01", When::Always, REJECTED),
    // The licence throttles the number of open transactions.
    ("XXC02", When::Always, THROTTLED),
    // Among others: there is no transaction in progress.
    ("XXUUU", When::Always, DUBIOUS),
    ("XX", When::Always, FAILED),
    ("", When::Always, FAILED),
];

/// How sqlx names the statements that it prepares.
pub(crate) const SQLX_STATEMENT: &str = "sqlx_s_";
