//! Sessions that the server has changed or ended, and state that a request leaves on its session.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use sqlx::{
    Executor as _, Postgres, Type,
    encode::{Encode, IsNull},
    postgres::{PgArgumentBuffer, PgTypeInfo},
};
use support::Kind;
use tokio::{
    sync::Barrier,
    time::{sleep, timeout},
};
use tower_interlock::{Condition, ConditionalWrite, Denied, Error, ErrorKind, Tx};

use super::{LONG, fill, idle, is_postgres, set_default, updating, write};
use crate::kit::{self, Kit, anyone, can_edit, guarded, put, terminate, test, test_with_pool};

#[test]
fn idle_session_timeout_fails_no_request() {
    test_with_pool(1, async |kit: Kit| {
        if !is_postgres(&kit, 14).await {
            println!("skipped: the server has no idle_session_timeout");
            return;
        }
        set_default(&kit, "idle_session_timeout = '300ms'").await;
        let app = updating(&kit.interlock);
        for _ in 0..3 {
            sleep(Duration::from_millis(900)).await;
            let response = put(&app, "/1", "").await;
            assert_eq!(response.status, 200, "{}", response.body);
        }
    });
}

/// 57P05 proves that the statement did not run.
#[test]
fn idle_session_timeout_fails_no_conditional_write() {
    test_with_pool(1, async |kit: Kit| {
        if !is_postgres(&kit, 14).await {
            println!("skipped: the server has no idle_session_timeout");
            return;
        }
        set_default(&kit, "idle_session_timeout = '300ms'").await;
        for expected in 1..=3 {
            sleep(Duration::from_millis(900)).await;
            assert_eq!(write(&kit.interlock).await.unwrap(), expected);
        }
    });
}

/// An administrator, or a fast shutdown, ends an idle session with FATAL 57P01. PostgreSQL does not
/// send it for a COMMIT that it has done.
#[test]
fn terminated_session_fails_no_conditional_write() {
    test_with_pool(1, async |kit: Kit| {
        if !is_postgres(&kit, 13).await {
            println!("skipped: there is no pg_terminate_backend");
            return;
        }
        assert_eq!(write(&kit.interlock).await.unwrap(), 1);
        idle(&kit.pool).await;
        let sessions: Vec<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity \
             WHERE datname = current_database() AND query LIKE 'UPDATE documents%'",
        )
        .fetch_all(&kit.outside)
        .await
        .unwrap();
        let [session] = *sessions else {
            panic!("{sessions:?}")
        };
        terminate(&kit, session).await;
        assert_eq!(write(&kit.interlock).await.unwrap(), 2);
    });
}

#[test]
fn read_only_server_is_unavailable_to_requests_and_the_session_is_not_kept() {
    test_with_pool(1, async |kit: Kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("skipped: CockroachDB has no read-only server");
        }
        set_default(&kit, "default_transaction_read_only = on").await;
        let app = updating(&kit.interlock);
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::Unavailable);
        set_default(&kit, "default_transaction_read_only = off").await;
        assert_eq!(put(&app, "/1", "").await.status, 200);
    });
}

#[test]
fn read_only_server_is_unavailable_to_conditional_writes_and_the_session_is_not_kept() {
    test_with_pool(1, async |kit: Kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("skipped: CockroachDB has no read-only server");
        }
        set_default(&kit, "default_transaction_read_only = on").await;
        let rejected = write(&kit.interlock).await.unwrap_err();
        assert_eq!(rejected.kind(), ErrorKind::Unavailable);
        set_default(&kit, "default_transaction_read_only = off").await;
        assert_eq!(write(&kit.interlock).await.unwrap(), 1);
    });
}

/// Reads and writes document 1, by statements that are prepared.
async fn read_and_write(mut tx: Tx) -> Result<(), Error> {
    sqlx::query("SELECT body FROM documents WHERE id = $1")
        .bind(1_i64)
        .fetch_one(&mut tx)
        .await?;
    sqlx::query("UPDATE documents SET body = $1 WHERE id = 1")
        .bind("new")
        .execute(&mut tx)
        .await?;
    Ok(())
}

#[test]
fn deallocated_statements_fail_no_later_request() {
    test_with_pool(1, async |kit: Kit| {
        let deallocate = async |mut tx: Tx| {
            tx.connection().await?.execute("DEALLOCATE ALL").await?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), read_and_write);
        let deallocating = guarded(kit.interlock.require(anyone), deallocate);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        assert_eq!(write(&kit.interlock).await.unwrap(), 1);
        assert_eq!(put(&deallocating, "/1", "").await.status, 200);
        for _ in 0..2 {
            let response = put(&app, "/1", "").await;
            assert_eq!(response.status, 200, "{}", response.body);
        }
        assert_eq!(write(&kit.interlock).await.unwrap(), 2);
        assert_eq!(kit.version(1).await, 2);
    });
}

