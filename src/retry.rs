//! What an error means: SQLSTATE × moment, and how long to wait before the next attempt.

use std::time::Duration;

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::{
    error::{Error, ErrorKind},
    server::Kind,
};

/// What an error says about the transaction that it happened in, before COMMIT was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A serialization failure or a deadlock: run again.
    Conflict,
    /// The connection is gone, or of no use, and the transaction with it: run again, once.
    Lost,
    /// The transaction was aborted earlier, by an error that nobody saw: run again, once.
    Hidden,
    /// Anything else. The transaction is aborted.
    Failed,
}

/// The meaning of an error before COMMIT was sent; `None` if the transaction goes on unharmed.
pub(crate) fn meaning(error: &sqlx::Error) -> Option<Meaning> {
    match error {
        sqlx::Error::Database(database) => Some(match database.code().as_deref() {
            Some("40001" | "40P01") => Meaning::Conflict,
            Some("25P02") => Meaning::Hidden,
            // What was said was wrong, and the connection is there: a COPY where there can be none,
            // a wrong number of arguments.
            Some("08P01") if !is_broken(error) => Meaning::Failed,
            _ if is_stale(error) => Meaning::Lost,
            Some(code) if is_lost(code) => Meaning::Lost,
            _ => Meaning::Failed,
        }),
        sqlx::Error::Io(_) => Some(Meaning::Lost),
        // It carries an error of this crate, and what that one means.
        sqlx::Error::Configuration(cause) => {
            let meaning = cause.downcast_ref().and_then(Error::meaning);
            Some(meaning.unwrap_or(Meaning::Failed))
        }
        sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => Some(Meaning::Failed),
        _ => None,
    }
}

impl Meaning {
    /// Whether rolling back to a savepoint cannot heal it.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Conflict | Self::Lost)
    }
}

/// What a COMMIT that was not acknowledged has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing; a new attempt may succeed.
    Conflict,
    /// Nothing; a constraint refused it.
    Rejected,
    /// Nothing.
    Definite,
    /// Nobody knows.
    Unknown,
}

/// What COMMIT has done when it answers `error`; `None` if it has committed all the same.
///
/// Only what is certain is certain: CockroachDB stored the rows of most COMMITs that it answered
/// with a timeout, while an `ERROR` of PostgreSQL's COMMIT always is an abort
/// (<https://www.cockroachlabs.com/docs/stable/common-errors#result-is-ambiguous>).
pub(crate) fn refusal(error: &sqlx::Error, server: Kind) -> Option<Refusal> {
    let sqlx::Error::Database(database) = error else {
        return Some(Refusal::Unknown);
    };
    Some(match database.code().as_deref() {
        Some("40001" | "40P01") => Refusal::Conflict,
        Some("25P02") => Refusal::Definite,
        // CockroachDB's: the transaction is committed, but its schema change failed.
        Some("XXA00") if server == Kind::CockroachDb => return None,
        Some(code) if code.starts_with("23") => Refusal::Rejected,
        _ if server == Kind::PostgreSql && severity(error) == Some(PgSeverity::Error) => {
            Refusal::Definite
        }
        _ => Refusal::Unknown,
    })
}

/// What a write that is its own COMMIT has done when it answers `error`.
///
/// As COMMIT, except for what comes before it: to send the arguments, to read the text, and to
/// evaluate it. Neither server commits before all of the statement is evaluated.
pub(crate) fn refusal_of_write(error: &sqlx::Error, server: Kind) -> Refusal {
    match error {
        sqlx::Error::Encode(_) | sqlx::Error::TypeNotFound { .. } => return Refusal::Definite,
        // On another connection it is prepared anew.
        error if is_stale(error) => return Refusal::Conflict,
        _ => {}
    }
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref().and_then(|code| code.get(..2)) {
        Some("0A" | "21" | "22" | "25" | "42") if !is_broken(error) => Refusal::Definite,
        _ => refusal(error, server).unwrap_or(Refusal::Unknown),
    }
}

/// The kind of a database error that a policy or handler passes on.
pub(crate) fn kind(error: &sqlx::Error) -> ErrorKind {
    match error {
        sqlx::Error::RowNotFound => return ErrorKind::NotFound,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => return ErrorKind::Unavailable,
        _ => {}
    }
    let code = error.as_database_error().and_then(|error| error.code());
    match (meaning(error), code.as_deref()) {
        (Some(Meaning::Conflict), _) => ErrorKind::Contended,
        (Some(Meaning::Lost), _) | (_, Some("53300")) => ErrorKind::Unavailable,
        (_, Some("57014")) => ErrorKind::DeadlineExceeded,
        _ => ErrorKind::Database,
    }
}

