//! What can go wrong, what the client is told, and what the log is told.

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc};

use axum_core::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::retry::{self, Meaning};

/// The error of this crate: a [kind](ErrorKind), and a cause for the log.
///
/// As a response it is a [problem document](https://www.rfc-editor.org/rfc/rfc9457) that says
/// the kind and nothing else. The cause, which may hold database text, is reachable
/// through [`source`](StdError::source) only, and is logged by the layer.
///
/// `?` converts a [`sqlx::Error`]: [`RowNotFound`](sqlx::Error::RowNotFound) becomes
/// [`NotFound`](ErrorKind::NotFound), everything else a 5xx.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    status: StatusCode,
    sqlstate: Option<String>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// What an [`Error`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// 403, or 404 if the denial is [hidden](Denied::hidden): the policy refused.
    Denied,
    /// 404: the row that was asked for is not there.
    NotFound,
    /// 413: the request body is larger than [`body_limit`](crate::Interlock::body_limit).
    BodyTooLarge,
    /// 408: the request body took longer than [`body_timeout`](crate::Interlock::body_timeout).
    BodyTimeout,
    /// 400: the request body broke off or could not be read.
    BodyUnreadable,
    /// 503 with `Retry-After`: every attempt met a serialization failure.
    Contended,
    /// 503 with `Retry-After`: no usable connection. The pool timed out, the server refused, is
    /// shutting down or only a standby, or [`drain`](crate::Interlock::drain) was called.
    Unavailable,
    /// 503: the [`deadline`](crate::Interlock::deadline), or the server's own statement timeout,
    /// passed before COMMIT was sent. Nothing was kept.
    DeadlineExceeded,
    /// 409: a constraint refused the COMMIT. Nothing was kept.
    Rejected,
    /// 409: an [`available`](crate::Condition::available) condition does not hold. Nothing was
    /// written.
    Conflict,
    /// 412: somebody else has changed what the request refers to. Nothing was written.
    PreconditionFailed,
    /// 428: the request has no precondition, and has to have one.
    PreconditionRequired,
    /// 400: the request's precondition cannot be read.
    InvalidPrecondition,
    /// A status of its own, 422 by default: a condition of the [`other`](crate::Condition::other)
    /// sort does not hold. Nothing was written.
    Refused,
    /// 500: the answer was a success, but the transaction could not be trusted: an error was
    /// swallowed, a statement abandoned, the transaction ended from outside. Nothing was kept.
    Aborted,
    /// 500: a [`Tx`](crate::Tx) outlived the request that it was made for. Nothing was kept.
    Escaped,
    /// 500: the layer is missing, or layers, settings or statements contradict each other.
    Misconfigured,
    /// 500: a statement on a [`Tx`](crate::Tx) while another one of the request is in use.
    AlreadyLeased,
    /// 500: the database answered with an error that is none of the above.
    Database,
    /// 500: COMMIT was sent and its outcome cannot be known. The effects are there or not; a
    /// repetition can do them twice.
    OutcomeUnknown,
}

