//! The mend of an error of the database whose message does not name it.

use crate::error::sqlstate::{self, SQLX_STATEMENT};

/// What mends the error, for the log. `None` if its message says all there is to say.
pub(crate) fn advice(error: &sqlx::Error) -> Option<&'static str> {
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
