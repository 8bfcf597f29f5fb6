//! The kinds of errors: one line each for status, log level, code and title.

use http::StatusCode;
use tracing::Level;

/// Declares [`ErrorKind`] and the properties of each kind.
macro_rules! kinds {
    ($(
        $(#[$doc:meta])*
        $kind:ident: $status:ident, $level:ident, $code:literal, $title:literal;
    )*) => {
        /// The kind of an [`Error`](crate::Error).
        ///
        /// Each kind has a status, a title, and a [problem type](Self::problem_type) and
        /// [code](Self::code) by which clients can tell it apart.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind, for the documentation of an API.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Returns the status of the response, unless [`Error::status`](crate::Error::status)
            /// has another one.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self {
                    $(Self::$kind => StatusCode::$status,)*
                }
            }

            /// Returns the `title` of the problem document.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self {
                    $(Self::$kind => $title,)*
                }
            }

            /// Returns the `code` of the problem document. It is unique for each kind, and stable.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self {
                    $(Self::$kind => $code,)*
                }
            }

            /// Returns the `type` of the problem document: the URI of this documentation.
            #[must_use]
            pub const fn problem_type(self) -> &'static str {
                match self {
                    $(Self::$kind => concat!(
                        "https://docs.rs/tower-interlock/latest/tower_interlock/",
                        "enum.ErrorKind.html#variant.",
                        stringify!($kind),
                    ),)*
                }
            }

            pub(crate) const fn level(self) -> Level {
                match self {
                    $(Self::$kind => Level::$level,)*
                }
            }
        }
    };
}

