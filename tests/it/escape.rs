//! A `Tx` that outlives its request, and statements that are dropped unfinished.

use std::{pin::pin, time::Duration};

use axum::{
    Extension,
    body::{Body, Bytes},
    http::Request,
};
use futures::{StreamExt as _, poll, stream};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tower_interlock::{Error, ErrorKind, Outcome, Tx};

use crate::kit::{
    Kit, Naive, TestResponse, anyone, conflict, guarded, naive_app, never, note, put, test, write,
};

#[track_caller]
fn assert_escaped(response: &TestResponse) {
    response.assert_problem(ErrorKind::TxEscaped);
    assert_eq!(response.report().attempts(), 1);
}

async fn run<Fut>(kit: &Kit, handler: fn(Tx) -> Fut) -> TestResponse
where
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await
}

/// Asserts that all connections are back in the pool, although a `Tx` may still be alive.
async fn assert_whole(kit: &Kit) {
    let drained = timeout(Duration::from_secs(10), kit.interlock.drain()).await;
    drained.expect("a transaction is still open");
    kit.assert_nothing_leaked().await;
    assert!(kit.notes().await.is_empty());
}

/// Asserts that the `Tx` of a finished request is unusable.
async fn assert_late(tx: &mut Tx) {
    let late = Error::from(note(tx, 9).await.unwrap_err());
    assert_eq!(late.kind(), ErrorKind::TxEscaped);
    assert!(tx.savepoint().await.is_err());
    assert!(tx.connection().await.is_err());
}

#[test]
fn naive_escaped_transaction_is_reported_as_success() {
    test(async |kit| {
        async fn handler(Extension(slot): Extension<Naive>) -> &'static str {
            let mut transaction = slot.lock().await.take().unwrap();
            let (responded, waits) = oneshot::channel::<()>();
            tokio::spawn(async move {
                sqlx::query("INSERT INTO notes VALUES (1, '')")
                    .execute(&mut *transaction)
                    .await
                    .unwrap();
                let _ = waits.await;
            });
            drop(responded);
            "ok"
        }
        let response = put(&naive_app(&kit, handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert!(kit.notes().await.is_empty());
    });
}

/// Lets the `Tx` escape, before or after its first statement.
async fn sent_away(kit: &Kit, used: bool) -> (TestResponse, Tx) {
    let (send, mut receive) = mpsc::unbounded_channel();
    let handler = move |mut tx: Tx| async move {
        if used {
            note(&mut tx, 1).await?;
        }
        send.send(tx).unwrap();
        Ok::<_, Error>("ok")
    };
    let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
    (response, receive.recv().await.unwrap())
}

#[test]
fn used_tx_that_escapes_fails_request() {
    test(async |kit| {
        let (response, mut tx) = sent_away(&kit, true).await;
        assert_escaped(&response);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_whole(&kit).await;
        assert_late(&mut tx).await;
    });
}

#[test]
fn unused_tx_that_escapes_fails_request() {
    test(async |kit| {
        let (response, mut tx) = sent_away(&kit, false).await;
        assert_escaped(&response);
        assert_eq!(response.outcome(), Outcome::NoTransaction);
        assert_late(&mut tx).await;
        assert_whole(&kit).await;
    });
}

#[test]
fn tx_that_escapes_from_policy_fails_request() {
    test(async |kit| {
        let (send, mut receive) = mpsc::unbounded_channel();
        let policy = move |mut tx: Tx| async move {
            note(&mut tx, 1).await?;
            send.send(tx).unwrap();
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(policy), async || "ok");
        assert_escaped(&put(&app, "/1", "").await);
        assert_late(&mut receive.recv().await.unwrap()).await;
        assert_whole(&kit).await;
    });
}

/// Spawns a statement that is running when the handler responds.
async fn busy(kit: &Kit) -> (TestResponse, JoinHandle<Tx>) {
    let (send, mut receive) = mpsc::unbounded_channel();
    let handler = move |mut tx: Tx| async move {
        note(&mut tx, 1).await?;
        let (under_way, waits) = oneshot::channel();
        let task = tokio::spawn(async move {
            {
                let sleep = sqlx::query("SELECT pg_sleep(0.5)");
                let mut statement = pin!(sleep.execute(&mut tx));
                assert!(poll!(&mut statement).is_pending());
                under_way.send(()).unwrap();
                let _ = statement.await;
            }
            tx
        });
        waits.await.unwrap();
        send.send(task).unwrap();
        Ok::<_, Error>("ok")
    };
    let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
    (response, receive.recv().await.unwrap())
}

#[test]
fn tx_that_escapes_mid_statement_fails_request() {
    test(async |kit| {
        let (response, task) = busy(&kit).await;
        assert_escaped(&response);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_late(&mut task.await.unwrap()).await;
        assert_whole(&kit).await;
    });
}

#[test]
fn tx_of_task_aborted_mid_statement_releases_connection() {
    test(async |kit| {
        let (response, task) = busy(&kit).await;
        assert_escaped(&response);
        task.abort();
        assert_whole(&kit).await;
    });
}

#[test]
fn tx_in_streaming_body_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Body {
            Body::from_stream(stream::once(async move {
                note(&mut tx, 1).await?;
                Ok::<_, sqlx::Error>(Bytes::from("ok"))
            }))
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_escaped(&response);
        assert_whole(&kit).await;
    });
}

