//! Savepoints: which errors a rollback clears, and which it does not.

use futures::StreamExt as _;
use tower_interlock::{Error, ErrorKind, Outcome, Savepoint, Tx};

use crate::kit::{Kit, TestResponse, anyone, conflict, guarded, never, note, put, test};

/// Writes a note on a savepoint.
async fn note_on(savepoint: &mut Savepoint<'_>, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO notes VALUES ($1, '')")
        .bind(id)
        .execute(savepoint)
        .await?;
    Ok(())
}

/// Runs `handler` behind a policy that allows everything.
async fn run<Fut>(kit: &Kit, handler: fn(Tx) -> Fut) -> TestResponse
where
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await
}

#[track_caller]
fn assert_committed(response: &TestResponse) {
    assert_committed_in(1, response);
}

#[track_caller]
fn assert_committed_in(attempts: u32, response: &TestResponse) {
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.outcome(), Outcome::Committed);
    assert_eq!(response.report().attempts(), attempts);
}

#[test]
fn released_savepoint_is_committed() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 1).await?;
            savepoint.release().await?;
            Ok(note(&mut tx, 2).await?)
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}

#[test]
fn released_savepoint_is_rolled_back_with_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 1).await?;
            savepoint.release().await?;
            Err(Error::not_found())
        }
        assert_eq!(run(&kit, handler).await.status, 404);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn rollback_to_savepoint_clears_errors() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 2).await?;
            assert!(note_on(&mut savepoint, 1).await.is_err());
            savepoint.rollback().await?;
            Ok(note(&mut tx, 3).await?)
        }
        assert_committed_in(kit.attempts_with_duplicate(), &run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 3]);
    });
}

#[test]
fn rollback_to_savepoint_in_policy_clears_errors() {
    test(async |kit| {
        async fn policy(mut tx: Tx) -> Result<(), Error> {
            let mut savepoint = tx.savepoint().await?;
            assert!(missing(&mut savepoint).await.is_err());
            savepoint.rollback().await?;
            Ok(note(&mut tx, 1).await?)
        }
        async fn missing(savepoint: &mut Savepoint<'_>) -> Result<(), sqlx::Error> {
            let query = sqlx::query("SELECT 1 FROM missing");
            query.execute(savepoint).await.map(drop)
        }
        let app = guarded(kit.interlock.require(policy), async || ());
        assert_committed(&put(&app, "/1", "").await);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn savepoint_does_not_clear_earlier_errors() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            assert!(note(&mut tx, 1).await.is_err());
            // The transaction is aborted, so the server rejects every statement.
            assert!(tx.savepoint().await.is_err());
            Ok(())
        }
        run(&kit, handler)
            .await
            .assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn forgotten_savepoint_does_not_clear_errors() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            assert!(note_on(&mut savepoint, 1).await.is_err());
            std::mem::forget(savepoint);
            Ok(())
        }
        run(&kit, handler)
            .await
            .assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn savepoint_with_error_cannot_be_released() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            assert!(note_on(&mut savepoint, 1).await.is_err());
            savepoint.release().await?;
            Ok(())
        }
        assert_eq!(run(&kit, handler).await.status, 500);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn dropped_savepoint_is_rolled_back_before_next_statement() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 2).await?;
            assert!(note_on(&mut savepoint, 1).await.is_err());
            drop(savepoint);
            Ok(note(&mut tx, 3).await?)
        }
        assert_committed_in(kit.attempts_with_duplicate(), &run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 3]);
    });
}

#[test]
fn dropped_savepoint_is_rolled_back_before_commit() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 2).await?;
            Ok(())
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn savepoint_dropped_before_commit_clears_errors() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            assert!(note_on(&mut savepoint, 1).await.is_err());
            Ok(())
        }
        assert_committed_in(kit.attempts_with_duplicate(), &run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn savepoint_dropped_by_question_mark_is_rolled_back_with_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 1).await?;
            Ok(savepoint.release().await?)
        }
        let response = run(&kit, handler).await;
        response.assert_problem(ErrorKind::ConstraintViolation);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn forgotten_savepoint_is_committed_with_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 1).await?;
            std::mem::forget(savepoint);
            note(&mut tx, 2).await?;
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 3).await?;
            Ok(savepoint.rollback().await?)
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}

