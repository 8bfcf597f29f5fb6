//! Violations of constraints by rows that a snapshot may not show.

use sqlx::postgres::PgDatabaseError;

use crate::error::sqlstate;

/// A unique, exclusion or foreign key constraint that a statement violated.
///
/// PostgreSQL checks these constraints against the newest rows, not against the transaction's
/// snapshot. So the row in the way may be one that the transaction cannot see: then the violation
/// is a serialization failure that is not called so
/// (<https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    sqlstate: String,
    schema: Option<String>,
    table: Option<String>,
    constraint: Option<String>,
    /// It names the key. It is missing if the session may not read the columns.
    detail: Option<String>,
}

impl Violation {
    pub(crate) fn of(error: &sqlx::Error) -> Option<Self> {
        let database = error.as_database_error()?;
        let sqlstate = database.code()?;
        let may_be_unseen = matches!(
            &*sqlstate,
            sqlstate::UNIQUE_VIOLATION
                | sqlstate::EXCLUSION_VIOLATION
                | sqlstate::FOREIGN_KEY_VIOLATION
        );
        let postgres: &PgDatabaseError = database.try_downcast_ref().filter(|_| may_be_unseen)?;
        Some(Self {
            sqlstate: sqlstate.into_owned(),
            schema: postgres.schema().map(str::to_owned),
            table: postgres.table().map(str::to_owned),
            constraint: postgres.constraint().map(str::to_owned),
            detail: postgres.detail().map(str::to_owned),
        })
    }
}

/// The violations that are no serialization failures.
#[derive(Debug, Clone, Default)]
pub(crate) enum Known {
    /// Those that an earlier attempt met. The row in the way was there before this attempt's
    /// snapshot.
    Earlier(Vec<Violation>),
    /// All: CockroachDB reports a row that the transaction cannot see as a serialization failure.
    #[default]
    All,
}

impl Known {
    pub(crate) fn contains(&self, violation: &Violation) -> bool {
        match self {
            Self::Earlier(violations) => violations.contains(violation),
            Self::All => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Violation {
        pub(crate) fn of_constraint(constraint: &str) -> Self {
            Self {
                sqlstate: sqlstate::UNIQUE_VIOLATION.to_owned(),
                schema: None,
                table: None,
                constraint: Some(constraint.to_owned()),
                detail: None,
            }
        }
    }
}