struct Mood;

impl Type<Postgres> for Mood {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("mood")
    }
}

impl Encode<'_, Postgres> for Mood {
    fn encode_by_ref(
        &self,
        buffer: &mut PgArgumentBuffer,
    ) -> Result<IsNull, Box<dyn std::error::Error + Send + Sync>> {
        buffer.extend(b"glad");
        Ok(IsNull::No)
    }
}

const MOODS: &str =
    "CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE TABLE moods (mood mood NOT NULL)";

/// sqlx caches the OID of a type on each connection.
#[test]
fn type_made_anew_fails_no_request() {
    test_with_pool(2, async |kit: Kit| {
        // sqlx calls it to look up a type.
        let finds_types = "SELECT EXISTS (SELECT 1 FROM pg_proc WHERE proname = 'to_regtype')";
        let finds_types: bool = sqlx::query_scalar(finds_types)
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        if !finds_types {
            return println!("skipped: sqlx finds no user-defined type on this server");
        }
        kit.database.run(MOODS).await;
        let barrier = Arc::new(Barrier::new(2));
        let both = Arc::clone(&barrier);
        let insert = async move |mut tx: Tx| {
            let insert = sqlx::query("INSERT INTO moods VALUES ($1)").bind(Mood);
            insert.execute(&mut tx).await?;
            both.wait().await;
            Ok::<_, Error>(())
        };
        let warm = guarded(kit.interlock.require(anyone), insert);
        for response in join_all([(), ()].map(|()| put(&warm, "/1", ""))).await {
            assert_eq!(response.status, 200, "{}", response.body);
        }
        kit.database.run("DROP TABLE moods; DROP TYPE mood").await;
        kit.database.run(MOODS).await;
        let insert = async |mut tx: Tx| {
            let insert = sqlx::query("INSERT INTO moods VALUES ($1)").bind(Mood);
            insert.execute(&mut tx).await?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), insert);
        let statuses = [
            put(&app, "/1", "").await,
            put(&app, "/1", "").await,
            put(&app, "/1", "").await,
        ]
        .map(|response| {
            let error = response.error();
            let code = error.and_then(Error::sqlstate).map(str::to_owned);
            (response.status.as_u16(), code)
        });
        assert_eq!(statuses, [const { (200, None) }; 3]);
    });
}

/// Every connection of the pool has prepared a statement that a change of the schema makes stale.
#[test]
fn schema_change_fails_no_request_however_many_sessions_are_stale() {
    test(async |kit| {
        fill(&kit.pool).await;
        let barrier = Arc::new(Barrier::new(4));
        let read = |barrier: Option<Arc<Barrier>>| {
            let handler = async move |mut tx: Tx| {
                sqlx::query("SELECT * FROM documents WHERE id = 1")
                    .fetch_one(&mut tx)
                    .await?;
                if let Some(barrier) = barrier {
                    barrier.wait().await;
                }
                Ok::<_, Error>(())
            };
            guarded(kit.interlock.require(anyone), handler)
        };
        let warm = read(Some(barrier));
        for response in join_all([(); 4].map(|()| put(&warm, "/1", ""))).await {
            assert_eq!(response.status, 200, "{}", response.body);
        }
        kit.database
            .run("ALTER TABLE documents ADD COLUMN added INT8")
            .await;
        let app = read(None);
        for _ in 0..4 {
            let response = put(&app, "/1", "").await;
            assert_eq!(response.status, 200, "{}", response.body);
        }
    });
}

/// The ways by which a request may leave something on its session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Through {
    Statement,
    Text,
    Connection,
}

