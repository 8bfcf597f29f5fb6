//! Effects that the crate cannot see: the raw connection, and texts of several statements (T9).
//!
//! A success response requires that the transaction is still the same and not aborted. Rows
//! that a handler has committed on its own stay committed.

use std::time::Duration;

use futures::poll;
use sqlx::{Connection as _, Executor as _, PgConnection};
use support::Kind;
use tokio::time::timeout;
use tower_interlock::{Error, ErrorKind, Outcome, Tx};

use crate::kit::{Kit, TestResponse, anyone, guarded, note, put, test, test_with_pool};

async fn run<Fut>(kit: &Kit, handler: fn(Tx) -> Fut) -> TestResponse
where
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await
}

#[track_caller]
fn assert_aborted(response: &TestResponse) {
    response.assert_problem(ErrorKind::TransactionAborted);
    assert_eq!(response.outcome(), Outcome::RolledBack);
}

/// The transaction was ended, by a COMMIT or not. The writes before its end, and those after it,
/// may be stored.
#[track_caller]
fn assert_ended(response: &TestResponse) {
    response.assert_problem(ErrorKind::TransactionAborted);
    assert_eq!(response.outcome(), Outcome::Unknown);
    assert_eq!(response.report().attempts(), 1);
}

#[track_caller]
fn assert_committed(response: &TestResponse) {
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.outcome(), Outcome::Committed);
    assert_eq!(response.report().attempts(), 1);
}

async fn note_raw(connection: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO notes VALUES ($1, '')")
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

#[test]
fn write_on_raw_connection_is_committed() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            note_raw(tx.connection().await?, 2).await?;
            note(&mut tx, 3).await?;
            note_raw(tx.connection().await?, 4).await?;
            Ok(())
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 2, 3, 4]);
    });
}

#[test]
fn swallowed_error_on_raw_connection_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            assert!(note_raw(tx.connection().await?, 1).await.is_err());
            Ok(())
        }
        assert_aborted(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn unfinished_statement_on_raw_connection_is_awaited() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let text = "SELECT pg_sleep(0.5); INSERT INTO notes VALUES (1, '')";
            let mut statement = Box::pin(sqlx::raw_sql(text).execute(tx.connection().await?));
            assert!(poll!(&mut statement).is_pending());
            drop(statement);
            Ok(())
        }
        // The server then reports a duplicate key, which the crate must read.
        assert_aborted(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn own_rollback_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            tx.connection().await?.execute("ROLLBACK").await?;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn own_commit_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            tx.connection().await?.execute("COMMIT").await?;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn tx_writes_nothing_after_own_commit_or_rollback() {
    test(async |kit| {
        for end in ["COMMIT", "ROLLBACK"] {
            let handler = move |mut tx: Tx| async move {
                tx.connection().await?.execute(end).await?;
                // Each of these would run in a transaction of its own.
                for id in 1..4 {
                    assert!(note(&mut tx, id).await.is_err());
                }
                Ok::<_, Error>(())
            };
            let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
            assert_ended(&response);
            assert!(kit.notes().await.is_empty());
        }
    });
}

#[test]
fn tx_writes_nothing_after_transaction_end_hidden_in_text() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            sqlx::raw_sql("SELECT 1; COMMIT").execute(&mut tx).await?;
            for id in 1..4 {
                assert!(note(&mut tx, id).await.is_err());
            }
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn replaced_transaction_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let connection = tx.connection().await?;
            connection.execute("COMMIT").await?;
            connection.execute("BEGIN").await?;
            note_raw(connection, 2).await?;
            note(&mut tx, 3).await?;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn replaced_read_only_transaction_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let connection = tx.connection().await?;
            connection.execute("ROLLBACK").await?;
            connection.execute("BEGIN").await?;
            // A sentinel that the crate did not set.
            connection.execute("SAVEPOINT other").await?;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
    });
}

#[test]
fn nested_sqlx_transaction_may_commit_or_roll_back() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let connection = tx.connection().await?;
            let mut nested = connection.begin().await?;
            note_raw(&mut nested, 2).await?;
            let mut inner = nested.begin().await?;
            note_raw(&mut inner, 3).await?;
            inner.commit().await?;
            nested.commit().await?;
            let mut nested = connection.begin().await?;
            note_raw(&mut nested, 4).await?;
            nested.rollback().await?;
            let mut dropped = connection.begin().await?;
            note_raw(&mut dropped, 5).await?;
            drop(dropped);
            note(&mut tx, 6).await?;
            Ok(())
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 2, 3, 6]);
    });
}

