//! Errors: a kind for the client, a cause for the log.

mod carried;
mod class;
mod classify;
mod denied;
mod describe;
mod kind;
pub(crate) mod sqlstate;
mod violation;

use std::{error::Error as StdError, fmt, sync::Arc};

use http::StatusCode;
use tracing::Level;

pub(crate) use self::violation::{Known, Violation};
pub use self::{class::ErrorClass, denied::Denied, kind::ErrorKind};
pub(crate) use self::{
    classify::{
        Moment, breaks_connection, effects, is_fatal, is_interrupt, is_rolled_back_by_postgres,
        kind,
    },
    describe::{describe, describe_cause},
    sqlstate::Effects,
};
use crate::report::Outcome;

/// The error of this crate: a [kind](ErrorKind), and a cause for the log.
///
/// As a response it is a [problem document](https://www.rfc-editor.org/rfc/rfc9457) with the
/// `type`, `title`, `status` and `code` of its kind. The cause may contain database text; it is
/// reachable through [`source`](StdError::source) only, and is logged by the layer.
///
/// `?` converts a [`sqlx::Error`]. [`RowNotFound`](sqlx::Error::RowNotFound) becomes
/// [`ErrorKind::RowNotFound`], which is a 404 as a response; a violated constraint becomes
/// [`ErrorKind::ConstraintViolation`], and a row that row-level security rejects
/// [`ErrorKind::Denied`]. Every other error becomes a 5xx. A lost connection is
/// [`ErrorKind::Database`]: whether the statement was executed is not known. On a
/// [`Tx`](crate::Tx) it was not, and the layer replaces the error.
///
/// The source is the [`sqlx::Error`] itself where this crate owns it. For an error that was
/// returned to the caller of a statement as well, it is the description that is logged.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    status: StatusCode,
    class: Option<ErrorClass>,
    sqlstate: Option<String>,
    violation: Option<Violation>,
    challenge: Option<&'static str>,
    cause: Option<Cause>,
    /// Whether the transaction was ended by other means, so that its outcome is unknown.
    ended: bool,
}

type Cause = Arc<dyn StdError + Send + Sync>;