/// A request runs `leave`, and another one on the same session returns the result of `find`.
async fn find_after(
    kit: &Kit,
    through: Through,
    leave: &'static str,
    find: &'static str,
) -> String {
    let leaving = async move |mut tx: Tx| {
        match through {
            Through::Statement => sqlx::query(leave).execute(&mut tx).await?,
            Through::Text => sqlx::raw_sql(leave).execute(&mut tx).await?,
            Through::Connection => {
                let connection = tx.connection().await?;
                sqlx::raw_sql(leave).execute(connection).await?
            }
        };
        Ok::<_, Error>(())
    };
    let finding = async move |mut tx: Tx| {
        let found: Option<String> = sqlx::query_scalar(find).fetch_one(&mut tx).await?;
        Ok::<_, Error>(found.unwrap_or_default())
    };
    let response = put(&guarded(kit.interlock.require(anyone), leaving), "/1", "").await;
    match kit.database.kind() {
        Kind::PostgreSql if leave.starts_with("LISTEN") && through != Through::Connection => {
            response.assert_problem(ErrorKind::Misconfigured);
        }
        Kind::PostgreSql => assert_eq!(response.status, 200, "{}", response.body),
        // Its versions differ in the statements that they accept in a transaction.
        Kind::CockroachDb => assert!([200, 500].contains(&response.status.as_u16())),
    }
    let response = put(&guarded(kit.interlock.require(anyone), finding), "/1", "").await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// Asserts that the next request meets a session like a new one, however `leave` was run.
fn leaves_nothing(on_cockroach: bool, leave: &'static str, find: &'static str) {
    test_with_pool(1, async |kit: Kit| {
        if kit.database.kind() == Kind::CockroachDb && !on_cockroach {
            println!("skipped: CockroachDB has no such thing");
            return;
        }
        let mut left = Vec::new();
        for (through, name) in [
            (Through::Statement, "a statement"),
            (Through::Text, "a text"),
            (Through::Connection, "the connection"),
        ] {
            let kit = super::with_pool(&kit, kit::pool(&kit.database, 1));
            let current = async || -> String {
                let found: Option<String> =
                    sqlx::query_scalar(find).fetch_one(&kit.pool).await.unwrap();
                found.unwrap_or_default()
            };
            let new = current().await;
            let mut found = find_after(&kit, through, leave, find).await;
            // The server frees the locks of a session some time after its socket is closed.
            for _ in 0..100 {
                if found == new {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
                found = current().await;
            }
            if found != new {
                left.push(format!("through {name}: {found:?}"));
            }
            kit.pool.close().await;
        }
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn setting_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(
        true,
        "SET application_name = 'left'",
        "SELECT current_setting('application_name')",
    );
}

/// The setting of row-level security for the user, without `true` for a local one.
#[test]
fn configured_user_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(
        false,
        "SELECT set_config('app.user', '1', false)",
        "SELECT nullif(current_setting('app.user', true), '')",
    );
}

static CONFIGURING: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET version = version + 1 WHERE id = $1 AND {conditions} RETURNING version",
    &[Condition::permitted(
        "set_config('app.user', '1', false) = '1'",
    )],
);

#[test]
fn configured_user_of_a_conditional_write_is_not_left_to_the_next() {
    test_with_pool(1, async |kit: Kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("skipped: CockroachDB has no such thing");
        }
        let (version,): (i64,) = CONFIGURING
            .bind(1_i64)
            .fetch_one(&kit.interlock)
            .await
            .unwrap();
        assert_eq!(version, 1);
        let left = "SELECT nullif(current_setting('app.user', true), '')";
        let left: Option<String> = sqlx::query_scalar(left).fetch_one(&kit.pool).await.unwrap();
        assert_eq!(left, None);
    });
}

#[test]
fn role_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(false, "SET ROLE pg_monitor", "SELECT current_user::TEXT");
}

#[test]
fn search_path_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(
        true,
        "SET search_path = pg_catalog",
        "SELECT current_setting('search_path')",
    );
}

#[test]
fn listening_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(
        false,
        "LISTEN left_behind",
        "SELECT count(*)::TEXT FROM pg_listening_channels()",
    );
}

#[test]
fn advisory_lock_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(
        false,
        "SELECT pg_advisory_lock(42)",
        "SELECT count(*)::TEXT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND database = \
         (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
}

#[test]
fn held_cursor_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(
        false,
        "DECLARE held CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*)::TEXT FROM pg_cursors WHERE name = 'held'",
    );
}

#[test]
fn prepared_statement_of_a_request_is_not_left_to_the_next() {
    leaves_nothing(
        true,
        "PREPARE left_behind AS SELECT 1",
        "SELECT count(*)::TEXT FROM pg_prepared_statements WHERE name = 'left_behind'",
    );
}