impl Error {
    /// What this error is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The status that [`into_response`](IntoResponse::into_response) answers with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The SQLSTATE of the database error behind this one, if there is one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    /// The 404 for a row that is not there.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(ErrorKind::NotFound)
    }

    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self::build(kind, None, None)
    }

    pub(crate) fn because(
        kind: ErrorKind,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::build(kind, None, Some(cause.into()))
    }

    /// The answer to a condition that is not true.
    pub(crate) fn refused(
        kind: ErrorKind,
        status: StatusCode,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            status,
            sqlstate: None,
            cause: Some(cause.into()),
        }))
    }

    /// An error of the database, with what the caller knows it to mean.
    pub(crate) fn database(kind: ErrorKind, error: sqlx::Error) -> Self {
        match unwrap(error) {
            Ok(ours) => ours,
            Err(error) => Self::build(kind, sqlstate(&error), Some(Box::new(error))),
        }
    }

    /// A copy, for the log, of an error that is handed on to its statement's caller.
    pub(crate) fn noted(error: &sqlx::Error) -> Self {
        match wrapped(error) {
            Some(ours) => ours.clone(),
            None => Self::build(
                retry::kind(error),
                sqlstate(error),
                Some(retry::describe(error).into()),
            ),
        }
    }

    /// What this error means for the transaction, if it came from one.
    pub(crate) fn meaning(&self) -> Option<Meaning> {
        retry::meaning(self.0.cause.as_deref()?.downcast_ref()?)
    }

    /// The same error, answered as another kind.
    pub(crate) fn with_kind(&self, kind: ErrorKind) -> Self {
        let cause = self.describe().map(Into::into);
        Self::build(kind, self.0.sqlstate.clone(), cause)
    }

    fn describe(&self) -> Option<String> {
        let cause = self.0.cause.as_deref()?;
        Some(match cause.downcast_ref() {
            Some(error) => retry::describe(error),
            None => cause.to_string(),
        })
    }

    /// Tells the log what the client is not told.
    pub(crate) fn log(&self) {
        let cause = self.describe();
        let sqlstate = self.sqlstate();
        match self.kind() {
            ErrorKind::NotFound
            | ErrorKind::BodyTooLarge
            | ErrorKind::BodyTimeout
            | ErrorKind::BodyUnreadable
            | ErrorKind::PreconditionFailed
            | ErrorKind::PreconditionRequired
            | ErrorKind::InvalidPrecondition => {
                tracing::debug!(kind = ?self.kind(), sqlstate, cause, "request refused");
            }
            ErrorKind::Denied | ErrorKind::Rejected | ErrorKind::Conflict | ErrorKind::Refused => {
                tracing::info!(kind = ?self.kind(), sqlstate, cause, "request refused");
            }
            ErrorKind::Contended | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => {
                tracing::warn!(kind = ?self.kind(), sqlstate, cause, "request failed");
            }
            ErrorKind::Aborted
            | ErrorKind::Escaped
            | ErrorKind::Misconfigured
            | ErrorKind::AlreadyLeased
            | ErrorKind::Database
            | ErrorKind::OutcomeUnknown => {
                tracing::error!(kind = ?self.kind(), sqlstate, cause, "request failed");
            }
        }
    }

    /// Carries this error through an API that speaks [`sqlx::Error`]; `From` takes it out again.
    pub(crate) fn into_sqlx(self) -> sqlx::Error {
        sqlx::Error::Configuration(Box::new(self))
    }

    fn build(
        kind: ErrorKind,
        sqlstate: Option<String>,
        cause: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            status: kind.status(),
            sqlstate,
            cause,
        }))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::database(retry::kind(&error), error)
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::Denied,
            status: if denied.hidden {
                StatusCode::NOT_FOUND
            } else {
                StatusCode::FORBIDDEN
            },
            sqlstate: None,
            cause: Some(Box::new(denied)),
        }))
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        // A hidden denial is not to be told from a row that is not there.
        let kind = if status == StatusCode::NOT_FOUND {
            ErrorKind::NotFound
        } else {
            self.kind()
        };
        let body = format!(
            r#"{{"type":"{}","title":"{}","status":{}}}"#,
            kind.problem_type(),
            kind.title(),
            status.as_u16()
        );
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(kind, ErrorKind::Contended | ErrorKind::Unavailable) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The kind's title. The cause is left to [`source`](StdError::source), so that printing an
/// error into a response tells nothing of the database.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind.title())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("cause", &self.0.cause)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as _)
    }
}

