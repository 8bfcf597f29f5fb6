//! A conditional write with its values.

use std::{cell::Cell, fmt};

use sqlx::{
    Arguments as _, Decode, Encode, FromRow, Postgres, Type,
    postgres::{PgArguments, PgRow},
};

use crate::{
    error::{Error, ErrorKind},
    write::{
        row::Hashed,
        statements::{BoundStatement, Plan, Written},
        target::{Unreadable, WriteTarget},
    },
};

/// A [`ConditionalWrite`](crate::ConditionalWrite) with its values, ready to run.
#[must_use = "it writes when it is run"]
pub struct BoundWrite {
    plan: Plan,
    arguments: PgArguments,
    /// The hash of the values that tell its row from others.
    row: u64,
    /// The first value that could not be encoded.
    encode_error: Option<Error>,
}

impl BoundWrite {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            plan,
            arguments: PgArguments::default(),
            row: 0,
            encode_error: None,
        }
    }

    /// Binds the next value.
    pub fn bind<'t, T>(mut self, value: T) -> Self
    where
        T: Encode<'t, Postgres> + Type<Postgres>,
    {
        let added = if self.plan.is_key(self.arguments.len() as u32 + 1) {
            let hash = Cell::new(self.row);
            let hashed = Hashed { value, hash: &hash };
            let added = self.arguments.add(hashed);
            self.row = hash.get();
            added
        } else {
            self.arguments.add(value)
        };
        if let Err(error) = added {
            let error = Error::from(sqlx::Error::Encode(error));
            self.encode_error.get_or_insert(error);
        }
        self
    }

    /// Writes, and returns the first row of its RETURNING.
    ///
    /// # Errors
    ///
    /// Returns the error of the first condition that is not true, or
    /// [`NotFound`](ErrorKind::NotFound) if all are true and no row was written, or
    /// [another error](crate::ConditionalWrite#errors).
    pub async fn fetch_one<R>(self, on: impl WriteTarget) -> Result<R, Error>
    where
        R: for<'r> FromRow<'r, PgRow>,
    {
        self.fetch_optional(on).await?.ok_or_else(no_row)
    }

    /// Writes, and returns the first column of the first row of its RETURNING.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`fetch_one`](Self::fetch_one).
    pub async fn fetch_scalar<T>(self, on: impl WriteTarget) -> Result<T, Error>
    where
        T: for<'r> Decode<'r, Postgres> + Type<Postgres> + Send + Unpin,
    {
        let (value,) = self.fetch_one(on).await?;
        Ok(value)
    }

    /// Writes as [`fetch_one`](Self::fetch_one) does. Returns `None` if no row was written although
    /// every condition is true.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`fetch_one`](Self::fetch_one). A condition that is not true is an
    /// error here as well.
    pub async fn fetch_optional<R>(self, on: impl WriteTarget) -> Result<Option<R>, Error>
    where
        R: for<'r> FromRow<'r, PgRow>,
    {
        self.fetch(on).await
    }

    async fn fetch<R, T>(self, on: T) -> Result<Option<R>, Error>
    where
        R: for<'r> FromRow<'r, PgRow>,
        T: WriteTarget,
    {
        if !self.plan.returning {
            return Err(Error::because(
                ErrorKind::Misconfigured,
                "a row of a conditional write without RETURNING",
            ));
        }
        match self.run(on).await? {
            Some(Written { row: Some(row), .. }) => match R::from_row(&row) {
                Ok(row) => Ok(Some(row)),
                Err(error) => Err(unreadable(error, T::UNREADABLE)),
            },
            Some(Written { row: None, .. }) | None => Ok(None),
        }
    }

    /// Writes, and returns the number of rows written, which is at least one.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`fetch_one`](Self::fetch_one).
    pub async fn execute(self, on: impl WriteTarget) -> Result<u64, Error> {
        let written = self.run(on).await?.ok_or_else(no_row)?;
        Ok(written.rows)
    }

    async fn run(self, on: impl WriteTarget) -> Result<Option<Written>, Error> {
        if let Some(error) = self.encode_error {
            return Err(error);
        }
        let (bound, expected) = (self.arguments.len(), self.plan.parameters);
        if bound != expected {
            let cause =
                format!("{bound} values bound to the {expected} parameters of a conditional write");
            return Err(Error::because(ErrorKind::Misconfigured, cause));
        }
        let statement = BoundStatement::new(self.plan, self.arguments, self.row);
        on.run(statement).await
    }
}

impl fmt::Debug for BoundWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundWrite")
            .field("statement", &self.plan.name)
            .finish_non_exhaustive()
    }
}

/// The error of a row that was written and cannot be decoded.
fn unreadable(error: sqlx::Error, write: Unreadable) -> Error {
    match write {
        Unreadable::Kept => {
            let error = Error::database(ErrorKind::WrittenButUnreadable, error);
            // No layer sees this error on its way.
            error.log();
            error
        }
        Unreadable::Open => error.into(),
    }
}

fn no_row() -> Error {
    Error::because(
        ErrorKind::NotFound,
        "every condition is true, and no row was written",
    )
}