#[test]
fn nested_transaction_that_failed_to_begin_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let connection = tx.connection().await?;
            assert!(note_raw(connection, 1).await.is_err());
            assert!(connection.begin().await.is_err());
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn nested_transaction_rejected_by_sqlx_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let connection = tx.connection().await?;
            assert!(connection.begin_with("BEGIN").await.is_err());
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn nested_transaction_dropped_during_begin_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            begin_and_drop(tx.connection().await?).await;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn tx_writes_nothing_after_dropped_nested_begin() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            begin_and_drop(tx.connection().await?).await;
            // sqlx has queued a ROLLBACK of the transaction. This would run in one of its own.
            let _ = note(&mut tx, 2).await;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn forgotten_nested_transaction_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut nested = tx.connection().await?.begin().await?;
            note_raw(&mut nested, 2).await?;
            std::mem::forget(nested);
            Ok(())
        }
        assert_aborted(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn several_statements_in_one_text_are_committed() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let text = "INSERT INTO notes VALUES (2, ''); INSERT INTO notes VALUES (3, '')";
            sqlx::raw_sql(text).execute(&mut tx).await?;
            Ok(())
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 2, 3]);
    });
}

#[test]
fn several_statements_share_the_fate_of_their_savepoint() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let mut savepoint = tx.savepoint().await?;
            let text = "INSERT INTO notes VALUES (2, ''); INSERT INTO notes VALUES (3, '')";
            sqlx::raw_sql(text).execute(&mut savepoint).await?;
            savepoint.release().await?;
            let mut savepoint = tx.savepoint().await?;
            let text = "INSERT INTO notes VALUES (4, ''); INSERT INTO notes VALUES (3, '')";
            let repeated = sqlx::raw_sql(text).execute(&mut savepoint).await;
            assert!(repeated.is_err());
            savepoint.rollback().await?;
            note_raw(tx.connection().await?, 5).await?;
            Ok(())
        }
        let response = run(&kit, handler).await;
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(response.report().attempts(), kit.attempts_with_duplicate());
        assert_eq!(kit.notes().await, [2, 3, 5]);
    });
}

#[test]
fn commit_hidden_in_text_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let text = "INSERT INTO notes VALUES (1, ''); COMMIT; INSERT INTO notes VALUES (2, '')";
            sqlx::raw_sql(text).execute(&mut tx).await?;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}

#[test]
fn transaction_hidden_in_text_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let text = "SELECT 1; ROLLBACK; BEGIN; INSERT INTO notes VALUES (1, '')";
            sqlx::raw_sql(text).execute(&mut tx).await?;
            note(&mut tx, 2).await?;
            Ok(())
        }
        assert_ended(&run(&kit, handler).await);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn text_beginning_with_transaction_control_is_rejected() {
    test(async |kit| {
        for text in [
            "COMMIT",
            "/* done */ commit",
            "ROLLBACK; BEGIN",
            "SAVEPOINT mine",
            "SET TRANSACTION READ ONLY",
        ] {
            let handler = move |mut tx: Tx| async move {
                note(&mut tx, 1).await?;
                let rejected = sqlx::raw_sql(text).execute(&mut tx).await.unwrap_err();
                assert_eq!(Error::from(rejected).kind(), ErrorKind::Misconfigured);
                let rejected = (&mut tx).prepare(sqlx::SqlStr::from_static(text)).await;
                assert!(rejected.is_err());
                // The transaction continues, and the request fails.
                note(&mut tx, 2).await?;
                Ok::<_, Error>(())
            };
            let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
            assert_aborted(&response);
            assert_eq!(response.report().attempts(), 1);
            assert!(kit.notes().await.is_empty());
        }
    });
}

/// Drops a nested `begin()` that has not ended because of a slow statement before it.
async fn begin_and_drop(connection: &mut PgConnection) {
    let mut slow = Box::pin(connection.execute("SELECT pg_sleep(0.5)"));
    assert!(poll!(&mut slow).is_pending());
    drop(slow);
    assert!(poll!(Box::pin(connection.begin())).is_pending());
}

/// An abandoned COPY leaves replies that sqlx does not count. It takes each later reply for that of
/// the previous statement.
#[test]
fn abandoned_copy_fails_request_and_closes_connection() {
    test_with_pool(1, async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            return eprintln!("not tested: CockroachDB has no slow trigger");
        }
        kit.database.run(SLOW_COPY).await;
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let connection = tx.connection().await?;
            let mut copy = connection.copy_in_raw("COPY copied FROM STDIN").await?;
            copy.send(b"7\n".as_slice()).await?;
            let finished = timeout(Duration::from_millis(50), copy.finish()).await;
            assert!(finished.is_err());
            Ok(())
        }
        for _ in 0..2 {
            assert_aborted(&run(&kit, handler).await);
        }
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM copied")
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        assert_eq!(stored, 0);
    });
}

const SLOW_COPY: &str = "
    CREATE TABLE copied (id INT8);
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$;
    CREATE TRIGGER slow AFTER INSERT ON copied FOR EACH STATEMENT EXECUTE FUNCTION slow();
";
