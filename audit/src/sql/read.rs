//! The reading of a text.

use sqlparser::tokenizer::Token;

use crate::sql::{
    effect::{Effect, Part},
    parsed,
    tokens::{self, Statements, first_word},
    words,
};

/// What a text does, and to which tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sql {
    /// What it does.
    pub effect: Effect,
    /// The tables that it reads, without the system's catalogs.
    pub reads: Vec<String>,
    /// The tables that it writes.
    pub writes: Vec<String>,
    /// The functions that it calls and that are none of the server's. They may write unseen.
    pub calls: Vec<String>,
    /// The text without values and comments.
    pub text: String,
}

impl Sql {
    /// Reads a text of PostgreSQL or CockroachDB. It never fails: a text that is not understood is
    /// [`Unknown`](Effect::Unknown), and its text is replaced as a whole.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let Some(statements) = Statements::read(text) else {
            return Self {
                effect: Effect::Unknown,
                reads: Vec::new(),
                writes: Vec::new(),
                calls: Vec::new(),
                text: "<a text that cannot be read>".to_owned(),
            };
        };
        let mut sql = Self {
            effect: Effect::Control,
            reads: Vec::new(),
            writes: Vec::new(),
            calls: Vec::new(),
            text: statements.normalized(),
        };
        for tokens in statements.each() {
            sql.add(statement(&tokens));
        }
        sql.reads = tables(sql.reads);
        sql.writes = tables(sql.writes);
        sql.calls.sort_unstable();
        sql.calls.dedup();
        sql
    }

    fn add(&mut self, part: Part) {
        self.effect = self.effect.max(part.effect);
        self.reads.extend(part.reads);
        self.writes.extend(part.writes);
        self.calls.extend(part.calls);
    }
}

fn statement(tokens: &[Token]) -> Part {
    let first = first_word(tokens).unwrap_or_default();
    if CONTROL.contains(&first.as_str()) {
        return Part {
            effect: Effect::Control,
            reads: Vec::new(),
            writes: Vec::new(),
            calls: Vec::new(),
        };
    }
    let tokens = tokens::without_cockroach(tokens);
    let by_words = words::read(&tokens);
    if OPAQUE_WRITES.contains(&first.as_str()) {
        return Part {
            effect: Effect::Write,
            ..by_words
        };
    }
    parsed::read(tokens).unwrap_or(by_words)
}

/// Sorted and without duplicates, the schema `public` and the system's catalogs.
fn tables(names: Vec<String>) -> Vec<String> {
    let mut tables: Vec<String> = names
        .into_iter()
        .map(|name| match name.strip_prefix("public.") {
            Some(table) => table.to_owned(),
            None => name,
        })
        .filter(|name| !is_catalog(name))
        .collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}

fn is_catalog(name: &str) -> bool {
    const CATALOGS: [&str; 4] = ["pg_", "information_schema.", "crdb_internal.", "system."];
    CATALOGS.iter().any(|catalog| name.starts_with(catalog))
}

/// The first words of statements that begin, end or adjust transactions and sessions.
const CONTROL: [&str; 18] = [
    "ABORT",
    "BEGIN",
    "CLOSE",
    "COMMIT",
    "DEALLOCATE",
    "DISCARD",
    "END",
    "FETCH",
    "LISTEN",
    "LOCK",
    "RELEASE",
    "RESET",
    "ROLLBACK",
    "SAVEPOINT",
    "SET",
    "SHOW",
    "START",
    "UNLISTEN",
];

/// The first words of statements that write, whatever follows.
const OPAQUE_WRITES: [&str; 17] = [
    "ALTER", "ANALYZE", "BACKUP", "CALL", "CLUSTER", "COMMENT", "CREATE", "DO", "DROP", "GRANT",
    "IMPORT", "NOTIFY", "REFRESH", "REINDEX", "REVOKE", "TRUNCATE", "VACUUM",
];

#[cfg(test)]
mod tests {
    use super::{Effect, Sql};

    #[track_caller]
    fn assert_reads(text: &str, tables: &[&str]) {
        let sql = Sql::read(text);
        assert_eq!(
            (sql.effect, &sql.reads[..]),
            (Effect::Read, &tables.map_owned()[..]),
            "{text}"
        );
        assert!(sql.writes.is_empty(), "{text}: {sql:?}");
    }

    #[track_caller]
    fn assert_writes(text: &str, reads: &[&str], writes: &[&str]) {
        let sql = Sql::read(text);
        let expected = (Effect::Write, reads.map_owned(), writes.map_owned());
        assert_eq!((sql.effect, sql.reads, sql.writes), expected, "{text}");
    }

