//! No text that a conditional write accepts writes while a condition is not true, or in a
//! transaction that is not SERIALIZABLE. The check runs the text on a real server.

use std::{
    cell::Cell,
    panic::{self, catch_unwind},
    sync::Once,
};

use sqlx::{PgExecutor, PgPool, postgres::PgPoolOptions};
use tower_interlock::{Condition, ConditionalWrite, ErrorKind, Interlock};

use crate::{Database, Kind};

/// Conditions that are not true.
const NOT_TRUE: [&str; 3] = [
    "false",
    "NULL::BOOL",
    "(SELECT id FROM documents WHERE id = 9) = 1",
];

/// A database whose rows must not change.
#[derive(Debug)]
pub struct Judge {
    serializable: Interlock,
    /// Not on CockroachDB, which may lack weaker isolation levels.
    weaker: Option<Interlock>,
    /// For statements outside of the interlocks.
    pub outside: PgPool,
    /// The rows that must stay.
    pub before: Rows,
}

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL, version INT8 NOT NULL DEFAULT 0);
    CREATE TABLE notes (id INT8 PRIMARY KEY, note TEXT NOT NULL);
    INSERT INTO documents VALUES (1, 'old', 0), (2, 'old', 0);
    INSERT INTO notes VALUES (1, 'old');
";

/// All rows: table, id and text.
pub type Rows = Vec<(String, i64, String)>;

/// The verdicts of the check and the server on a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The check rejected it.
    Rejected,
    /// The check accepted it, the server did not.
    Failed,
    /// It ran and wrote nothing.
    Harmless,
}

impl Judge {
    /// Fills an empty database.
    pub async fn new(database: &Database) -> Self {
        database.run(SCHEMA).await;
        let outside = database.pool(1).await;
        let before = rows(&outside).await;
        Self {
            serializable: interlock(database, "serializable"),
            weaker: (database.kind() == Kind::PostgreSql)
                .then(|| interlock(database, "read committed")),
            outside,
            before,
        }
    }

    /// Runs `input` where it must not write, if the check accepts it.
    ///
    /// Its first paragraph is the statement, the second one a further condition, the third one a
    /// lock.
    ///
    /// # Panics
    ///
    /// If it wrote, or if the error is one that only a write can cause.
    pub async fn check(&self, input: &str) -> Verdict {
        let turn = input.len() % (NOT_TRUE.len() + 1);
        let (condition, interlock) = match (NOT_TRUE.get(turn), &self.weaker) {
            (None, Some(weaker)) => ("true", weaker),
            (not_true, _) => (*not_true.unwrap_or(&"false"), &self.serializable),
        };
        let Some(write) = try_build(input, condition) else {
            return Verdict::Rejected;
        };
        let result = write.unbound().execute(interlock).await;
        let error = result.expect_err("it was written");
        let verdict = match (error.kind(), error.sqlstate()) {
            (ErrorKind::Denied, None) => Verdict::Harmless,
            // The isolation is too weak, or the text has parameters and none was bound.
            (ErrorKind::Misconfigured, None) if condition == "true" => Verdict::Harmless,
            (ErrorKind::Misconfigured, None) => Verdict::Failed,
            // A constraint (class 23) is only checked for a row that is being written.
            (_, Some(state)) if !state.starts_with("23") => Verdict::Failed,
            other => panic!("{other:?}: {error:?}"),
        };
        assert!(error.kind() == ErrorKind::Denied || error.status().is_server_error());
        assert_eq!(rows(&self.outside).await, self.before, "it was written");
        verdict
    }
}

fn interlock(database: &Database, isolation: &str) -> Interlock {
    let settings = [
        ("default_transaction_isolation", isolation),
        // Texts that take long are not worth the time.
        ("statement_timeout", "1s"),
    ];
    // No text runs twice.
    let options = database.options().statement_cache_capacity(0);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options.options(settings));
    Interlock::new(pool)
}

/// Builds the write with this last condition, if the check accepts it.
pub fn try_build(input: &str, condition: &'static str) -> Option<ConditionalWrite> {
    // The texts must be `'static`. Leaked is one per input.
    let input: &'static str = input.to_owned().leak();
    let mut paragraphs = input.splitn(3, "\n\n");
    let statement = paragraphs.next().unwrap_or_default();
    let further = paragraphs.next().unwrap_or("true");
    let lock = paragraphs.next();
    let conditions = Box::leak(Box::new([further, condition].map(Condition::permitted)));
    unless_rejected(|| {
        let write = ConditionalWrite::new(statement, conditions);
        match lock {
            Some(query) => write.lock(query),
            None => write,
        }
    })
}

/// Runs `make`, and returns `None` if it rejects its arguments by a panic.
///
/// The location of such a panic is the caller, which is this file. It is not printed. Any other
/// panic is a bug of the check.
fn unless_rejected<T>(make: impl FnOnce() -> T + panic::UnwindSafe) -> Option<T> {
    thread_local!(static MAKING: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let is_rejection = panic.location().is_some_and(|at| at.file() == file!());
            if !(is_rejection && MAKING.replace(false)) {
                default(panic);
            }
        }));
    });
    MAKING.set(true);
    let made = catch_unwind(make).ok();
    assert_eq!(MAKING.replace(false), made.is_some(), "the check panicked");
    made
}

/// All stored rows.
///
/// # Panics
///
/// If they cannot be read.
pub async fn rows(on: impl PgExecutor<'_>) -> Rows {
    sqlx::query_as(
        "SELECT 'documents', id, body FROM documents UNION ALL SELECT 'notes', id, note FROM notes ORDER BY 1, 2",
    )
    .fetch_all(on)
    .await
    .unwrap()
}
