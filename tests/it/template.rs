//! Whatever text the check of a conditional write lets pass: where its conditions are not true, it
//! writes nothing.

use std::{
    cell::Cell,
    panic::{self, catch_unwind},
    sync::Once,
};

use support::Kind;
use tower_interlock::{Condition, ConditionalWrite};

use crate::kit::{Kit, test};

/// Texts that pass, to be changed at random.
const TEMPLATES: &[&str] = &[
    "UPDATE documents SET body = 'new' WHERE id = 1 AND {conditions} RETURNING id",
    "UPDATE documents SET body = 'new' FROM notes WHERE notes . id = documents . id AND {conditions}",
    "DELETE FROM documents WHERE {conditions} AND id = 1",
    "DELETE FROM documents USING notes WHERE {conditions} RETURNING documents . id",
    "INSERT INTO notes ( id , note ) SELECT 5 , 'new' WHERE {conditions} RETURNING id",
    "INSERT INTO notes SELECT d . id + 10 , body FROM documents AS d WHERE {conditions} ORDER BY d . id LIMIT 1",
    "INSERT INTO notes SELECT 1 , 'new' WHERE {conditions} ON CONFLICT ( id ) DO UPDATE SET note = 'newer' WHERE true",
];

/// What they are changed with: all that was seen to get a row past a condition, and what is near it.
const WORDS: &[&str] = &[
    "AND",
    "OR",
    "NOT",
    "IS",
    "NULL",
    "TRUE",
    "FALSE",
    "BETWEEN",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "IN",
    "EXISTS",
    "WHERE",
    "RETURNING",
    "ON",
    "CONFLICT",
    "GROUP BY",
    "HAVING",
    "WINDOW",
    "ORDER BY",
    "LIMIT",
    "OFFSET",
    "FOR UPDATE",
    "UNION",
    "UNION ALL",
    "EXCEPT",
    "SELECT",
    "FROM",
    "DISTINCT",
    "JOIN",
    "USING",
    "AS",
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    ";",
    "'",
    "\"",
    "=",
    "<",
    "::",
    "BOOL",
    "--",
    "/*",
    "*/",
    "$$",
    "\\",
    "1",
    "1OR",
    "true",
    "false",
    "id",
    "body",
    "documents",
    "notes",
    "count",
    "count(*)",
    "max(id)",
    "\"count\"(*)",
    "documents.count",
    "documents.where",
    "d.count",
    "AS where",
    "AS or",
    "()",
    "( )",
    "(SELECT count(documents.id))",
    "grouping(id)",
    "VALUES (9, 'new')",
    "DEFAULT VALUES",
    "DELETE FROM documents",
    "WITH",
    "{conditions}",
    "true OR",
    "OR true",
    "false BETWEEN false AND",
    "CASE WHEN true THEN true ELSE",
    "HAVING true",
    "GROUP BY ()",
    "GROUP BY ROLLUP (id)",
    "UNION SELECT 9, 'new'",
    "JOIN notes ON true AND",
    "ON CONFLICT DO NOTHING",
    "AND CASE WHEN true THEN true END",
    "IS NOT TRUE",
    "= false",
    "IS DISTINCT FROM",
    "ORDER BY count(*)",
    "row_number() OVER ()",
    "generate_series(1, 3)",
];

/// What conditions come to that are not true.
const NOT_TRUE: &[&str] = &[
    "false",
    "NULL::BOOL",
    "(SELECT id FROM documents WHERE id = 9) = 1",
];

#[test]
fn a_text_that_passes_the_check_writes_nothing_against_its_conditions() {
    const MUTATIONS: usize = 20_000;
    test(async |kit: Kit| {
        kit.database
            .run("INSERT INTO notes VALUES (1, 'old')")
            .await;
        let before = rows(&kit).await;
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut passed, mut ran) = (0, 0);
        for _ in 0..MUTATIONS {
            let text = mutated(&mut random);
            let condition = NOT_TRUE[random.usize(..NOT_TRUE.len())];
            let Some(write) = made(&text, condition) else {
                continue;
            };
            passed += 1;
            let answer = write.unbound().execute(&kit.interlock).await;
            let sqlstate = answer
                .err()
                .map(|error| error.sqlstate().map(str::to_owned));
            let Some(sqlstate) = sqlstate else {
                panic!("written: {text}");
            };
            ran += usize::from(sqlstate.is_none());
            assert_eq!(rows(&kit).await, before, "written: {text}");
        }
        println!("of {MUTATIONS} texts {passed} passed the check, {ran} of them the server's");
        assert!(ran > MUTATIONS / 100, "{ran} of {passed}");
    });
}

