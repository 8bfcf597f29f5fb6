//! Statements that may leave something on their session.

use memchr::{memchr_iter, memchr2_iter};

use crate::tx::words::{first_word, is_word, sql_words};

/// Whether `sql` may leave something on its session that outlives the transaction: a setting, a
/// role, a lock, a temporary table, a cursor, a prepared statement.
///
/// Calls inside of a function are not seen.
pub(crate) fn alters_session(sql: &str) -> bool {
    let command = first_word(sql);
    let is_one_of = |names: &[&str]| names.iter().any(|name| command.eq_ignore_ascii_case(name));
    if is_one_of(&COMMANDS) {
        return true;
    }
    if is_one_of(&PARTLY) && command_alters_session(sql) {
        return true;
    }
    is_one_of(&QUERIES) && selects_into_temporary_table(sql) || calls_alter_session(sql)
}

const COMMANDS: [&str; 9] = [
    "DEALLOCATE",
    "DISCARD",
    "DO",
    "LISTEN",
    "LOAD",
    "PREPARE",
    "RESET",
    "UNLISTEN",
    "USE",
];

/// Commands of which some forms do.
const PARTLY: [&str; 3] = ["CREATE", "DECLARE", "SET"];

const QUERIES: [&str; 3] = ["EXPLAIN", "SELECT", "WITH"];

fn command_alters_session(sql: &str) -> bool {
    let mut words = sql_words(sql);
    let command = words.next().unwrap_or_default();
    match &*command {
        "SET" => {
            let next = words.next().unwrap_or_default();
            !matches!(&*next, "LOCAL" | "TRANSACTION" | "CONSTRAINTS")
        }
        // At the latest behind OR REPLACE.
        "CREATE" => words
            .take(3)
            .any(|word| matches!(&*word, "TEMP" | "TEMPORARY")),
        "DECLARE" => words.any(|word| word == "HOLD"),
        _ => false,
    }
}

/// Whether `INTO TEMP` or `INTO LOCAL TEMPORARY` is in the text.
fn selects_into_temporary_table(sql: &str) -> bool {
    memchr2_iter(b't', b'T', sql.as_bytes()).any(|at| {
        let (before, after) = sql.split_at(at);
        starts_with(after, "temp").is_some() && {
            let before = before.trim_end();
            let before = before.rsplit(|c| !is_word(c)).next().unwrap_or_default();
            let names = ["INTO", "LOCAL", "GLOBAL"];
            names.iter().any(|name| before.eq_ignore_ascii_case(name))
        }
    })
}

/// Whether the text names what changes a session: `set_config` beyond the transaction, an advisory
/// lock of the session, the schema of temporary tables.
fn calls_alter_session(sql: &str) -> bool {
    memchr_iter(b'_', sql.as_bytes()).any(|at| {
        let (before, after) = sql.split_at(at);
        let ends_with = |word| ends_with(before, word).is_some();
        let follows = |word| starts_with(after, word).is_some();
        if follows("_config") && ends_with("set") {
            !starts_with(after, "_config").is_some_and(is_local)
        } else {
            follows("_lock") && (ends_with("pg_advisory") || ends_with("pg_try_advisory"))
                || follows("_temp") && ends_with("pg")
        }
    })
}

/// Whether the last one of the arguments that follow is `true`, by which `set_config` is undone
/// with the transaction. A text that is hard to read is taken for one where it is not.
fn is_local(call: &str) -> bool {
    let Some(arguments) = call.trim_start().strip_prefix('(') else {
        return false;
    };
    let mut depth = 1;
    let mut quote = None;
    let mut characters = arguments.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let next = characters.peek().map(|(_, next)| *next);
        match (quote, c, next) {
            (_, '\\', _) => return false,
            (Some(open), c, _) => quote = Some(open).filter(|open| *open != c),
            (None, '\'' | '"', _) => quote = Some(c),
            (None, '-', Some('-')) | (None, '/', Some('*')) => return false,
            (None, '$', next) if !next.is_some_and(|next| next.is_ascii_digit()) => return false,
            (None, '(', _) => depth += 1,
            (None, ')', _) => {
                depth -= 1;
                if depth == 0 {
                    let arguments = arguments.get(..at).unwrap_or_default().trim_end();
                    let others = ends_with(arguments, "true");
                    return others.is_some_and(|others| others.trim_end().ends_with(','));
                }
            }
            _ => {}
        }
    }
    false
}

/// The rest of `text` after `word`, in upper or lower case.
fn starts_with<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(word.len())?;
    start.eq_ignore_ascii_case(word).then_some(rest)
}

/// The rest of `text` before `word`, in upper or lower case.
fn ends_with<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let (rest, end) = text.split_at_checked(text.len().checked_sub(word.len())?)?;
    end.eq_ignore_ascii_case(word).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_leaves_something_on_its_session_is_found() {
        for sql in [
            "SET search_path = a",
            "/* why */ set role a",
            "SET SESSION AUTHORIZATION a",
            "RESET search_path",
            "DISCARD PLANS",
            "LISTEN a",
            "PREPARE a AS SELECT 1",
            "DEALLOCATE ALL",
            "DO $$ BEGIN END $$",
            "DECLARE a CURSOR WITH HOLD FOR SELECT 1",
            "CREATE TEMP TABLE a ()",
            "create local temporary table a ()",
            "CREATE OR REPLACE TEMP VIEW a AS SELECT 1",
            "CREATE TABLE pg_temp.a ()",
            "SELECT 1 INTO TEMP a",
            "select 1 into Temp a",
            "WITH b AS (SELECT 1) SELECT * INTO\nTEMPORARY TABLE a FROM b",
            "SELECT set_config('a.b', $1, false)",
            "SELECT set_config('a.b', $1, $2)",
            "SELECT SET_CONFIG('a.b', 'true', (true))",
            "SELECT set_config('a', '1', true), set_config('b', '1', false)",
            "SELECT set_config('a', E'\\'', false), 'x, true)'",
            "SELECT set_config('a', $$'$$, false), 'x, true)'",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_try_advisory_lock_shared(1)",
        ] {
            assert!(alters_session(sql), "{sql}");
        }
    }

    #[test]
    fn text_that_leaves_nothing_passes() {
        for sql in [
            "",
            "_",
            "SELECT 1",
            "SET LOCAL search_path = a",
            "set constraints all deferred",
            "SELECT set_config('a.b', $1, true)",
            "SELECT pg_catalog.set_config('a', coalesce($1, 'x'), TRUE ), set_config('b', ')', true)",
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT pg_try_advisory_xact_lock(1)",
            "SELECT temp FROM weather",
            "INSERT INTO temp VALUES (1)",
            "UPDATE a SET role = 1",
            "CREATE TABLE a ()",
            "DECLARE a CURSOR FOR SELECT 1",
            "SELECT 'ä_ö'",
        ] {
            assert!(!alters_session(sql), "{sql}");
        }
    }
}