impl Error {
    /// Returns what this error is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the status of the response that this error becomes.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Returns the SQLSTATE of the database error that caused this one, if there is one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    /// Whether nothing was kept and the same work may succeed later: the kinds
    /// [`RetriesExhausted`](ErrorKind::RetriesExhausted) and
    /// [`Unavailable`](ErrorKind::Unavailable).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::RetriesExhausted | ErrorKind::Unavailable
        )
    }

    /// Returns what became of the work that ended with this error:
    ///
    /// * [`Unknown`](Outcome::Unknown) for [`OutcomeUnknown`](ErrorKind::OutcomeUnknown), and for
    ///   [`TransactionAborted`](ErrorKind::TransactionAborted) if the transaction was ended by
    ///   other means, such as a COMMIT in the middle of a text;
    /// * [`Committed`](Outcome::Committed) for
    ///   [`WrittenButUnreadable`](ErrorKind::WrittenButUnreadable);
    /// * else [`RolledBack`](Outcome::RolledBack).
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self.0.kind {
            ErrorKind::OutcomeUnknown => Outcome::Unknown,
            ErrorKind::WrittenButUnreadable => Outcome::Committed,
            _ if self.0.ended => Outcome::Unknown,
            _ => Outcome::RolledBack,
        }
    }

    /// Returns the 404 for a resource that does not exist.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(ErrorKind::NotFound)
    }

    /// Returns the 401 for a caller who is not authenticated. `challenge` becomes the
    /// [`WWW-Authenticate`](https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1) header, such as
    /// `Bearer`.
    #[must_use]
    pub fn unauthenticated(challenge: &'static str) -> Self {
        Self::from(Inner {
            challenge: Some(challenge),
            ..Inner::new(ErrorKind::Unauthenticated)
        })
    }

    /// Returns the 409 for a resource that exists already, such as a row that
    /// `INSERT … ON CONFLICT DO NOTHING` has skipped.
    #[must_use]
    pub fn conflict() -> Self {
        Self::new(ErrorKind::Conflict)
    }

    /// Returns the 412 for a resource that has changed since the client read it.
    #[must_use]
    pub fn precondition_failed() -> Self {
        Self::new(ErrorKind::PreconditionFailed)
    }

    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self::from(Inner::new(kind))
    }

    pub(crate) fn because(
        kind: ErrorKind,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::from(Inner {
            cause: Some(Cause::from(cause.into())),
            ..Inner::new(kind)
        })
    }

    /// The error of work whose transaction was ended by other means, or may have been. `first` is
    /// an error that occurred in it.
    pub(crate) fn ended(first: Option<&Self>) -> Self {
        let mut cause = ENDED.to_owned();
        if let Some(first) = first.and_then(Self::describe) {
            cause = format!("{cause}; {first}");
        }
        Self::from(Inner {
            cause: Some(Cause::from(Box::<dyn StdError + Send + Sync>::from(cause))),
            ended: true,
            ..Inner::new(ErrorKind::TransactionAborted)
        })
    }

    /// The error of a condition that is not true.
    pub(crate) fn condition(
        kind: ErrorKind,
        status: StatusCode,
        challenge: Option<&'static str>,
        cause: String,
    ) -> Self {
        Self::from(Inner {
            status,
            challenge,
            cause: Some(Cause::from(Box::<dyn StdError + Send + Sync>::from(cause))),
            ..Inner::new(kind)
        })
    }

    /// An error of the database whose kind the caller knows.
    pub(crate) fn database(kind: ErrorKind, error: sqlx::Error) -> Self {
        let error = match carried::take_carried(error) {
            Ok(carried) => return carried,
            Err(error) => error,
        };
        let kind = if is_unknown(&error) {
            ErrorKind::OutcomeUnknown
        } else {
            kind
        };
        Self::from(Inner {
            class: classify::classify(&error),
            sqlstate: sqlstate::code(&error).map(Into::into),
            violation: Violation::of(&error),
            cause: Some(Arc::new(error)),
            ..Inner::new(kind)
        })
    }

    /// A copy of an error that is returned to the caller of its statement, too.
    pub(crate) fn recorded(error: &sqlx::Error, moment: Moment) -> Self {
        if let Some(carried) = carried::carried::<Self>(error) {
            return carried.clone();
        }
        Self::from(Inner {
            class: classify::classify(error),
            sqlstate: sqlstate::code(error).map(Into::into),
            violation: Violation::of(error),
            cause: Some(Cause::from(Box::<dyn StdError + Send + Sync>::from(
                describe(error),
            ))),
            ..Inner::new(kind(error, moment))
        })
    }

    /// Classifies an error before COMMIT. `None` if the transaction goes on unharmed.
    pub(crate) fn classify(error: &sqlx::Error) -> Option<ErrorClass> {
        match carried::carried::<Self>(error) {
            Some(carried) => Some(carried.class().unwrap_or(ErrorClass::Other)),
            None => classify::classify(error),
        }
    }

    /// The meaning for its transaction, if it is an error of a transaction. An unknown
    /// outcome has no class: nothing may retry it.
    pub(crate) fn class(&self) -> Option<ErrorClass> {
        let known = !self.is_unknown() && !self.0.ended;
        self.0.class.filter(|_| known)
    }

    /// The class, if it is one that may be retried: of a violation, if it is not among the `known`.
    pub(crate) fn retryable_class(&self, known: &Known) -> Option<ErrorClass> {
        let class = self.class().filter(|class| class.is_retryable())?;
        let is_known = |violation: &Violation| known.contains(violation);
        let may_succeed = class != ErrorClass::ConstraintViolation
            || self.violation().is_some_and(|it| !is_known(it));
        may_succeed.then_some(class)
    }

    /// Whether it comes of a query for one row that returned none.
    pub(crate) fn is_row_not_found(&self) -> bool {
        let cause = self.0.cause.as_deref();
        let cause = cause.and_then(|cause| cause.downcast_ref());
        matches!(cause, Some(sqlx::Error::RowNotFound))
    }

    /// The constraint that was violated, if the row in the way may be one that the transaction
    /// cannot see.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.0.violation.as_ref()
    }

    /// The same error with another kind.
    pub(crate) fn with_kind(&self, kind: ErrorKind) -> Self {
        Self::from(Inner {
            kind,
            status: kind.status(),
            ..(*self.0).clone()
        })
    }

    /// A violation by a row that ON CONFLICT has not found: the snapshot does not show the row. No
    /// server should say so, and CockroachDB v22.1.0 does where it finds the row by another index.
    pub(crate) fn unseen_violation(error: sqlx::Error) -> sqlx::Error {
        if Violation::of(&error).is_none() {
            return error;
        }
        let error = Self::from(error).with_class(ErrorClass::SerializationFailure);
        error.into_sqlx()
    }

    /// The same error with another class.
    pub(crate) fn with_class(&self, class: ErrorClass) -> Self {
        Self::from(Inner {
            class: Some(class),
            ..(*self.0).clone()
        })
    }

    /// The same error of a policy: an error of the database is no answer to the caller (P7).
    pub(crate) fn of_check(&self) -> Self {
        if self.0.class.is_some() && !self.status().is_server_error() {
            self.with_kind(ErrorKind::Database)
        } else {
            self.clone()
        }
    }

    pub(crate) fn is_unknown(&self) -> bool {
        self.0.kind == ErrorKind::OutcomeUnknown
    }

    pub(crate) fn challenge(&self) -> Option<&'static str> {
        self.0.challenge
    }

    /// Logs what the response does not say.
    pub(crate) fn log(&self) {
        let (kind, sqlstate, cause) = (self.kind(), self.sqlstate(), self.describe());
        match kind.level() {
            Level::ERROR => tracing::error!(?kind, sqlstate, cause, "request failed"),
            Level::WARN => tracing::warn!(?kind, sqlstate, cause, "request failed"),
            Level::INFO => tracing::info!(?kind, sqlstate, cause, "request rejected"),
            _ => tracing::debug!(?kind, sqlstate, cause, "request rejected"),
        }
    }

    /// Describes the cause for the log.
    pub(crate) fn describe(&self) -> Option<String> {
        let cause = self.0.cause.as_deref()?;
        Some(describe_cause(cause))
    }

    /// Carries this error through an API that returns [`sqlx::Error`]. `From` unpacks it.
    pub(crate) fn into_sqlx(self) -> sqlx::Error {
        carried::carry(self)
    }
}

