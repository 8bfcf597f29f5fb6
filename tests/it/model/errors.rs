//! The classes of errors.

use support::{Kind, ServerError};
use tower_interlock::ErrorKind;

use super::wire::Heard;

/// Why an attempt may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    Conflict,
    Lost,
    /// The session is of no use any more, and another one is.
    Stale,
    /// An error that a statement hid has aborted the transaction.
    Hidden,
    /// A row may be in the way that the snapshot does not show. With the kind of the response.
    Violation(Constraint, ErrorKind),
}

/// A kind of constraint that PostgreSQL checks against the newest rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constraint {
    Unique,
    Exclusion,
    ForeignKey,
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
    pub(super) const STALE: Self = Self::retryable(Retry::Stale, ErrorKind::Unavailable);
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

    const fn violated(constraint: Constraint) -> Self {
        let kind = ErrorKind::ConstraintViolation;
        Self::retryable(Retry::Violation(constraint, kind), kind)
    }

    const fn retryable(retry: Retry, kind: ErrorKind) -> Self {
        Self {
            retry: Some(retry),
            kind: Some(kind),
        }
    }

    /// The class of an error of a statement: R1, R2, R3, R6 or R7 by its severity and SQLSTATE, or
    /// else a kind.
    pub(super) fn reported(error: &ServerError) -> Self {
        let code = error.code();
        if is_fatal(error) {
            return match code {
                "25P03" | "25P04" => Self::of(ErrorKind::DeadlineExceeded),
                "57P05" => Self::STALE,
                _ => Self::LOST,
            };
        }
        match (&code[..2], code) {
            (_, "40001" | "40P01") => Self::CONFLICT,
            (_, "57P01" | "57P02" | "57P03") => Self::LOST,
            (_, "08P01") => Self::of(ErrorKind::Database),
            ("08", _) => Self::LOST,
            (_, "25P02") => Self::HIDDEN,
            ("53", _) | (_, "25006" | "58C00" | "XXC02") => Self::of(ErrorKind::Unavailable),
            (_, "57014") => Self::of(ErrorKind::DeadlineExceeded),
            (_, "55P03") => Self::of(ErrorKind::RetriesExhausted),
            (_, "23505") => Self::violated(Constraint::Unique),
            (_, "23P01") => Self::violated(Constraint::Exclusion),
            (_, "23503") => Self::violated(Constraint::ForeignKey),
            ("23", _) => Self::of(ErrorKind::ConstraintViolation),
            _ => Self::of(ErrorKind::Database),
        }
    }

    /// Whether the crate closes the connection although the server has not.
    pub(super) fn closes(error: &ServerError) -> bool {
        let code = error.code();
        match &code[..2] {
            "08" => code != "08P01",
            _ => matches!(
                code,
                "25006" | "40003" | "57P01" | "57P02" | "57P03" | "XXUUU"
            ),
        }
    }

    /// The class of an error of BEGIN. 0A000 and 25006 come from a read-only standby.
    pub(super) fn reported_at_begin(error: &ServerError) -> Self {
        match error.code() {
            "0A000" | "25006" => Self::of(ErrorKind::Unavailable),
            _ => Self::reported(error),
        }
    }

    /// R2 and R6: whether another connection is taken after this reply to BEGIN.
    pub(super) fn is_lost_at_begin(self, heard: &Heard) -> bool {
        let fatal = matches!(heard, Heard::Error(error) if is_fatal(error));
        fatal || matches!(self.retry, Some(Retry::Lost | Retry::Stale))
    }

    /// P7: what the database refuses to a policy is no answer to the caller.
    pub(super) fn of_check(self) -> Self {
        let kind = match self.kind {
            Some(ErrorKind::ConstraintViolation) => Some(ErrorKind::Database),
            kind => kind,
        };
        let retry = self.retry.map(Retry::of_check);
        Self { retry, kind }
    }

    /// T7.
    pub(super) fn can_be_cleared(self) -> bool {
        self.retry.is_none_or(|retry| retry == Retry::Hidden)
    }
}

impl Retry {
    /// P7.
    pub(super) fn of_check(self) -> Self {
        match self {
            Self::Violation(constraint, _) => Self::Violation(constraint, ErrorKind::Database),
            other => other,
        }
    }
}

/// The result of a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Commit {
    Acknowledged,
    /// C2.
    Conflict,
    /// C3, C4 and C7.
    Rejected(Trouble),
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
        if is_fatal(error) {
            return Self::Unknown;
        }
        let rejected = Self::Rejected(Trouble::reported(error));
        match error.code() {
            "40001" | "40P01" => Self::Conflict,
            "25P02" => rejected,
            code if code.starts_with("23") => rejected,
            "XXA00" if server == Kind::CockroachDb => Self::Acknowledged,
            _ if server == Kind::PostgreSql => rejected,
            _ => Self::Unknown,
        }
    }

    /// C7: also what was rejected before all of the statement was evaluated.
    pub(super) fn of_write(heard: &Heard, server: Kind) -> Self {
        match (Self::of(heard, server), heard) {
            (Self::Unknown, Heard::Error(error)) if !is_fatal(error) => {
                match (&error.code()[..2], error.code()) {
                    ("0A" | "22" | "25" | "42" | "55", _) | (_, "08P01" | "XXC02") => {
                        Self::Rejected(Trouble::reported(error))
                    }
                    _ => Self::Unknown,
                }
            }
            (commit, _) => commit,
        }
    }
}

fn is_fatal(error: &ServerError) -> bool {
    error.severity() == "FATAL"
}