impl ErrorKind {
    /// The status that this kind is answered with, where [`Error::status`] has no other.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Denied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyUnreadable | Self::InvalidPrecondition => StatusCode::BAD_REQUEST,
            Self::Contended | Self::Unavailable | Self::DeadlineExceeded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Rejected | Self::Conflict => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Aborted
            | Self::Escaped
            | Self::Misconfigured
            | Self::AlreadyLeased
            | Self::Database
            | Self::OutcomeUnknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Denied => "Forbidden",
            Self::NotFound => "Not Found",
            Self::BodyTooLarge => "The request body is too large",
            Self::BodyTimeout => "The request body took too long",
            Self::BodyUnreadable => "The request body could not be read",
            Self::Contended => "Too many conflicting requests, nothing was changed",
            Self::Unavailable => "The service is not available, nothing was changed",
            Self::DeadlineExceeded => "The request took too long, nothing was changed",
            Self::Rejected | Self::Conflict => {
                "The change conflicts with other data, nothing was changed"
            }
            Self::PreconditionFailed => "Somebody else has changed it, nothing was changed",
            Self::PreconditionRequired => "The request needs a precondition, nothing was changed",
            Self::InvalidPrecondition => "The precondition could not be read, nothing was changed",
            Self::Refused => "A condition does not hold, nothing was changed",
            Self::Aborted
            | Self::Escaped
            | Self::Misconfigured
            | Self::AlreadyLeased
            | Self::Database => "Internal Server Error",
            Self::OutcomeUnknown => "It is not known whether the change was made",
        }
    }

    /// The one kind that a client must tell from its status alike has a type of its own.
    fn problem_type(self) -> &'static str {
        match self {
            Self::OutcomeUnknown => {
                "https://docs.rs/tower-interlock/latest/tower_interlock/enum.ErrorKind.html#variant.OutcomeUnknown"
            }
            _ => "about:blank",
        }
    }
}

/// A policy's refusal, with a reason for the log.
///
/// ```
/// use tower_interlock::{Denied, Error};
///
/// fn check(allowed: bool) -> Result<(), Error> {
///     Denied::unless(allowed, "no edit grant")?;
///     Ok(())
/// }
/// assert_eq!(check(false).unwrap_err().status(), 403);
/// ```
#[derive(Debug, Clone)]
pub struct Denied {
    reason: Cow<'static, str>,
    hidden: bool,
}

impl Denied {
    /// A 403. The reason is logged and never sent; put nothing secret into it.
    #[must_use]
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            hidden: false,
        }
    }

    /// Refuses unless `allowed` is true. SQL's NULL, as a `None`, is not true.
    ///
    /// # Errors
    ///
    /// The refusal.
    pub fn unless(
        allowed: impl Into<Option<bool>>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Result<(), Self> {
        if allowed.into() == Some(true) {
            Ok(())
        } else {
            Err(Self::new(reason))
        }
    }

    /// Answers 404, exactly as [`Error::not_found`] does, so that a stranger does not even learn
    /// that the resource exists: `Denied::unless(allowed, "not shared").map_err(Denied::hidden)?`.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl StdError for Denied {}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        Error::from(self).into_response()
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

fn wrapped(error: &sqlx::Error) -> Option<&Error> {
    match error {
        sqlx::Error::Configuration(cause) => cause.downcast_ref(),
        _ => None,
    }
}

fn unwrap(error: sqlx::Error) -> Result<Error, sqlx::Error> {
    match error {
        sqlx::Error::Configuration(cause) => match cause.downcast() {
            Ok(ours) => Ok(*ours),
            Err(cause) => Err(sqlx::Error::Configuration(cause)),
        },
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_trip_through_sqlx() {
        let error = Error::from(Error::new(ErrorKind::AlreadyLeased).into_sqlx());
        assert_eq!(error.kind(), ErrorKind::AlreadyLeased);
    }

    #[test]
    fn null_is_not_true() {
        assert!(Denied::unless(None, "null").is_err());
        assert!(Denied::unless(Some(true), "true").is_ok());
    }

    #[test]
    fn text_of_an_error_tells_nothing_of_its_cause() {
        let error = Error::because(ErrorKind::Database, "relation \"grants\"");
        assert!(!error.to_string().contains("grants"));
        assert!(
            error
                .source()
                .is_some_and(|cause| cause.to_string().contains("grants"))
        );
    }
}
