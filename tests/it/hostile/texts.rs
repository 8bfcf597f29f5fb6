//! Texts of conditional writes, changed at random. The accepted ones run on a real server.

use std::sync::LazyLock;

use sqlx::AssertSqlSafe;
use support::{Database, Kind};

use support::hostile::template::{Judge, Verdict, rows, try_build};

use super::{dictionary, seeds};

#[test]
fn accepted_text_never_writes_against_conditions() {
    const TEXTS: usize = 10_000;
    support::test(async |database: Database| {
        let judge = Judge::new(&database).await;
        let tables = tables(&judge).await;
        let mut random = random();
        let (mut passed, mut ran) = (0, 0);
        for _ in 0..TEXTS {
            let verdict = judge.check(&mutated(&mut random)).await;
            passed += usize::from(verdict != Verdict::Rejected);
            ran += usize::from(verdict == Verdict::Harmless);
        }
        println!("of {TEXTS} texts {passed} passed the check, {ran} of them the server's");
        assert!(ran > TEXTS / 100, "{ran} of {passed}");
        assert_eq!(self::tables(&judge).await, tables);
    });
}

/// The generator makes texts that break the rule. Without the check they write.
#[test]
fn unchecked_text_writes_against_conditions() {
    const TEXTS: usize = 4_000;
    support::test(async |database: Database| {
        let judge = Judge::new(&database).await;
        let mut random = random();
        let mut written = 0;
        for _ in 0..TEXTS {
            let text = mutated(&mut random);
            if !text.contains("{conditions}") {
                continue;
            }
            let (statement, further) = text.split_once("\n\n").unwrap_or((&text, "true"));
            let sql = statement.replace("{conditions}", &format!("({further}) AND (false)"));
            if writes(&judge, sql).await.unwrap_or(false) {
                assert!(try_build(&text, "false").is_none(), "passed: {text}");
                written += 1;
            }
        }
        println!("{written} of {TEXTS} texts wrote");
        assert!(written > 0);
    });
}

/// Texts that write although a condition is false, and whether they do on CockroachDB as well.
const UNSAFE: [(&str, bool); 19] = [
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
        "UPDATE documents SET body = 'new' WHERE NOT (true AND {conditions} AND true)",
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
];

/// The server accepts each of these texts and writes, so the check must reject them.
#[test]
fn rejected_text_would_have_written() {
    support::test(async |database: Database| {
        let judge = Judge::new(&database).await;
        let postgres = database.kind() == Kind::PostgreSql;
        for (text, on_both) in UNSAFE {
            assert!(try_build(text, "false").is_none(), "passed: {text}");
            if !postgres && !on_both {
                continue;
            }
            let written = writes(&judge, text.replace("{conditions}", "(false)")).await;
            assert!(written.unwrap(), "harmless: {text}");
        }
    });
}

/// Whether `sql` changes a row.
async fn writes(judge: &Judge, sql: String) -> Result<bool, sqlx::Error> {
    let mut tx = judge.outside.begin().await?;
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await?;
    let after = rows(&mut *tx).await;
    tx.rollback().await?;
    Ok(after != judge.before)
}

async fn tables(judge: &Judge) -> Vec<String> {
    const TABLES: &str = "SELECT table_name::TEXT FROM information_schema.tables
        WHERE table_schema = 'public' ORDER BY 1";
    let tables = sqlx::query_scalar(TABLES).fetch_all(&judge.outside);
    tables.await.unwrap()
}

fn random() -> fastrand::Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}

/// An accepted seed with up to four changes.
fn mutated(random: &mut fastrand::Rng) -> String {
    static SEEDS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let texts = texts(seeds("template"));
        texts
            .filter(|text| try_build(text, "false").is_some())
            .collect()
    });
    static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| texts(dictionary("template")).collect());
    // The first words of the dictionary are the most dangerous, so they are more likely.
    let word = |random: &mut fastrand::Rng| {
        let last = random.usize(..WORDS.len());
        &*WORDS[random.usize(..=last)]
    };

    let seed = SEEDS[random.usize(..SEEDS.len())].replace("\n\n", " \n\n ");
    let mut words: Vec<&str> = seed.split(' ').collect();
    for _ in 0..random.usize(0..5) {
        let marker = words.iter().position(|word| *word == "{conditions}");
        let at = match marker.filter(|_| random.bool()) {
            Some(marker) => random.usize(marker.saturating_sub(1)..words.len().min(marker + 2)),
            None => random.usize(..words.len()),
        };
        let word = word(random).trim_matches(' ');
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
    let at = random.usize(..words.len());
    let glue = match random.u8(..8) {
        0 => "",
        1 => word(random),
        _ => " ",
    };
    [words[..at].join(" "), words[at..].join(" ")].join(glue)
}

fn texts(inputs: Vec<Vec<u8>>) -> impl Iterator<Item = String> {
    let text = |input| String::from_utf8(input).unwrap();
    inputs.into_iter().map(text)
}