impl Inner {
    fn new(kind: ErrorKind) -> Self {
        Self {
            kind,
            status: kind.status(),
            class: None,
            sqlstate: None,
            violation: None,
            challenge: None,
            cause: None,
            ended: false,
        }
    }
}

const ENDED: &str = "a text, or a statement on the raw connection, may have ended the transaction: \
     what it had done until then may be kept";

impl From<Inner> for Error {
    fn from(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let kind = match classify::classify(&error) {
            // The effect of the statement is not known here. On a `Tx` it is rolled back, and the
            // settlement says so.
            Some(ErrorClass::ConnectionLost) => ErrorKind::Database,
            _ => kind(&error, Moment::ReadWrite),
        };
        Self::database(kind, error)
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        let status = if denied.is_hidden() {
            StatusCode::NOT_FOUND
        } else {
            StatusCode::FORBIDDEN
        };
        Self::from(Inner {
            status,
            cause: Some(Arc::new(denied)),
            ..Inner::new(ErrorKind::Denied)
        })
    }
}

/// Writes the title of the kind. The cause is left to [`source`](StdError::source), so that an
/// error that is printed into a response reveals nothing of the database.
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

/// Whether an unknown outcome is somewhere in the cause. A user may have wrapped it.
fn is_unknown(error: &sqlx::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(Error::is_unknown) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Error {
        /// The violation of `constraint`.
        pub(crate) fn of_constraint(constraint: &str) -> Self {
            Self::from(Inner {
                class: Some(ErrorClass::ConstraintViolation),
                violation: Some(Violation::of_constraint(constraint)),
                ..Inner::new(ErrorKind::ConstraintViolation)
            })
        }
    }

    #[test]
    fn error_survives_the_trip_through_sqlx() {
        let error = Error::from(Error::new(ErrorKind::TxInUse).into_sqlx());
        assert_eq!(error.kind(), ErrorKind::TxInUse);
    }

    #[test]
    fn display_reveals_nothing_of_the_cause() {
        let error = Error::because(ErrorKind::Database, "relation \"grants\"");
        assert!(!error.to_string().contains("grants"));
        let source = error.source().map(ToString::to_string);
        assert!(source.is_some_and(|source| source.contains("grants")));
    }

    #[test]
    fn unknown_outcome_has_no_class() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let unknown = Error::database(ErrorKind::OutcomeUnknown, lost());
        assert_eq!(unknown.class(), None);
        assert_eq!(
            Error::classify(&unknown.into_sqlx()),
            Some(ErrorClass::Other)
        );
        assert_eq!(
            Error::from(lost()).class(),
            Some(ErrorClass::ConnectionLost)
        );
    }
}
