//! An error of another type inside of a `sqlx::Error`.

use std::{error::Error as StdError, fmt};

/// A type of its own, so that an error which a user has boxed into a [`sqlx::Error`] is not taken
/// for a carried one.
#[derive(Debug)]
struct Carried<E>(E);

/// Carries `error` through an API that returns [`sqlx::Error`].
pub(crate) fn carry<E: StdError + Send + Sync + 'static>(error: E) -> sqlx::Error {
    sqlx::Error::Configuration(Box::new(Carried(error)))
}

/// The error that is carried.
pub(crate) fn carried<E: StdError + 'static>(error: &sqlx::Error) -> Option<&E> {
    match error {
        sqlx::Error::Configuration(cause) => Some(&cause.downcast_ref::<Carried<E>>()?.0),
        _ => None,
    }
}

/// Takes the error that is carried, or gives `error` back.
pub(crate) fn take_carried<E: StdError + 'static>(error: sqlx::Error) -> Result<E, sqlx::Error> {
    match error {
        sqlx::Error::Configuration(cause) => match cause.downcast::<Carried<E>>() {
            Ok(carried) => Ok(carried.0),
            Err(cause) => Err(sqlx::Error::Configuration(cause)),
        },
        error => Err(error),
    }
}

impl<E: fmt::Display> fmt::Display for Carried<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: StdError> StdError for Carried<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}
