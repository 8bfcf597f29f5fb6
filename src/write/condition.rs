//! A condition of a conditional write, and its error.

use std::fmt;

use http::StatusCode;

use crate::error::{Error, ErrorKind};

/// A condition of a [`ConditionalWrite`](crate::ConditionalWrite): SQL that must be true, and the
/// error if it is not.
///
/// It is a self-contained boolean expression with the parameters of the statement: `EXISTS (SELECT
/// …)`, or a comparison with a sub-select. It cannot name columns of the statement's table outside
/// of a sub-select, because the statement that finds the failed condition does not have that table.
/// NULL is not true.
///
/// The SQL of a failed condition is logged, and never sent to the client.
#[derive(Clone, Copy)]
pub struct Condition {
    pub(crate) sql: &'static str,
    pub(crate) kind: ErrorKind,
    pub(crate) status: StatusCode,
    challenge: Option<&'static str>,
}

impl Condition {
    /// The caller is authenticated, else 401 [`Unauthenticated`](ErrorKind::Unauthenticated).
    /// `challenge` becomes the `WWW-Authenticate` header, such as `Bearer`.
    #[must_use]
    pub const fn authenticated(sql: &'static str, challenge: &'static str) -> Self {
        let mut condition = Self::new(sql, ErrorKind::Unauthenticated, StatusCode::UNAUTHORIZED);
        condition.challenge = Some(challenge);
        condition
    }

    /// The resource exists, else 404 [`NotFound`](ErrorKind::NotFound).
    #[must_use]
    pub const fn exists(sql: &'static str) -> Self {
        Self::new(sql, ErrorKind::NotFound, StatusCode::NOT_FOUND)
    }

    /// The caller is permitted, else 403 [`Denied`](ErrorKind::Denied).
    #[must_use]
    pub const fn permitted(sql: &'static str) -> Self {
        Self::new(sql, ErrorKind::Denied, StatusCode::FORBIDDEN)
    }

    /// The name or place is free, else 409 [`Conflict`](ErrorKind::Conflict).
    #[must_use]
    pub const fn available(sql: &'static str) -> Self {
        Self::new(sql, ErrorKind::Conflict, StatusCode::CONFLICT)
    }

    /// The resource is unchanged since the client read it, else 412
    /// [`PreconditionFailed`](ErrorKind::PreconditionFailed).
    #[must_use]
    pub const fn current(sql: &'static str) -> Self {
        Self::new(
            sql,
            ErrorKind::PreconditionFailed,
            StatusCode::PRECONDITION_FAILED,
        )
    }

    /// Any other condition, else [`ConditionFailed`](ErrorKind::ConditionFailed) with this 4xx.
    #[must_use]
    pub const fn other(sql: &'static str, status: StatusCode) -> Self {
        Self::new(sql, ErrorKind::ConditionFailed, status)
    }

    /// Turns the response into the 404 of a resource that does not exist. See
    /// [`Denied::hidden`](crate::Denied::hidden).
    #[must_use]
    pub const fn hidden(mut self) -> Self {
        self.status = StatusCode::NOT_FOUND;
        self
    }

    /// The error if it is not true.
    pub(crate) fn error(&self) -> Error {
        let cause = format!("not true: {}", self.sql);
        Error::condition(self.kind, self.status, self.challenge, cause)
    }

    const fn new(sql: &'static str, kind: ErrorKind, status: StatusCode) -> Self {
        Self {
            sql,
            kind,
            status,
            challenge: None,
        }
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
