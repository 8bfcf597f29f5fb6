//! `If-None-Match: *` on a write.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::{HeaderMap, header::IF_NONE_MATCH, request::Parts};

use crate::{
    error::{Error, ErrorKind, describe, sqlstate},
    http::precondition::header::{Field, Malformed},
};

/// The client creates a resource and overwrites none: the extractor of
/// [`If-None-Match: *`](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2).
///
/// ```
/// # use axum::{extract::Path, http::StatusCode};
/// use tower_interlock::{Error, Tx, precondition::{CreateOnly, ETag}};
///
/// async fn create(Path(id): Path<i64>, new: CreateOnly, mut tx: Tx, body: String) -> Result<(StatusCode, ETag), Error> {
///     let inserted = sqlx::query_scalar(
///         "INSERT INTO documents (id, body) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING version",
///     )
///     .bind(id).bind(&body)
///     .fetch_optional(&mut tx).await;
///     let version = new.created(inserted)?;
///     Ok((StatusCode::CREATED, ETag::new(version)))
/// }
/// ```
///
/// # What it accepts
///
/// | `If-None-Match` | response |
/// |---|---|
/// | `*` | that of the handler |
/// | a list of entity tags, also an empty one | 412 [`PreconditionFailed`](ErrorKind::PreconditionFailed), since a handler that only creates cannot overwrite any version |
/// | `7`, `*, "7"`, `*` in several lines | 400 [`InvalidPrecondition`](ErrorKind::InvalidPrecondition) |
/// | none | 428 [`PreconditionRequired`](ErrorKind::PreconditionRequired) |
///
/// `Option<CreateOnly>` is `None` without the header, and only then. Beside an
/// [`Option<IfMatch>`](crate::precondition::IfMatch) it tells a create from an update.
///
/// In a conditional write the condition is
/// `Condition::current("NOT EXISTS (SELECT 1 FROM documents WHERE id = $1)")`, which is a 412 as
/// well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOnly(());

impl CreateOnly {
    /// Rejects if the resource exists. Read that through the [`Tx`](crate::Tx) of the write.
    ///
    /// # Errors
    ///
    /// Returns [`PreconditionFailed`](ErrorKind::PreconditionFailed).
    pub fn check(&self, exists: bool) -> Result<(), Error> {
        if exists {
            Err(Error::precondition_failed())
        } else {
            Ok(())
        }
    }

    /// Returns the row of an `INSERT … RETURNING`.
    ///
    /// No row means that `ON CONFLICT DO NOTHING` has found one. A violation of any unique
    /// constraint counts as well: with more than the key, name the key in `ON CONFLICT`.
    ///
    /// # Errors
    ///
    /// Returns [`PreconditionFailed`](ErrorKind::PreconditionFailed) if nothing was inserted
    /// because the row exists, or the error of the statement.
    pub fn created<T>(&self, inserted: Result<Option<T>, sqlx::Error>) -> Result<T, Error> {
        match inserted {
            Ok(Some(row)) => Ok(row),
            Ok(None) | Err(sqlx::Error::RowNotFound) => Err(Error::precondition_failed()),
            Err(error) if sqlstate::code(&error).as_deref() == Some(sqlstate::UNIQUE_VIOLATION) => {
                let cause = describe(&error);
                Err(Error::because(ErrorKind::PreconditionFailed, cause))
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for CreateOnly {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        create_only(&parts.headers)?.ok_or_else(|| Error::new(ErrorKind::PreconditionRequired))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for CreateOnly {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Error> {
        create_only(&parts.headers)
    }
}

fn create_only(headers: &HeaderMap) -> Result<Option<CreateOnly>, Error> {
    match Field::read(headers, IF_NONE_MATCH) {
        Ok(None) => Ok(None),
        Ok(Some(Field::Any)) => Ok(Some(CreateOnly(()))),
        Ok(Some(Field::List(_))) => Err(Error::because(
            ErrorKind::PreconditionFailed,
            "If-None-Match names versions that may be overwritten, and the handler only creates",
        )),
        Err(Malformed) => Err(Error::because(
            ErrorKind::InvalidPrecondition,
            "If-None-Match is neither * nor a list of entity tags",
        )),
    }
}
