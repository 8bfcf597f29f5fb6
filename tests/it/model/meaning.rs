//! What errors mean.

use support::{Kind, ServerError};
use tower_interlock::ErrorKind;

use super::wire::Heard;

/// Why there may be another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Conflict,
    Lost,
    /// The transaction was aborted by an error that nobody saw.
    Hidden,
}

/// An error before COMMIT was sent, as the caller of the statement sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) again: Option<Again>,
    /// What it is as an answer. `None` is any that is a 5xx.
    pub(super) kind: Option<ErrorKind>,
}

impl Trouble {
    pub(super) const CONFLICT: Self = Self::retryable(Again::Conflict, ErrorKind::Contended);
    pub(super) const LOST: Self = Self::retryable(Again::Lost, ErrorKind::Unavailable);
    pub(super) const HIDDEN: Self = Self::retryable(Again::Hidden, ErrorKind::Database);
    pub(super) const UNSPECIFIED: Self = Self {
        again: None,
        kind: None,
    };

    pub(super) const fn of(kind: ErrorKind) -> Self {
        Self {
            again: None,
            kind: Some(kind),
        }
    }

    const fn retryable(again: Again, kind: ErrorKind) -> Self {
        Self {
            again: Some(again),
            kind: Some(kind),
        }
    }

    /// "40001 and 40P01 anywhere; a connection lost (Io, FATAL 57P01–03, 08) before COMMIT was sent."
    /// "`Unavailable`: 53300; `DeadlineExceeded`: also our own 57014; `Database`: a bug or an outage."
    pub(super) fn reported(error: &ServerError) -> Self {
        match error.code() {
            "40001" | "40P01" => Self::CONFLICT,
            "57P01" | "57P02" | "57P03" => Self::LOST,
            code if code.starts_with("08") => Self::LOST,
            "25P02" => Self::HIDDEN,
            "53300" => Self::of(ErrorKind::Unavailable),
            "57014" => Self::of(ErrorKind::DeadlineExceeded),
            _ => Self::of(ErrorKind::Database),
        }
    }

    /// "`Unavailable`: no usable connection: refused, read-only standby (0A000, 25006 at BEGIN), 53300."
    pub(super) fn reported_at_begin(error: &ServerError) -> Self {
        match error.code() {
            "0A000" | "25006" => Self::of(ErrorKind::Unavailable),
            _ => Self::reported(error),
        }
    }

    /// "Healed: inside a savepoint that was rolled back to; 40001 never is." Nor does a connection
    /// that is gone come back with a savepoint.
    pub(super) fn can_be_healed(self) -> bool {
        !matches!(self.again, Some(Again::Conflict | Again::Lost))
    }
}

/// What a COMMIT has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    Acknowledged,
    Conflict,
    Rejected,
    Refused,
    Unknown,
}

impl Commit {
    /// "Definite refusals: 40001, 40P01, class 23, 25P02, and on PostgreSQL any severity ERROR.
    /// Everything else is unknown: I/O, FATAL, 08, 40003, 57, 58, XX. XXA00 is committed." That
    /// last one is a code of CockroachDB's.
    pub(super) fn of(heard: &Heard, server: Kind) -> Self {
        let error = match heard {
            Heard::Done => return Self::Acknowledged,
            Heard::Lost | Heard::Silence => return Self::Unknown,
            Heard::Error(error) => error,
        };
        match error.code() {
            "40001" | "40P01" => Self::Conflict,
            "25P02" => Self::Refused,
            code if code.starts_with("23") => Self::Rejected,
            "XXA00" if server == Kind::CockroachDb => Self::Acknowledged,
            _ if server == Kind::PostgreSql && error.severity() == "ERROR" => Self::Refused,
            _ => Self::Unknown,
        }
    }
}