/// Temporary tables come first in every search path, so the policy would read the table of the
/// request.
#[test]
fn temporary_table_of_a_request_does_not_stand_in_for_the_permissions() {
    test_with_pool(1, async |kit: Kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: CockroachDB has no temporary tables");
            return;
        }
        let report = async |mut tx: Tx| {
            let texts = "CREATE TEMPORARY TABLE grants (user_id INT8, document_id INT8); \
                         INSERT INTO grants VALUES (1, 2)";
            sqlx::raw_sql(texts).execute(&mut tx).await?;
            Ok::<_, Error>(())
        };
        let reporting = guarded(kit.interlock.require(anyone), report);
        let response = put(&reporting, "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
        let app = guarded(kit.interlock.require(can_edit), super::update);
        assert_eq!(put(&app, "/2", "").await.status, 403);
    });
}

/// Settings and locks that end with the transaction do not cost the connection.
#[test]
fn local_settings_and_locks_keep_the_connection() {
    test(async |kit| {
        let cockroach = kit.database.kind() == Kind::CockroachDb;
        let (kit, proxy) = super::behind_a_proxy(&kit, 1);
        let configure = async move |mut tx: Tx| {
            if !cockroach {
                let texts = [
                    "SET LOCAL application_name = 'here'",
                    "SELECT set_config('app.user', '1', true)",
                    "SELECT pg_advisory_xact_lock(42)",
                    "SET CONSTRAINTS ALL DEFERRED",
                ];
                for text in texts {
                    sqlx::query(text).execute(&mut tx).await?;
                }
            }
            super::update(tx).await
        };
        let app = guarded(kit.interlock.require(anyone), configure);
        for _ in 0..3 {
            let response = put(&app, "/1", "").await;
            assert_eq!(response.status, 200, "{}", response.body);
        }
        assert_eq!(proxy.counts().connections, 1);
        kit.pool.close().await;
    });
}

/// The policy of the next attempt would find the lock of the handler.
#[test]
fn altered_session_is_not_used_for_the_next_attempt() {
    test_with_pool(1, async |kit: Kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: CockroachDB has no advisory locks");
            return;
        }
        let may = async |mut tx: Tx| {
            let mine = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
            let locks: i64 = sqlx::query_scalar(mine).fetch_one(&mut tx).await?;
            Denied::unless(locks == 0, "it has the lock of its last attempt")?;
            Ok::<_, Error>(())
        };
        for through in [Through::Statement, Through::Connection] {
            let outside = kit.outside.clone();
            let lock_and_conflict = async move |mut tx: Tx| {
                let lock = "SELECT pg_advisory_lock(42)";
                match through {
                    Through::Connection => {
                        sqlx::query(lock).execute(tx.connection().await?).await?
                    }
                    _ => sqlx::query(lock).execute(&mut tx).await?,
                };
                kit::conflict_once(&mut tx, &outside).await?;
                super::update(tx).await
            };
            let app = guarded(kit.interlock.require(may), lock_and_conflict);
            let response = put(&app, "/1", "").await;
            assert_eq!(response.status, 200, "{}", response.body);
            assert_eq!(response.report().attempts(), 2);
        }
    });
}

/// CockroachDB does not undo the setting with the transaction.
#[test]
fn setting_of_a_failed_request_is_not_left_to_the_next() {
    test_with_pool(1, async |kit: Kit| {
        let fail = async |mut tx: Tx| {
            sqlx::query("SET application_name = 'left'")
                .execute(&mut tx)
                .await?;
            Err::<(), _>(Error::not_found())
        };
        let find = async |mut tx: Tx| {
            let name = sqlx::query_scalar("SELECT current_setting('application_name')");
            let name: String = name.fetch_one(&mut tx).await?;
            Ok::<_, Error>(name)
        };
        put(&guarded(kit.interlock.require(anyone), fail), "/1", "").await;
        let response = put(&guarded(kit.interlock.require(anyone), find), "/1", "").await;
        assert_ne!(response.body, "left");
    });
}

/// A session-level lock outlives ROLLBACK, too.
#[test]
fn advisory_lock_of_a_failed_request_is_released() {
    test_with_pool(1, async |kit: Kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: CockroachDB has no such locks");
            return;
        }
        let fail = async |mut tx: Tx| {
            sqlx::query("SELECT pg_advisory_lock(42)")
                .execute(&mut tx)
                .await?;
            Err::<(), _>(Error::not_found())
        };
        put(&guarded(kit.interlock.require(anyone), fail), "/1", "").await;
        // The server frees the locks of a session some time after its socket is closed. The waiting
        // connection gets the lock then.
        let lock = kit.outside.execute("SELECT pg_advisory_lock(42)");
        let locked = timeout(LONG, lock).await;
        locked.expect("still locked").unwrap();
    });
}