    trait MapOwned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl MapOwned for [&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|&name| name.to_owned()).collect()
        }
    }

    #[test]
    fn queries_read() {
        assert_reads(
            "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1)",
            &["grants"],
        );
        assert_reads(
            "SELECT a.x FROM public.b a JOIN c.d USING (x)",
            &["b", "c.d"],
        );
        assert_reads(
            "WITH mine AS (SELECT * FROM grants) SELECT * FROM mine",
            &["grants"],
        );
        assert_reads("SELECT body FROM documents FOR UPDATE", &["documents"]);
        assert_reads("VALUES (1)", &[]);
        assert_reads("SELECT 1 FROM pg_locks, pg_catalog.pg_class", &[]);
        assert_reads("SELECT 'DELETE FROM grants'", &[]);
        assert_reads("EXPLAIN DELETE FROM grants", &["grants"]);
    }

    #[test]
    fn writes_are_found_wherever_they_are() {
        assert_writes(
            "INSERT INTO notes SELECT * FROM drafts",
            &["drafts"],
            &["notes"],
        );
        assert_writes(
            "UPDATE documents SET body = $1 WHERE id IN (SELECT id FROM grants)",
            &["grants"],
            &["documents"],
        );
        assert_writes("DELETE FROM a USING b WHERE a.x = b.x", &["b"], &["a"]);
        assert_writes(
            "WITH gone AS (DELETE FROM grants RETURNING *) SELECT * FROM gone",
            &[],
            &["grants"],
        );
        assert_writes("SELECT 1; DELETE FROM grants", &[], &["grants"]);
        assert_writes("TRUNCATE grants", &[], &["grants"]);
        assert_writes("EXPLAIN ANALYZE DELETE FROM grants", &[], &["grants"]);
        assert_writes("CALL purge()", &[], &[]);
        assert_writes("DO $$ BEGIN PERFORM 1; END $$", &[], &[]);
        assert_writes("CREATE TABLE x (a INT)", &[], &["x"]);
        assert_writes("COPY notes FROM STDIN", &[], &["notes"]);
        assert_eq!(
            Sql::read("SELECT * INTO copied FROM grants").effect,
            Effect::Write
        );
    }

    #[test]
    fn functions_of_the_service_are_calls_and_no_tables() {
        for (text, reads, calls) in [
            ("SELECT purge($1)", vec![], vec!["purge"]),
            ("SELECT count(*), lower(a) FROM b", vec!["b"], vec![]),
            (
                "SELECT * FROM app.purge($1) AS p, b",
                vec!["b"],
                vec!["app.purge"],
            ),
            (
                "SELECT * FROM generate_series(1, 9) AS n JOIN b ON b.n = n",
                vec!["b"],
                vec![],
            ),
            ("SELECT * FROM unnest($1::TEXT[]) AS n", vec![], vec![]),
            (
                "SELECT a FROM b WHERE may($1) AND NOT may($2)",
                vec!["b"],
                vec!["may"],
            ),
            ("SELECT * FROM b, LATERAL c(b.id)", vec!["b"], vec!["c"]),
        ] {
            let sql = Sql::read(text);
            let found = (sql.effect, sql.reads, sql.calls);
            assert_eq!(
                found,
                (Effect::Read, reads.map_owned(), calls.map_owned()),
                "{text}"
            );
        }
        let sql = Sql::read("INSERT INTO a SELECT f(x) FROM b");
        assert_eq!(sql.calls, ["f"]);
    }

    #[test]
    fn syntax_of_cockroach_is_understood() {
        assert_writes("UPSERT INTO grants VALUES ($1, $2)", &[], &["grants"]);
        assert_reads(
            "SELECT * FROM grants@primary WHERE user_id = $1",
            &["grants"],
        );
        assert_reads("SELECT * FROM grants@{FORCE_INDEX=primary}", &["grants"]);
        assert_reads("SELECT * FROM grants AS OF SYSTEM TIME '-10s'", &["grants"]);
        assert_reads(
            "SELECT * FROM grants AS OF SYSTEM TIME follower_read_timestamp()",
            &["grants"],
        );
        assert_reads(
            "SELECT * FROM grants WHERE x = 1 FOR NO KEY UPDATE",
            &["grants"],
        );
        assert_reads("SELECT * FROM grants FOR KEY SHARE", &["grants"]);
        assert_eq!(Sql::read("BEGIN PRIORITY HIGH").effect, Effect::Control);
    }

    #[test]
    fn control_is_neither_read_nor_write() {
        for text in [
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "ROLLBACK; BEGIN",
            "SAVEPOINT a",
            "",
        ] {
            assert_eq!(Sql::read(text).effect, Effect::Control, "{text}");
        }
    }

    #[test]
    fn texts_that_are_not_understood_count_as_writes() {
        for text in [
            "SELECT FROM WHERE ,",
            "FROBNICATE grants",
            "SELECT 'open",
            "/* open",
        ] {
            assert!(Sql::read(text).effect.may_write(), "{text}");
        }
        assert_writes("INSERT INTO notes FROBNICATE", &[], &["notes"]);
        assert_eq!(
            Sql::read("SELECT FROBNICATE ( FROM grants FOR UPDATE").effect,
            Effect::Unknown
        );
    }

    #[test]
    fn values_and_comments_are_not_kept() {
        let sql = Sql::read(
            "SELECT /* alice */ *\n  FROM tokens -- bob\n WHERE hash = 'secret' AND n = 42 AND u = $1 \
             AND e = E'x\\n' AND d = $$deep$$ AND b = X'ff' AND \"Q\" = 1.5",
        );
        assert_eq!(
            sql.text,
            "SELECT * FROM tokens WHERE hash = ? AND n = ? AND u = $1 AND e = ? AND d = ? AND b = ? \
             AND \"Q\" = ?"
        );
        assert!(!Sql::read("SELECT 'secret").text.contains("secret"));
    }
}
