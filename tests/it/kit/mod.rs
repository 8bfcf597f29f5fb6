//! The things that every test needs: a database with tables, an interlock on it, requests, and
//! policies and handlers to send them to.

mod app;
mod commit;
mod conflict;
mod guard;
mod log;
mod naive;
mod recorder;
mod response;

use std::time::Duration;

use sqlx::PgPool;
use support::{Database, Kind};
use tower_interlock::{Interlock, InterlockBuilder};

pub(crate) use self::{
    app::{CanEdit, anyone, can_edit, guarded, never, note, update, write},
    commit::{DEFERRED, committing, slow_commit, terminate},
    conflict::{conflict, conflict_once},
    guard::guard_statements,
    log::{Event, Log, logged_text, traced},
    naive::{Naive, naive_app},
    recorder::{Recorder, Seen},
    response::{TestResponse, get, put, read, send},
};

/// One test's database, with a pool and an interlock on it.
#[derive(Clone)]
pub(crate) struct Kit {
    pub(crate) database: Database,
    /// For statements outside of the interlock.
    pub(crate) outside: PgPool,
    pub(crate) pool: PgPool,
    pub(crate) interlock: Interlock,
}

/// Runs a test in a database of its own, on a pool of 4.
pub(crate) fn test<F, Fut>(body: F)
where
    F: FnOnce(Kit) -> Fut,
    Fut: Future<Output = ()>,
{
    test_with_pool(4, body);
}

/// Runs a test in a database of its own.
pub(crate) fn test_with_pool<F, Fut>(size: u32, body: F)
where
    F: FnOnce(Kit) -> Fut,
    Fut: Future<Output = ()>,
{
    support::test(async |database: Database| {
        database.run(SCHEMA).await;
        let outside = database.pool(4).await;
        let pool = pool(&database, size);
        let interlock = Interlock::new(pool.clone());
        let kit = Kit {
            database,
            outside,
            pool,
            interlock,
        };
        body(kit.clone()).await;
        kit.interlock.drain().await;
        kit.assert_nothing_leaked().await;
    });
}

/// A recommended pool.
pub(crate) fn pool(database: &Database, size: u32) -> PgPool {
    Interlock::pool_options()
        .max_connections(size)
        .connect_lazy_with(database.options())
}

/// The settings of an interlock that uses handoff if the number of the `case` is odd.
pub(crate) fn builder(pool: &PgPool, case: i64) -> InterlockBuilder {
    Interlock::builder(pool.clone()).handoff(case % 2 != 0)
}

const SCHEMA: &str = "
    CREATE TABLE grants (user_id INT8 NOT NULL, document_id INT8 NOT NULL, PRIMARY KEY (user_id, document_id));
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL, version INT8 NOT NULL DEFAULT 0);
    CREATE TABLE notes (id INT8 PRIMARY KEY, note TEXT NOT NULL);
    INSERT INTO grants VALUES (1, 1);
    INSERT INTO documents VALUES (1, 'old', 0), (2, 'old', 0);
";

impl Kit {
    /// The settings of another interlock on the pool.
    pub(crate) fn builder(&self) -> InterlockBuilder {
        Interlock::builder(self.pool.clone())
    }

    /// Another interlock on the pool, and its observer.
    pub(crate) fn observed(&self) -> (Interlock, Recorder) {
        let recorder = Recorder::default();
        let interlock = self.builder().observe(recorder.clone()).build();
        (interlock, recorder)
    }

    /// The stored body of a document, as another session sees it.
    pub(crate) async fn body(&self, id: i64) -> String {
        sqlx::query_scalar("SELECT body FROM documents WHERE id = $1")
            .bind(id)
            .fetch_one(&self.outside)
            .await
            .unwrap()
    }

    /// The stored version of a document, as another session sees it.
    pub(crate) async fn version(&self, id: i64) -> i64 {
        sqlx::query_scalar("SELECT version FROM documents WHERE id = $1")
            .bind(id)
            .fetch_one(&self.outside)
            .await
            .unwrap()
    }

    /// The stored notes, as another session sees them.
    ///
    /// On CockroachDB a reader waits for a writer. The high priority avoids that, so a request that
    /// is still running does not delay this.
    pub(crate) async fn notes(&self) -> Vec<i64> {
        let begin = match self.database.kind() {
            Kind::CockroachDb => "BEGIN PRIORITY HIGH",
            Kind::PostgreSql => "BEGIN",
        };
        let mut reader = self.outside.begin_with(begin).await.unwrap();
        let notes = sqlx::query_scalar("SELECT id FROM notes ORDER BY id");
        let notes = notes.fetch_all(&mut *reader).await.unwrap();
        reader.commit().await.unwrap();
        notes
    }

    /// The attempts of a request that meets a duplicate key: R7.
    pub(crate) fn attempts_with_duplicate(&self) -> u32 {
        match self.database.kind() {
            Kind::PostgreSql => 2,
            Kind::CockroachDb => 1,
        }
    }

    /// Asserts that every connection is back in the pool, works, and has no open transaction.
    pub(crate) async fn assert_nothing_leaked(&self) {
        if self.pool.is_closed() {
            return;
        }
        let size = self.pool.options().get_max_connections();
        let mut all = Vec::new();
        for _ in 0..size {
            // A connection that does not reply is given up after the time that `acquire` waits.
            let acquiring = async {
                loop {
                    match self.pool.acquire().await {
                        Err(sqlx::Error::PoolTimedOut) => {}
                        acquired => break acquired,
                    }
                }
            };
            let connection = tokio::time::timeout(Duration::from_secs(15), acquiring);
            let mut connection = connection.await.expect("a connection leaked").unwrap();
            // Outside of a transaction the server rejects a savepoint.
            let inside = sqlx::query("SAVEPOINT outside")
                .execute(&mut *connection)
                .await;
            assert!(
                inside.is_err(),
                "a pooled connection is inside a transaction"
            );
            let one: i64 = sqlx::query_scalar("SELECT 1::INT8")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            assert_eq!(one, 1);
            all.push(connection);
        }
    }
}
