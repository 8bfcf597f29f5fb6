//! An error of the database in the words of the log, with its mend if its message does not name it.

use std::error::Error as StdError;

use crate::error::sqlstate::{self, SQLX_STATEMENT};

/// Describes the cause of an error.
pub(crate) fn describe_cause(cause: &(dyn StdError + Send + Sync + 'static)) -> String {
    match cause.downcast_ref() {
        Some(error) => describe(error),
        None => cause.to_string(),
    }
}

/// Describes an error for the log, without its message where that may repeat stored values: for
/// data exceptions, constraint violations and errors raised by functions. With its mend, where the
/// message does not name it.
pub(crate) fn describe(error: &sqlx::Error) -> String {
    let Some(database) = error.as_database_error() else {
        return error.to_string();
    };
    match database.code().as_deref().map(sqlstate::class) {
        Some(sqlstate::DATA_EXCEPTION) => "data exception".to_owned(),
        Some(sqlstate::RAISED_BY_FUNCTION) => "raised by a function".to_owned(),
        Some(sqlstate::CONSTRAINT_VIOLATION) => format!(
            "violation of the constraint {:?} of {:?}",
            database.constraint().unwrap_or_default(),
            database.table().unwrap_or_default(),
        ),
        _ => match advice(error) {
            Some(advice) => format!("{error}; {advice}"),
            None => error.to_string(),
        },
    }
}

/// What mends the error. `None` if its message says all there is to say.
fn advice(error: &sqlx::Error) -> Option<&'static str> {
    let message = error.as_database_error()?.message();
    advice_for(&sqlstate::code(error)?, message)
}

fn advice_for(code: &str, message: &str) -> Option<&'static str> {
    match code {
        "08P01" if message.contains(STARTUP_PARAMETER) => Some(IGNORE_PARAMETER),
        "08P01" | "26000" | "42P05" if message.contains(SQLX_STATEMENT) => Some(POOL_STATEMENTS),
        _ => None,
    }
}

/// How PgBouncer rejects a connection with a setting that it does not know.
const STARTUP_PARAMETER: &str = "unsupported startup parameter";

const IGNORE_PARAMETER: &str = "add it to ignore_startup_parameters of PgBouncer, and set it by ALTER ROLE or ALTER DATABASE \
     if it is one of yours";

const POOL_STATEMENTS: &str = "the session does not have the statement that sqlx has prepared: PgBouncer with transaction \
     pooling needs max_prepared_statements";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_with_a_pooler_have_advice_and_other_errors_have_none() {
        for (code, message, expected) in [
            (
                "08P01",
                "unsupported startup parameter: extra_float_digits",
                Some(IGNORE_PARAMETER),
            ),
            (
                "08P01",
                "unsupported startup parameter in options: search_path",
                Some(IGNORE_PARAMETER),
            ),
            (
                "08P01",
                "bind message supplies 2 parameters, but prepared statement \"sqlx_s_1\" requires 1",
                Some(POOL_STATEMENTS),
            ),
            (
                "26000",
                "prepared statement \"sqlx_s_1\" does not exist",
                Some(POOL_STATEMENTS),
            ),
            (
                "42P05",
                "prepared statement \"sqlx_s_1\" already exists",
                Some(POOL_STATEMENTS),
            ),
            ("26000", "prepared statement \"mine\" does not exist", None),
            (
                "08P01",
                "bind message supplies 1 parameters, but prepared statement \"\" requires 2",
                None,
            ),
            ("57014", "canceling statement \"sqlx_s_1\"", None),
        ] {
            assert_eq!(advice_for(code, message), expected, "{code}: {message}");
        }
    }
}