#[test]
fn forgotten_tx_fails_request() {
    test(async |kit| {
        async fn unused(tx: Tx) -> Result<(), Error> {
            std::mem::forget(tx);
            Ok(())
        }
        async fn used(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            std::mem::forget(tx);
            Ok(())
        }
        assert_escaped(&run(&kit, unused).await);
        assert_escaped(&run(&kit, used).await);
        assert_whole(&kit).await;
    });
}

#[test]
fn tx_outliving_panicked_request_is_unusable() {
    test(async |kit| {
        let (send, mut receive) = mpsc::unbounded_channel();
        let handler = move |mut tx: Tx| async move {
            note(&mut tx, 1).await.unwrap();
            send.send(tx).unwrap();
            never().await;
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let request = tokio::spawn(async move { put(&app, "/1", "").await.status });
        assert!(request.await.unwrap_err().is_panic());
        let mut tx = receive.recv().await.unwrap();
        assert_whole(&kit).await;
        assert_late(&mut tx).await;
    });
}

#[test]
fn tx_outliving_dropped_request_is_unusable() {
    test(async |kit| {
        let (send, mut receive) = mpsc::unbounded_channel();
        let handler = move |mut tx: Tx| async move {
            note(&mut tx, 1).await.unwrap();
            send.send(tx).unwrap();
            std::future::pending::<()>().await;
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let request = tokio::spawn(async move { put(&app, "/1", "").await.status });
        let mut tx = receive.recv().await.unwrap();
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert_whole(&kit).await;
        assert_late(&mut tx).await;
    });
}

#[test]
fn escaped_tx_is_not_retried() {
    test(async |kit| {
        // Although a serialization failure was recorded as well.
        let own = kit.clone();
        let handler = move |mut tx: Tx| async move {
            let _ = conflict(&mut tx, &own.outside).await;
            std::mem::forget(tx);
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_escaped(&response);
        assert_whole(&kit).await;
    });
}

#[test]
fn task_that_ends_before_response_is_committed() {
    test(async |kit| {
        async fn handler(tx: Tx) -> Result<(), Error> {
            tokio::spawn(write(tx)).await.unwrap().map(drop)
        }
        let response = run(&kit, handler).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn request_kept_after_response_gets_no_usable_tx() {
    test(async |kit| {
        // The slot is in the extensions of the request, so it can be kept before a `Tx` exists.
        let (send, mut receive) = mpsc::unbounded_channel();
        let handler = move |request: Request<Body>| async move {
            send.send(request).unwrap();
            "ok"
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        let (mut parts, _) = receive.recv().await.unwrap().into_parts();
        let tx = <Tx as axum::extract::FromRequestParts<()>>::from_request_parts(&mut parts, &());
        assert_late(&mut tx.await.unwrap()).await;
        assert_whole(&kit).await;
    });
}

#[test]
fn dropped_row_stream_is_committed() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let mut rows = sqlx::query("SELECT id FROM documents").fetch(&mut tx);
            rows.next().await.unwrap()?;
            drop(rows);
            note(&mut tx, 1).await?;
            let mut rows = sqlx::query("SELECT id FROM documents").fetch(&mut tx);
            rows.next().await.unwrap()?;
            Ok(())
        }
        let response = run(&kit, handler).await;
        assert_eq!(response.status, 200);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn error_behind_dropped_row_stream_is_recorded() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let divided = sqlx::query("SELECT 1 / (2 - id) FROM documents ORDER BY id");
            let _ = divided.fetch(&mut tx).next().await;
            Ok(())
        }
        let response = run(&kit, handler).await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_whole(&kit).await;
    });
}

#[test]
fn forgotten_row_stream_is_committed() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut rows = sqlx::query("SELECT id FROM documents").fetch(&mut tx);
            rows.next().await.unwrap()?;
            std::mem::forget(rows);
            Ok(())
        }
        assert_eq!(run(&kit, handler).await.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn statement_after_forgotten_row_stream_stays_in_transaction() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let mut rows = sqlx::query("SELECT id FROM documents").fetch(&mut tx);
            rows.next().await.unwrap()?;
            std::mem::forget(rows);
            note(&mut tx, 2).await?;
            tx.rollback_only();
            Ok(())
        }
        assert_eq!(run(&kit, handler).await.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn forgotten_statement_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let sleep = sqlx::query("SELECT pg_sleep(0.5)");
            let mut statement = Box::pin(sleep.execute(&mut tx));
            assert!(poll!(&mut statement).is_pending());
            std::mem::forget(statement);
            Ok(())
        }
        let response = run(&kit, handler).await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_whole(&kit).await;
    });
}

