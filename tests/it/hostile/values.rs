//! Principals, paths and bodies are bound values and never part of any SQL.

use std::{collections::BTreeSet, iter::repeat_with};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::Request,
    routing::put,
};
use sqlx::AssertSqlSafe;
use support::Kind;
use tower_interlock::{Condition, ConditionalWrite, Denied, Error, ErrorKind, Interlock, Tx};

use crate::kit::{Kit, TestResponse, anyone, guarded, send, test, test_with_pool};

const SCHEMA: &str = "
    CREATE TABLE shares (user_name TEXT, file_name TEXT, PRIMARY KEY (user_name, file_name));
    CREATE TABLE files (name TEXT PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE vault (name TEXT PRIMARY KEY, secret TEXT NOT NULL);
";

const RESET: &str = "
    DELETE FROM shares;
    DELETE FROM files;
    DELETE FROM vault;
    INSERT INTO shares VALUES ('alice', 'plain');
    INSERT INTO files VALUES ('plain', 'old'), ('other', 'old');
    INSERT INTO vault VALUES ('key', 'secret');
";

/// Hostile values, most of them SQL injections.
const HOSTILE: &[&str] = &[
    "",
    "'",
    "''",
    "\"",
    "\\",
    "\\'",
    "' OR true --",
    "' OR ''='",
    "' OR 1=1 OR 'a'='",
    "x'; UPDATE vault SET secret = 'stolen'; --",
    "x'); DELETE FROM vault; --",
    "'; COMMIT; UPDATE vault SET secret = 'stolen'; --",
    "'; ROLLBACK; --",
    "' UNION SELECT secret FROM vault --",
    "', body = (SELECT secret FROM vault) --",
    "$1",
    "$2",
    "$3",
    "$$; UPDATE vault SET secret = 'stolen'; $$",
    "{conditions}",
    "{conditions} OR true",
    "{}",
    "{0}",
    "%s",
    "?",
    ":name",
    "--",
    "/*",
    "*/",
    ";",
    "%",
    "_",
    "NULL",
    "true",
    "U&'\\0027'",
    "E'\\''",
    "\u{2019} OR true --",
    "\u{ff07} OR true --",
    "\u{2bc}",
    "\u{bf}' OR true --",
    "\n' OR true --\r\n",
    "\t\u{b}\u{c}\u{1a}\u{1b}[2J",
    "\u{202e}\u{feff}\u{10ffff}",
    "a\u{301}",
    "\0",
    "'\0 OR true --",
    "../../etc/passwd",
    "<script>alert(1)</script>",
];

/// The hostile values, combinations of them, and a long value.
fn values() -> impl Iterator<Item = String> {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mixed = repeat_with(move || {
        let mut piece = || HOSTILE[random.usize(..HOSTILE.len())];
        [piece(), piece(), piece()].concat()
    });
    let hostile = HOSTILE.iter().map(ToString::to_string);
    hostile
        .chain(mixed.take(30))
        .chain(["' OR true --".repeat(1000)])
}

#[derive(Clone)]
struct User(String);

static MAY_EDIT: &str =
    "SELECT EXISTS (SELECT 1 FROM shares WHERE user_name = $1 AND file_name = $2)";

static EDIT: ConditionalWrite = ConditionalWrite::new(
    "UPDATE files SET body = $3 WHERE name = $2 AND {conditions}",
    &[Condition::permitted(MAY_EDIT)],
);

async fn may_edit(
    Extension(User(user)): Extension<User>,
    Path(file): Path<String>,
    mut tx: Tx,
) -> Result<(), Error> {
    let allowed = sqlx::query_scalar(MAY_EDIT).bind(&user).bind(&file);
    let allowed: bool = allowed.fetch_one(&mut tx).await?;
    Ok(Denied::unless(
        allowed,
        format!("no share of {file} for {user}"),
    )?)
}

async fn by_layer(Path(file): Path<String>, mut tx: Tx, body: String) -> Result<(), Error> {
    let edit = sqlx::query("UPDATE files SET body = $2 WHERE name = $1");
    edit.bind(file).bind(body).execute(&mut tx).await?;
    Ok(())
}

async fn by_write(
    State(interlock): State<Interlock>,
    Extension(User(user)): Extension<User>,
    Path(file): Path<String>,
    body: String,
) -> Result<(), Error> {
    EDIT.bind(user)
        .bind(file)
        .bind(body)
        .execute(&interlock)
        .await?;
    Ok(())
}

fn app(kit: &Kit) -> Router {
    let layer = kit.interlock.require(may_edit);
    Router::new()
        .route("/layer/{file}", put(by_layer).route_layer(layer))
        .route("/write/{file}", put(by_write))
        .with_state(kit.interlock.clone())
}

async fn edit(app: &Router, way: &str, user: &str, file: &str, body: &str) -> TestResponse {
    let file: String = file.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let request = Request::put(format!("/{way}/{file}")).extension(User(user.to_owned()));
    let request = request.body(Body::from(body.to_owned())).unwrap();
    let response = send(app, request).await;
    if let Some(error) = response.error() {
        response.assert_problem(error.kind());
    }
    response
}

type Rows = BTreeSet<(String, String, String)>;

/// All stored rows.
async fn rows(kit: &Kit) -> Rows {
    const ROWS: &str = "SELECT 'share', user_name, file_name FROM shares
        UNION ALL SELECT 'file', name, body FROM files UNION ALL SELECT 'vault', name, secret FROM vault";
    let rows = sqlx::query_as(ROWS).fetch_all(&kit.outside).await;
    rows.unwrap().into_iter().collect()
}

/// The rows without the body of one file.
fn edited(rows: &Rows, file: &str, body: &str) -> Rows {
    let row = |body: &str| ("file".to_owned(), file.to_owned(), body.to_owned());
    let mut rows = rows.clone();
    assert!(rows.remove(&row("old")) && rows.insert(row(body)));
    rows
}

/// Whether the server can store such a text. PostgreSQL cannot store a NUL.
async fn is_text(kit: &Kit, value: &str) -> bool {
    let same = sqlx::query_scalar("SELECT $1::TEXT").bind(value);
    let same: Result<String, _> = same.fetch_one(&kit.outside).await;
    same.is_ok_and(|same| same == value)
}

/// Creates a file and a share with this name, if the server can store it.
async fn share(kit: &Kit, name: &str) -> Result<(), sqlx::Error> {
    let mut tx = kit.outside.begin().await?;
    let file = sqlx::query("INSERT INTO files VALUES ($1, 'old')").bind(name);
    file.execute(&mut *tx).await?;
    let share = sqlx::query("INSERT INTO shares VALUES ($1, $1)").bind(name);
    share.execute(&mut *tx).await?;
    tx.commit().await
}

/// The session, and the statements that are prepared in it.
async fn statements(kit: &Kit) -> Vec<String> {
    if kit.database.kind() == Kind::CockroachDb {
        return Vec::new();
    }
    const STATEMENTS: &str = "SELECT statement FROM pg_prepared_statements
        UNION ALL SELECT pg_backend_pid()::TEXT ORDER BY 1";
    let statements = sqlx::query_scalar(STATEMENTS).fetch_all(&kit.pool).await;
    statements.unwrap()
}

#[test]
fn bound_value_is_stored_or_rejected_and_never_executed() {
    test_with_pool(1, async |kit: Kit| {
        kit.database.run(SCHEMA).await;
        kit.database.run(RESET).await;
        let app = app(&kit);
        let before = rows(&kit).await;
        let mut read = None;
        for value in ["harmless".to_owned()].into_iter().chain(values()) {
            let taken = is_text(&kit, &value).await;
            for way in ["layer", "write"] {
                let rejected = if taken { 403 } else { 500 };

                let stranger = edit(&app, way, &value, "plain", "new").await;
                assert_eq!(stranger.status, rejected, "{value:?}");
                let elsewhere = edit(&app, way, "alice", &value, "new").await;
                let no_route = value.is_empty() && elsewhere.status == 404;
                assert!(no_route || elsewhere.status == rejected, "{value:?}");
                assert_eq!(rows(&kit).await, before, "{value:?}");

                let body = edit(&app, way, "alice", "plain", &value).await;
                if taken {
                    assert_eq!(body.status, 200, "{value:?}");
                    assert_eq!(rows(&kit).await, edited(&before, "plain", &value));
                } else {
                    assert_eq!(body.status, rejected, "{value:?}");
                    assert_eq!(rows(&kit).await, before, "{value:?}");
                }

                if !value.is_empty() && share(&kit, &value).await.is_ok() {
                    let shared = rows(&kit).await;
                    let all_three = edit(&app, way, &value, &value, &value).await;
                    assert_eq!(all_three.status, 200, "{value:?}");
                    assert_eq!(rows(&kit).await, edited(&shared, &value, &value));
                }
                kit.database.run(RESET).await;
            }
            // The first value has prepared every statement.
            let texts = statements(&kit).await;
            assert_eq!(*read.get_or_insert(texts.clone()), texts, "{value:?}");
        }
        if kit.database.kind() == Kind::PostgreSql {
            let another = sqlx::query("SELECT 'a value'").execute(&kit.pool);
            another.await.unwrap();
            assert_ne!(read, Some(statements(&kit).await));
        }
    });
}

/// The same service with interpolated values.
#[test]
fn interpolated_value_is_executed() {
    test(async |kit: Kit| {
        kit.database.run(SCHEMA).await;
        kit.database.run(RESET).await;
        let before = rows(&kit).await;
        let mut became_sql = 0;
        for value in HOSTILE.iter().filter(|value| !value.contains('\0')) {
            let by_hand = async |user: &str, file: &str, body: &str| {
                let may_edit = format!(
                    "SELECT 1 FROM shares WHERE user_name = '{user}' AND file_name = '{file}'"
                );
                let edit = format!(
                    "UPDATE files SET body = '{body}' WHERE name = '{file}' AND EXISTS ({may_edit})"
                );
                let done = sqlx::raw_sql(AssertSqlSafe(edit))
                    .execute(&kit.outside)
                    .await;
                let after = rows(&kit).await;
                kit.database.run(RESET).await;
                done.map(|_| after)
            };
            let not = |rows: Result<Rows, _>, expected| rows.is_ok_and(|rows| rows != expected);
            let became = not(by_hand(value, "plain", "new").await, before.clone())
                || not(by_hand("alice", value, "new").await, before.clone())
                || not(
                    by_hand("alice", "plain", value).await,
                    edited(&before, "plain", value),
                );
            became_sql += usize::from(became);
        }
        println!("{became_sql} of {} values became SQL", HOSTILE.len());
        assert!(became_sql > 5);
    });
}

/// A database error that contains a value does not put it into the response.
#[test]
fn value_quoted_by_database_error_stays_private() {
    async fn number(mut tx: Tx, body: String) -> Result<String, Error> {
        let number = sqlx::query_scalar("SELECT $1::TEXT::INT8").bind(body);
        let number: i64 = number.fetch_one(&mut tx).await?;
        Ok(number.to_string())
    }
    test(async |kit: Kit| {
        let app = guarded(kit.interlock.require(anyone), number);
        let mut bodies = BTreeSet::new();
        for value in values() {
            let request = Request::put("/1").body(Body::from(value)).unwrap();
            let response = send(&app, request).await;
            response.assert_problem(ErrorKind::Database);
            bodies.insert(response.body);
        }
        assert_eq!(bodies.len(), 1, "{bodies:?}");
    });
}
