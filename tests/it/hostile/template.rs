//! What holds for every text that a conditional write accepts: where a condition is not true, or
//! the transaction is not SERIALIZABLE, it writes nothing. The server is the judge.

use std::{
    cell::Cell,
    panic::{self, catch_unwind},
    sync::Once,
};

use sqlx::{PgExecutor, PgPool, postgres::PgPoolOptions};
use support::{Database, Kind};
use tower_interlock::{Condition, ConditionalWrite, ErrorKind, Interlock};

/// What conditions come to that are not true.
const NOT_TRUE: [&str; 3] = [
    "false",
    "NULL::BOOL",
    "(SELECT id FROM documents WHERE id = 9) = 1",
];

/// A database whose rows have to stay as they are.
pub(crate) struct Judge {
    serializable: Interlock,
    /// CockroachDB may have no such thing.
    weaker: Option<Interlock>,
    pub(crate) outside: PgPool,
    pub(crate) before: Rows,
}

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL, version INT8 NOT NULL DEFAULT 0);
    CREATE TABLE notes (id INT8 PRIMARY KEY, note TEXT NOT NULL);
    INSERT INTO documents VALUES (1, 'old', 0), (2, 'old', 0);
    INSERT INTO notes VALUES (1, 'old');
";

pub(crate) type Rows = Vec<(String, i64, String)>;

/// What became of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The check did not let it pass.
    Refused,
    /// The check let it pass, the server did not.
    Failed,
    /// It ran, and wrote nothing.
    Harmless,
}

impl Judge {
    /// Fills an empty database.
    pub(crate) async fn new(database: &Database) -> Self {
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

    /// Runs `input` where it must not write, if the check lets it pass.
    ///
    /// Its first paragraph is the statement, the second one a further condition, the third one a
    /// lock.
    pub(crate) async fn check(&self, input: &str) -> Verdict {
        let turn = input.len() % (NOT_TRUE.len() + 1);
        let (condition, interlock) = match (NOT_TRUE.get(turn), &self.weaker) {
            (None, Some(weaker)) => ("true", weaker),
            (not_true, _) => (*not_true.unwrap_or(&"false"), &self.serializable),
        };
        let Some(write) = made(input, condition) else {
            return Verdict::Refused;
        };
        let answer = write.unbound().execute(interlock).await;
        let error = answer.expect_err("it was written");
        let verdict = match (error.kind(), error.sqlstate()) {
            (ErrorKind::Denied, None) => Verdict::Harmless,
            // The isolation; or it has parameters, and none was bound.
            (ErrorKind::Misconfigured, None) if condition == "true" => Verdict::Harmless,
            (ErrorKind::Misconfigured, None) => Verdict::Failed,
            // A constraint is asked about a row that is to be written.
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
        // A text that means much work is not worth it.
        ("statement_timeout", "1s"),
    ];
    // No text comes twice.
    let options = database.options().statement_cache_capacity(0);
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options.options(settings));
    Interlock::new(pool)
}

/// The write with this last condition, if the check lets it pass.
pub(crate) fn made(input: &str, condition: &'static str) -> Option<ConditionalWrite> {
    // A `static` has them at compile time. There are as many as there are inputs.
    let input: &'static str = input.to_owned().leak();
    let mut paragraphs = input.splitn(3, "\n\n");
    let statement = paragraphs.next().unwrap_or_default();
    let further = paragraphs.next().unwrap_or("true");
    let lock = paragraphs.next();
    let conditions = Box::leak(Box::new([further, condition].map(Condition::permitted)));
    unless_refused(|| {
        let write = ConditionalWrite::new(statement, conditions);
        match lock {
            Some(query) => write.lock(query),
            None => write,
        }
    })
}

/// What `make` makes, if it does not refuse by a panic, which is then kept quiet.
///
/// A refusal points to its caller. Any other panic is one of the check itself.
fn unless_refused<T>(make: impl FnOnce() -> T + panic::UnwindSafe) -> Option<T> {
    thread_local!(static MAKING: Cell<bool> = const { Cell::new(false) });
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let is_refusal = panic.location().is_some_and(|at| at.file() == file!());
            if !(is_refusal && MAKING.replace(false)) {
                loud(panic);
            }
        }));
    });
    MAKING.set(true);
    let made = catch_unwind(make).ok();
    assert_eq!(MAKING.replace(false), made.is_some(), "the check panicked");
    made
}

/// All that is stored.
pub(crate) async fn rows(on: impl PgExecutor<'_>) -> Rows {
    sqlx::query_as(
        "SELECT 'documents', id, body FROM documents UNION ALL SELECT 'notes', id, note FROM notes ORDER BY 1, 2",
    )
    .fetch_all(on)
    .await
    .unwrap()
}