kinds! {
    /// 401: the caller is not authenticated. See
    /// [`Error::unauthenticated`](crate::Error::unauthenticated).
    Unauthenticated: UNAUTHORIZED, INFO, "unauthenticated", "Unauthorized";
    /// 403, or 404 if the denial is [hidden](crate::Denied::hidden): a policy denied, or row-level
    /// security of the database rejected a row that was written.
    Denied: FORBIDDEN, INFO, "denied", "Forbidden";
    /// 404: the requested resource does not exist.
    NotFound: NOT_FOUND, DEBUG, "not-found", "Not Found";
    /// A query for one row returned none. The response is that of
    /// [`NotFound`](Self::NotFound); outside of HTTP the row is simply missing.
    RowNotFound: NOT_FOUND, DEBUG, "row-not-found", "Not Found";
    /// 413: the request body is larger than
    /// [`body_limit`](crate::InterlockBuilder::body_limit).
    BodyTooLarge: PAYLOAD_TOO_LARGE, DEBUG, "body-too-large", "The request body is too large";
    /// 408: the request body took longer than
    /// [`body_timeout`](crate::InterlockBuilder::body_timeout).
    BodyTimeout: REQUEST_TIMEOUT, DEBUG, "body-timeout", "The request body took too long";
    /// 400: the request body could not be read to its end.
    BodyUnreadable: BAD_REQUEST, DEBUG, "body-unreadable", "The request body could not be read";
    /// 503 with `Retry-After`: every attempt met a serialization failure, or a statement with
    /// `NOWAIT` or a `lock_timeout` did not get its lock. Nothing was kept.
    RetriesExhausted: SERVICE_UNAVAILABLE, WARN, "retries-exhausted",
        "Too many conflicting requests, nothing was changed";
    /// 503 with `Retry-After`: no usable connection. The pool timed out, the server rejected the
    /// connection, is shutting down, is read-only or out of resources, or
    /// [`drain`](crate::Interlock::drain) was called. Nothing was kept.
    Unavailable: SERVICE_UNAVAILABLE, WARN, "unavailable",
        "The service is not available, nothing was changed";
    /// 503: the [`deadline`](crate::InterlockBuilder::deadline) or a timeout of the server, for the
    /// statement or the transaction, passed before COMMIT was sent. Nothing was kept.
    DeadlineExceeded: SERVICE_UNAVAILABLE, WARN, "deadline-exceeded",
        "The request took too long, nothing was changed";
    /// 409: a constraint rejected a statement or the COMMIT. Nothing was kept. In a policy it is
    /// [`Database`](Self::Database).
    ConstraintViolation: CONFLICT, INFO, "constraint-violation",
        "The change conflicts with other data, nothing was changed";
    /// 409: an [`available`](crate::Condition::available) condition is not true, or
    /// `INSERT … ON CONFLICT DO NOTHING` skipped the only row that it should return. Nothing was
    /// written.
    Conflict: CONFLICT, INFO, "conflict",
        "The change conflicts with other data, nothing was changed";
    /// 412: the resource has changed since the client read it. Nothing was written.
    PreconditionFailed: PRECONDITION_FAILED, DEBUG, "precondition-failed",
        "The resource has changed in the meantime, nothing was changed";
    /// 428: the request must have a precondition, and has none.
    PreconditionRequired: PRECONDITION_REQUIRED, DEBUG, "precondition-required",
        "The request needs a precondition, nothing was changed";
    /// 400: the precondition of the request could not be parsed.
    InvalidPrecondition: BAD_REQUEST, DEBUG, "invalid-precondition",
        "The precondition could not be read, nothing was changed";
    /// 400: the request needs an idempotency key and has none, or its key could not be parsed.
    InvalidIdempotencyKey: BAD_REQUEST, DEBUG, "invalid-idempotency-key",
        "The idempotency key is missing or could not be read, nothing was changed";
    /// 422: the idempotency key was used for another request. Nothing was changed by this one.
    IdempotencyKeyReused: UNPROCESSABLE_ENTITY, INFO, "idempotency-key-reused",
        "The idempotency key was used for another request, nothing was changed";
    /// 409: the request, or the transaction, was done before with this idempotency key, and its
    /// response was not kept. It is not done again.
    AlreadyDone: CONFLICT, INFO, "already-done",
        "The change was made before, and its response is not available any more";
    /// The status of its [`other`](crate::Condition::other) condition, which is not true.
    /// Nothing was written.
    ConditionFailed: UNPROCESSABLE_ENTITY, INFO, "condition-failed",
        "A condition does not hold, nothing was changed";
    /// 500: the transaction could not be trusted. The reply was a success although an error was
    /// ignored or a statement was abandoned: nothing was kept. Or the transaction was ended by
    /// other means than the layer: its [`outcome`](crate::Error::outcome) is then
    /// [`Unknown`](crate::Outcome::Unknown).
    TransactionAborted: INTERNAL_SERVER_ERROR, ERROR, "transaction-aborted",
        "Internal Server Error";
    /// 500: a [`Tx`](crate::Tx) outlived the work that it was made for. Nothing was kept.
    TxEscaped: INTERNAL_SERVER_ERROR, ERROR, "tx-escaped", "Internal Server Error";
    /// 500: a layer is missing, or layers, settings or statements contradict each other.
    Misconfigured: INTERNAL_SERVER_ERROR, ERROR, "misconfigured", "Internal Server Error";
    /// 500: a statement on a [`Tx`](crate::Tx) while another one of the same work is in use.
    TxInUse: INTERNAL_SERVER_ERROR, ERROR, "tx-in-use", "Internal Server Error";
    /// 500: any other error of the database.
    Database: INTERNAL_SERVER_ERROR, ERROR, "database", "Internal Server Error";
    /// 500: a conditional write on the [`Interlock`](crate::Interlock) has written, and the row
    /// that it returned could not be decoded into the requested type. The write is kept.
    WrittenButUnreadable: INTERNAL_SERVER_ERROR, ERROR, "written-but-unreadable",
        "The change was made, but its result could not be read";
    /// 500: COMMIT was sent and its outcome cannot be known. The effects are kept or not; a
    /// repeated request can have them twice. The layer does not repeat it, and no layer around it.
    OutcomeUnknown: INTERNAL_SERVER_ERROR, ERROR, "outcome-unknown",
        "It is not known whether the change was made";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_kind_has_a_code_and_a_type_of_its_own() {
        let codes: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        let types: HashSet<_> = ErrorKind::ALL
            .iter()
            .map(|kind| kind.problem_type())
            .collect();
        assert_eq!(
            (codes.len(), types.len()),
            (ErrorKind::ALL.len(), ErrorKind::ALL.len())
        );
    }

    #[test]
    fn code_is_the_name_in_kebab_case() {
        for kind in ErrorKind::ALL {
            let name = format!("{kind:?}").to_ascii_lowercase();
            assert_eq!(kind.code().replace('-', ""), name);
        }
    }
}
