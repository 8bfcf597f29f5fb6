//! A statement before it is sent: what its text may do to the transaction.

use sqlx::{
    Execute, Postgres, SqlStr,
    postgres::{PgArguments, PgStatement},
};

use crate::tx::{session, words::sql_words};

/// A query taken apart, so that its text can be read before it is sent.
pub(crate) struct Statement {
    sql: SqlStr,
    arguments: Result<Option<PgArguments>, BoxError>,
    statement: Option<PgStatement>,
    persistent: bool,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Statement {
    pub(crate) fn new<'q>(mut query: impl Execute<'q, Postgres>) -> Self {
        let arguments = query.take_arguments();
        let statement = query.statement().cloned();
        let persistent = query.persistent();
        Self {
            sql: query.sql(),
            arguments,
            statement,
            persistent,
        }
    }

    pub(crate) fn text(&self) -> &SqlStr {
        &self.sql
    }

    /// Whether the text begins, ends or changes a transaction, or resets its session.
    pub(crate) fn controls_transaction(&self) -> bool {
        controls_transaction(self.sql.as_str())
    }

    /// Whether it is an INSERT that skips rows in conflict, so that it may return none.
    pub(crate) fn may_skip_rows(&self) -> bool {
        let text = self.sql.as_str().trim_ascii_start().as_bytes();
        let is_insert = text
            .get(..6)
            .is_some_and(|verb| verb.eq_ignore_ascii_case(b"INSERT"));
        is_insert
            && text
                .windows(10)
                .any(|part| part.eq_ignore_ascii_case(b"DO NOTHING"))
    }

    /// Whether the text may leave something on its session that outlives the transaction.
    pub(crate) fn alters_session(&self) -> bool {
        session::alters_session(self.sql.as_str())
    }

    /// Whether the text may contain several statements. Only one without bind arguments can: the
    /// server does not prepare several.
    pub(crate) fn may_be_several(&self) -> bool {
        matches!(self.arguments, Ok(None))
            && self
                .sql
                .as_str()
                .trim_end_matches([';', ' ', '\n', '\r', '\t'])
                .contains(';')
    }

    /// Whether one of several statements may end the transaction. A semicolon that separates
    /// nothing, as in a literal, makes it doubtful as well.
    pub(crate) fn may_end_transaction(&self) -> bool {
        self.sql.as_str().split(';').any(controls_transaction)
    }
}

impl Execute<'_, Postgres> for Statement {
    fn sql(self) -> SqlStr {
        self.sql
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.statement.as_ref()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxError> {
        std::mem::replace(&mut self.arguments, Ok(None))
    }

    fn persistent(&self) -> bool {
        self.persistent
    }
}

/// Whether `sql` begins with transaction control.
pub(crate) fn controls_transaction(sql: &str) -> bool {
    let mut words = sql_words(sql);
    let mut word = || words.next().unwrap_or_default();
    match &*word() {
        "ABORT" | "BEGIN" | "COMMIT" | "END" | "RELEASE" | "ROLLBACK" | "SAVEPOINT" | "START" => {
            true
        }
        "PREPARE" => word() == "TRANSACTION",
        // sqlx would lose the reply to COMMIT when a notification comes with it.
        "DISCARD" | "LISTEN" => true,
        "RESET" => {
            let next = word();
            next == "ALL" || is_transaction_setting(&next)
        }
        "SET" => match &*word() {
            "LOCAL" => is_transaction_setting(&word()),
            "SESSION" => {
                let next = word();
                next == "CHARACTERISTICS" || is_transaction_setting(&next)
            }
            setting => is_transaction_setting(setting),
        },
        _ => false,
    }
}

fn is_transaction_setting(word: &str) -> bool {
    // `U&"..."` can spell any of them.
    word == "U" || word.starts_with("TRANSACTION") || word.starts_with("DEFAULT_TRANSACTION")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_control_is_found_behind_anything() {
        for sql in [
            "COMMIT",
            "  rollback to savepoint a",
            ";;begin",
            "-- note\nEnd",
            "/* a /* nested */ comment */ START TRANSACTION",
            "/**/commit;",
            "SAVEPOINT a",
            "RELEASE a",
            "ABORT",
            "PREPARE TRANSACTION 'x'",
            "SET TRANSACTION READ WRITE",
            "SET LOCAL transaction_isolation = 'read committed'",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET \"transaction_isolation\" TO 'read committed'",
            "SET default_transaction_read_only = on",
            "RESET transaction_isolation",
            "RESET ALL",
            "DISCARD ALL",
            "LISTEN a",
            "-- a comment also ends at a carriage return\rCOMMIT",
            "SET U&\"transaction\\005fisolation\" TO 'read committed'",
        ] {
            assert!(controls_transaction(sql), "{sql}");
        }
    }

    #[test]
    fn other_texts_pass() {
        for sql in [
            "",
            "--",
            "/* COMMIT",
            "SELECT 'COMMIT'",
            "INSERT INTO commits VALUES (1)",
            "SET LOCAL search_path = a",
            "PREPARE a AS SELECT 1",
            "WITH begin AS (SELECT 1) SELECT * FROM begin",
            "commits",
        ] {
            assert!(!controls_transaction(sql), "{sql}");
        }
    }

    #[test]
    fn end_of_the_transaction_is_found_in_the_middle_of_a_text() {
        for sql in [
            "SELECT 1; COMMIT",
            "SELECT 1; COMMIT; SELECT 2",
            "SELECT 1; /* ; */ end; SELECT 2",
            "SELECT ';'; -- ;\nROLLBACK",
            "SELECT $$;$$; PREPARE TRANSACTION 'a'",
            "SELECT '/*;'; COMMIT",
        ] {
            assert!(Statement::new(sql).may_end_transaction(), "{sql}");
        }
        for sql in ["SELECT 1; SELECT 'COMMIT'", "SELECT 1; SELECT 2;"] {
            assert!(!Statement::new(sql).may_end_transaction(), "{sql}");
        }
    }

    #[test]
    fn only_a_text_without_arguments_can_be_several() {
        assert!(Statement::new("SELECT 1; COMMIT").may_be_several());
        assert!(!Statement::new("SELECT 1;\n").may_be_several());
        assert!(!Statement::new(sqlx::query("SELECT 1; COMMIT")).may_be_several());
    }
}
