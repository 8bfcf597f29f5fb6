//! A condition of a conditional write, and what its failing means.

use std::fmt;

use http::StatusCode;

use crate::error::{Error, ErrorKind};

/// A condition of a [`ConditionalWrite`](crate::ConditionalWrite): SQL that has to be true, and
/// the answer if it is not.
///
/// It is a boolean expression that stands for itself, with the parameters of the statement:
/// `EXISTS (SELECT …)`, or a comparison with a sub-select. It cannot name columns of the
/// statement's table outside of a sub-select, because the reason for a refusal is asked for
/// without that table. NULL is not true.
///
/// The SQL goes to the log when it is the reason of a refusal, and never to the client.
#[derive(Clone, Copy)]
pub struct Condition {
    pub(crate) sql: &'static str,
    pub(crate) kind: ErrorKind,
    pub(crate) status: StatusCode,
}

impl Condition {
    /// The thing is there, else 404 [`NotFound`](ErrorKind::NotFound).
    #[must_use]
    pub const fn exists(sql: &'static str) -> Self {
        Self::new(sql, ErrorKind::NotFound, StatusCode::NOT_FOUND)
    }

    /// The caller may, else 403 [`Denied`](ErrorKind::Denied).
    #[must_use]
    pub const fn permitted(sql: &'static str) -> Self {
        Self::new(sql, ErrorKind::Denied, StatusCode::FORBIDDEN)
    }

    /// The place is free, else 409 [`Conflict`](ErrorKind::Conflict).
    #[must_use]
    pub const fn available(sql: &'static str) -> Self {
        Self::new(sql, ErrorKind::Conflict, StatusCode::CONFLICT)
    }

    /// Nobody has changed it meanwhile, else 412
    /// [`PreconditionFailed`](ErrorKind::PreconditionFailed).
    #[must_use]
    pub const fn current(sql: &'static str) -> Self {
        Self::new(
            sql,
            ErrorKind::PreconditionFailed,
            StatusCode::PRECONDITION_FAILED,
        )
    }

    /// Anything else, with its 4xx, else [`Refused`](ErrorKind::Refused).
    #[must_use]
    pub const fn other(status: StatusCode, sql: &'static str) -> Self {
        Self::new(sql, ErrorKind::Refused, status)
    }

    /// Answers 404, exactly as for a thing that is not there. See
    /// [`Denied::hidden`](crate::Denied::hidden).
    #[must_use]
    pub const fn hidden(mut self) -> Self {
        self.status = StatusCode::NOT_FOUND;
        self
    }

    /// The answer when it is not true.
    pub(crate) fn refusal(&self) -> Error {
        let cause = format!("not true: {}", self.sql);
        Error::refused(self.kind, self.status, cause)
    }

    const fn new(sql: &'static str, kind: ErrorKind, status: StatusCode) -> Self {
        Self { sql, kind, status }
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition")
            .field("sql", &self.sql)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}
