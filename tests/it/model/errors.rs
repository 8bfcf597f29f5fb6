//! The classes of errors.

use support::{Kind, ServerError};
use tower_interlock::ErrorKind;

use super::wire::Heard;

/// Why an attempt may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    Conflict,
    Lost,
    /// An error that a statement hid has aborted the transaction.
    Hidden,
}

/// An error before COMMIT was sent, as the caller of the statement sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) retry: Option<Retry>,
    /// The kind of the response. `None` is any 5xx.
    pub(super) kind: Option<ErrorKind>,
}

impl Trouble {
    pub(super) const CONFLICT: Self = Self::retryable(Retry::Conflict, ErrorKind::RetriesExhausted);
    pub(super) const LOST: Self = Self::retryable(Retry::Lost, ErrorKind::Unavailable);
    pub(super) const HIDDEN: Self = Self::retryable(Retry::Hidden, ErrorKind::Database);
    pub(super) const UNSPECIFIED: Self = Self {
        retry: None,
        kind: None,
    };

    pub(super) const fn of(kind: ErrorKind) -> Self {
        Self {
            retry: None,
            kind: Some(kind),
        }
    }

    const fn retryable(retry: Retry, kind: ErrorKind) -> Self {
        Self {
            retry: Some(retry),
            kind: Some(kind),
        }
    }

    /// The class of an error of a statement: R1, R2 or R3 by its SQLSTATE, or else a kind.
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

    /// The class of an error of BEGIN. 0A000 and 25006 come from a read-only standby.
    pub(super) fn reported_at_begin(error: &ServerError) -> Self {
        match error.code() {
            "0A000" | "25006" => Self::of(ErrorKind::Unavailable),
            _ => Self::reported(error),
        }
    }

    /// R2: whether another connection is taken after this reply to BEGIN.
    pub(super) fn is_lost_at_begin(self, heard: &Heard) -> bool {
        let fatal = matches!(heard, Heard::Error(error) if error.severity() == "FATAL");
        fatal || self.retry == Some(Retry::Lost)
    }

    /// T7.
    pub(super) fn can_be_cleared(self) -> bool {
        !matches!(self.retry, Some(Retry::Conflict | Retry::Lost))
    }
}

/// The result of a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    Acknowledged,
    /// C2.
    Conflict,
    /// C3.
    ConstraintViolation,
    /// C4.
    Rejected,
    /// C6.
    Unknown,
}

impl Commit {
    /// C2 to C6.
    pub(super) fn of(heard: &Heard, server: Kind) -> Self {
        let error = match heard {
            Heard::Done => return Self::Acknowledged,
            Heard::Lost | Heard::Silence => return Self::Unknown,
            Heard::Error(error) => error,
        };
        match error.code() {
            "40001" | "40P01" => Self::Conflict,
            "25P02" => Self::Rejected,
            code if code.starts_with("23") => Self::ConstraintViolation,
            "XXA00" if server == Kind::CockroachDb => Self::Acknowledged,
            _ if server == Kind::PostgreSql && error.severity() == "ERROR" => Self::Rejected,
            _ => Self::Unknown,
        }
    }
}