#[test]
fn statement_abandoned_by_timeout_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            note(&mut tx, 1).await?;
            let sleep = sqlx::query("SELECT pg_sleep(0.5)").execute(&mut tx);
            let timed_out = timeout(Duration::from_millis(20), sleep).await;
            assert!(timed_out.is_err());
            // The state of the transaction is unknown, so nothing more is sent.
            let rejected = Error::from(note(&mut tx, 2).await.unwrap_err());
            assert_eq!(rejected.kind(), ErrorKind::TransactionAborted);
            Ok(())
        }
        let response = run(&kit, handler).await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_whole(&kit).await;
    });
}

#[test]
fn statement_dropped_after_one_poll_fails_request() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            // It is the first statement, so BEGIN is running.
            let mut statement = Box::pin(note(&mut tx, 1));
            assert!(poll!(&mut statement).is_pending());
            Ok(())
        }
        let response = run(&kit, handler).await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_whole(&kit).await;
    });
}

#[test]
fn swallowed_panic_with_live_tx_fails_request() {
    test(async |kit| {
        async fn handler(tx: Tx) -> Result<(), Error> {
            let task = tokio::spawn(async move {
                write(tx).await.unwrap();
                never().await;
            });
            assert!(task.await.unwrap_err().is_panic());
            Ok(())
        }
        async fn with_the_tx(mut tx: Tx) -> Result<(), Error> {
            let task = tokio::spawn(async move {
                note(&mut tx, 1).await.unwrap();
                never().await;
                drop(tx);
            });
            assert!(task.await.unwrap_err().is_panic());
            Ok(())
        }
        // The task has no `Tx` when it panics.
        assert_eq!(run(&kit, handler).await.status, 200);
        sqlx::query("DELETE FROM notes")
            .execute(&kit.outside)
            .await
            .unwrap();

        let response = run(&kit, with_the_tx).await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_whole(&kit).await;
    });
}