#[test]
fn savepoints_nest() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut outer = tx.savepoint().await?;
            note_on(&mut outer, 2).await?;
            let mut inner = outer.savepoint().await?;
            assert!(note_on(&mut inner, 1).await.is_err());
            inner.rollback().await?;
            note_on(&mut outer, 3).await?;
            let mut inner = outer.savepoint().await?;
            note_on(&mut inner, 4).await?;
            inner.release().await?;
            outer.release().await?;
            Ok(())
        }
        assert_committed_in(kit.attempts_with_duplicate(), &run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1, 2, 3, 4]);
    });
}

#[test]
fn rollback_of_outer_savepoint_undoes_inner_ones() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut outer = tx.savepoint().await?;
            let mut inner = outer.savepoint().await?;
            note_on(&mut inner, 2).await?;
            inner.release().await?;
            let mut inner = outer.savepoint().await?;
            note_on(&mut inner, 3).await?;
            assert!(note_on(&mut inner, 1).await.is_err());
            drop(inner);
            outer.rollback().await?;
            Ok(())
        }
        assert_committed_in(kit.attempts_with_duplicate(), &run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn inner_savepoint_does_not_clear_outer_errors() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut outer = tx.savepoint().await?;
            assert!(note_on(&mut outer, 1).await.is_err());
            assert!(outer.savepoint().await.is_err());
            std::mem::forget(outer);
            Ok(())
        }
        run(&kit, handler)
            .await
            .assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn many_savepoints_in_sequence() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            for id in 0..20 {
                let mut savepoint = tx.savepoint().await?;
                note_on(&mut savepoint, id).await?;
                match id % 3 {
                    0 => savepoint.release().await?,
                    1 => savepoint.rollback().await?,
                    _ => drop(savepoint),
                }
            }
            Ok(())
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [0, 3, 6, 9, 12, 15, 18]);
    });
}

#[test]
fn rollback_to_savepoint_keeps_serialization_failure() {
    test(async |kit| {
        let own = kit.clone();
        let handler = move |mut tx: Tx| async move {
            let attempt = tx.attempt();
            note(&mut tx, attempt.into()).await?;
            let mut savepoint = tx.savepoint().await?;
            if attempt == 1 {
                assert!(conflict(&mut savepoint, &own.outside).await.is_err());
            }
            // CockroachDB rejects it after a serialization failure.
            let _ = savepoint.rollback().await;
            let _ = note(&mut tx, 10).await;
            Ok::<_, Error>(())
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.report().attempts(), 2);
        assert_eq!(kit.notes().await, [2, 10]);
    });
}

#[test]
fn released_savepoint_is_rolled_back_after_denial() {
    test(async |kit| {
        async fn policy(mut tx: Tx) -> Result<(), Error> {
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 1).await?;
            savepoint.release().await?;
            Err(tower_interlock::Denied::new("no").into())
        }
        let response = put(&guarded(kit.interlock.require(policy), never), "/1", "").await;
        response.assert_problem(ErrorKind::Denied);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn row_stream_on_savepoint_may_be_dropped() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            use futures::StreamExt as _;
            let mut savepoint = tx.savepoint().await?;
            note_on(&mut savepoint, 1).await?;
            let mut rows = sqlx::query("SELECT id FROM documents").fetch(&mut savepoint);
            assert!(rows.next().await.unwrap().is_ok());
            drop(rows);
            savepoint.release().await?;
            Ok(())
        }
        assert_committed(&run(&kit, handler).await);
        assert_eq!(kit.notes().await, [1]);
    });
}

/// The stream has an error behind its rows.
#[test]
fn rollback_to_savepoint_clears_error_behind_dropped_row_stream() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            let text = "SELECT 1::INT8; SELECT id FROM missing";
            let mut rows = sqlx::raw_sql(text).fetch(&mut savepoint);
            rows.next().await.unwrap()?;
            drop(rows);
            savepoint.rollback().await?;
            Ok(())
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn savepoint_hook_may_hold_tx() {
    test(async |kit| {
        async fn handler(mut tx: Tx, other: Tx) -> Result<(), Error> {
            let mut savepoint = tx.savepoint().await?;
            savepoint.after_commit(async move { drop(other) });
            savepoint.rollback().await?;
            Ok(())
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
    });
}