/// The other way round: these are refused, because the server takes them and writes.
#[test]
fn a_refused_text_would_have_written() {
    test(async |kit: Kit| {
        let postgres = kit.database.kind() == Kind::PostgreSql;
        for (text, on_both) in [
            (
                "UPDATE documents SET body = 'new' WHERE true OR {conditions}",
                true,
            ),
            (
                "UPDATE documents SET body = 'new' WHERE {conditions} AND true OR true",
                true,
            ),
            (
                "UPDATE documents SET body = 'new' WHERE false BETWEEN false AND {conditions}",
                true,
            ),
            (
                "UPDATE documents SET body = 'new' WHERE {conditions} IS NOT TRUE",
                true,
            ),
            (
                "UPDATE documents SET body = 'new' WHERE NOT {conditions}",
                true,
            ),
            (
                "UPDATE documents SET body = 'new' WHERE id = 1 RETURNING true AND {conditions}",
                true,
            ),
            (
                "UPDATE documents SET body = 'new' -- WHERE {conditions}",
                true,
            ),
            (
                "UPDATE documents SET body = 'new' WHERE CASE WHEN true THEN true ELSE true AND {conditions} END",
                true,
            ),
            (
                "INSERT INTO notes SELECT 7, 'new' WHERE {conditions} UNION SELECT 8, 'new'",
                true,
            ),
            (
                "INSERT INTO notes SELECT count(*), 'new' FROM documents WHERE {conditions}",
                true,
            ),
            (
                "INSERT INTO notes SELECT 7, 'new' WHERE {conditions} GROUP BY ()",
                false,
            ),
            (
                "INSERT INTO notes SELECT 7, 'new' WHERE {conditions} HAVING true",
                false,
            ),
            (
                "INSERT INTO notes SELECT 7, 'new' WHERE {conditions} ORDER BY count(*)",
                false,
            ),
            (
                "INSERT INTO notes SELECT 7, 'new' WHERE {conditions} WINDOW w AS (ORDER BY count(*))",
                false,
            ),
            (
                "INSERT INTO notes SELECT documents.count, 'new' FROM documents WHERE {conditions}",
                false,
            ),
            (
                "INSERT INTO notes SELECT (SELECT count(documents.id)), 'new' FROM documents WHERE {conditions}",
                false,
            ),
            (
                "INSERT INTO notes SELECT 7, 'new' WHERE true ON CONFLICT (id) DO UPDATE SET note = '' WHERE {conditions}",
                true,
            ),
            (
                "WITH gone AS (DELETE FROM documents RETURNING id) DELETE FROM notes WHERE {conditions}",
                true,
            ),
        ] {
            assert!(made(text, "false").is_none(), "passed: {text}");
            if !postgres && !on_both {
                continue;
            }
            let mut tx = kit.outside.begin().await.unwrap();
            let written = sqlx::AssertSqlSafe(text.replace("{conditions}", "(false)"));
            let written = sqlx::query(written).execute(&mut *tx).await;
            tx.rollback().await.unwrap();
            let rows = match written {
                Ok(done) => done.rows_affected(),
                Err(error) => panic!("{error}: {text}"),
            };
            assert!(rows > 0 || text.starts_with("WITH"), "harmless: {text}");
        }
    });
}

/// One of the templates, with up to four changes.
fn mutated(random: &mut fastrand::Rng) -> String {
    let template = TEMPLATES[random.usize(..TEMPLATES.len())];
    let mut words: Vec<&str> = template.split(' ').collect();
    for _ in 0..random.usize(0..5) {
        let at = random.usize(..words.len());
        let word = WORDS[random.usize(..WORDS.len())];
        match random.u8(..5) {
            0 | 1 => words.insert(at, word),
            2 => words[at] = word,
            3 => drop(words.remove(at)),
            _ => {
                let open = random.choice(["(", "NOT (", "EXISTS ( SELECT 1 WHERE"]);
                words.insert(random.usize(at..words.len()) + 1, ")");
                words.insert(at, open.unwrap_or_default());
            }
        }
        if words.is_empty() {
            words.push(word);
        }
    }
    let glue = if random.u8(..8) == 0 { "" } else { " " };
    let at = random.usize(..words.len());
    [words[..at].join(" "), words[at..].join(" ")].join(glue)
}

/// The write, if the check lets it pass.
fn made(text: &str, condition: &str) -> Option<ConditionalWrite> {
    let text: &'static str = text.to_owned().leak();
    let conditions = Box::leak(Box::new([Condition::permitted(
        condition.to_owned().leak(),
    )]));
    quietly(|| catch_unwind(|| ConditionalWrite::new(text, conditions)).ok())
}

/// Without thousands of messages about panics that are expected on this thread.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    thread_local!(static QUIET: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                loud(panic);
            }
        }));
    });
    QUIET.set(true);
    let done = work();
    QUIET.set(false);
    done
}

async fn rows(kit: &Kit) -> Vec<(i64, String)> {
    sqlx::query_as(
        "SELECT id, body FROM documents UNION ALL SELECT -id, note FROM notes ORDER BY 1",
    )
    .fetch_all(&kit.outside)
    .await
    .unwrap()
}