/// The kind of an error of BEGIN, or of the connection that it needs.
///
/// A hot standby refuses SERIALIZABLE with 0A000, a read-only server READ WRITE with 25006.
pub(crate) fn kind_at_begin(error: &sqlx::Error) -> ErrorKind {
    match error
        .as_database_error()
        .and_then(|error| error.code())
        .as_deref()
    {
        Some("0A000" | "25006" | "XXC02") => ErrorKind::Unavailable,
        _ => kind(error),
    }
}

/// The kind of an error of a write that is its own BEGIN, and that has written nothing.
pub(crate) fn kind_of_write(error: &sqlx::Error) -> ErrorKind {
    match error
        .as_database_error()
        .and_then(|error| error.code())
        .as_deref()
    {
        Some("25006") => ErrorKind::Unavailable,
        _ => kind(error),
    }
}

/// The error for the log. The message is left out where it may repeat values: of a data exception,
/// a broken constraint, and what a function of the user's raises.
pub(crate) fn describe(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else {
        return error.to_string();
    };
    match database.code().as_deref().and_then(|code| code.get(..2)) {
        Some("22") => "data exception".to_owned(),
        Some("P0") => "raised by a function".to_owned(),
        Some("23") => format!(
            "violation of the constraint {:?} of {:?}",
            database.constraint().unwrap_or_default(),
            database.table().unwrap_or_default(),
        ),
        _ => error.to_string(),
    }
}

/// Shutdown, crash recovery, and the class of connection exceptions. 25P03, the timeout of an
/// idle transaction, is not among them: it would only happen again.
fn is_lost(code: &str) -> bool {
    matches!(code, "57P01" | "57P02" | "57P03") || code.starts_with("08")
}

/// Whether a statement that the connection has prepared is older than a change of the schema. sqlx
/// keeps it, and it would fail again and again.
fn is_stale(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| {
        let says_so = error.message() == "cached plan must not change result type";
        // PostgreSQL may say it in another language.
        let from = error.try_downcast_ref().and_then(PgDatabaseError::routine);
        error.code().as_deref() == Some("0A000")
            && (says_so || from == Some("RevalidateCachedQuery"))
    })
}

/// Whether the connection is of no use any more.
pub(crate) fn is_broken(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) => true,
        error if is_stale(error) => true,
        error => matches!(severity(error), Some(PgSeverity::Fatal | PgSeverity::Panic)),
    }
}

fn severity(error: &sqlx::Error) -> Option<PgSeverity> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::severity)
}

/// Exponential backoff with full jitter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) base: Duration,
    pub(crate) cap: Duration,
}

impl Backoff {
    /// The pause before the attempt after attempt number `attempt`, counted from 1.
    ///
    /// The first retry comes at once: the transaction that won has just finished.
    pub(crate) fn pause(self, attempt: u32) -> Duration {
        let Some(exponent) = attempt.checked_sub(2) else {
            return Duration::ZERO;
        };
        let ceiling = self
            .base
            .saturating_mul(1_u32.checked_shl(exponent).unwrap_or(u32::MAX));
        ceiling.min(self.cap).mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(2),
        cap: Duration::from_millis(50),
    };

    #[test]
    fn first_retry_comes_at_once() {
        assert_eq!(BACKOFF.pause(1), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_and_stay_below_the_cap() {
        let longest = |attempt| (0..1000).map(|_| BACKOFF.pause(attempt)).max().unwrap();
        assert!(longest(2) <= Duration::from_millis(2));
        assert!(longest(4) > Duration::from_millis(2));
        assert!(longest(4) <= Duration::from_millis(8));
        assert!(longest(u32::MAX) <= Duration::from_millis(50));
    }

    #[test]
    fn a_broken_connection_is_lost_and_a_missing_row_is_not_an_error() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(meaning(&broken), Some(Meaning::Lost));
        assert_eq!(meaning(&sqlx::Error::RowNotFound), None);
        assert_eq!(refusal(&broken, Kind::PostgreSql), Some(Refusal::Unknown));
    }
}
