//! `&mut *tx`, as with a transaction of sqlx: the same transaction, with the same guarantees.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{Router, routing::put as put_route};
use tokio::sync::Mutex;
use tower_interlock::{
    Condition, ConditionalWrite, Error, ErrorKind, Interlock, Outcome, Tx, TxExecutor,
};

use crate::kit::{Kit, TestResponse, anyone, guarded, put, test};

/// Writes two notes, on a transaction or on a savepoint.
async fn two_notes(tx: &mut TxExecutor, id: i64) -> Result<(), Error> {
    let insert = "INSERT INTO notes VALUES ($1, '')";
    sqlx::query(insert).bind(id).execute(&mut *tx).await?;
    sqlx::query(insert).bind(id + 1).execute(tx).await?;
    Ok(())
}

/// Runs `handler` behind a policy that allows everything.
async fn run<Fut>(kit: &Kit, handler: fn(Tx) -> Fut) -> TestResponse
where
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await
}

#[test]
fn reborrow_of_owned_transaction_and_savepoint_runs_in_it() {
    test(async |kit| {
        async fn policy(mut tx: Tx) -> Result<(), Error> {
            sqlx::query("INSERT INTO notes VALUES (1, '')")
                .execute(&mut *tx)
                .await?;
            Ok(())
        }
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            two_notes(&mut tx, 2).await?;
            let mut savepoint = tx.savepoint().await?;
            two_notes(&mut savepoint, 4).await?;
            let mut inner = savepoint.savepoint().await?;
            two_notes(&mut inner, 6).await?;
            inner.rollback().await?;
            let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
                .fetch_one(&mut *savepoint)
                .await?;
            assert_eq!(seen, 5);
            savepoint.release().await?;
            borrowed(&mut tx).await
        }
        async fn borrowed(tx: &mut Tx) -> Result<(), Error> {
            let seen: Vec<i64> = sqlx::query_scalar("SELECT id FROM notes ORDER BY id")
                .fetch_all(&mut **tx)
                .await?;
            assert_eq!(seen, [1, 2, 3, 4, 5]);
            two_notes(tx, 8).await
        }
        let app = guarded(kit.interlock.require(policy), handler);
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1, 2, 3, 4, 5, 8, 9]);
    });
}

#[test]
fn error_of_reborrow_is_recorded() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            two_notes(&mut tx, 1).await?;
            let failed = sqlx::query("SELECT 1/0").execute(&mut *tx).await;
            assert!(failed.is_err());
            Ok(())
        }
        let response = run(&kit, handler).await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn transaction_control_on_reborrow_is_rejected() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            two_notes(&mut tx, 1).await?;
            for text in ["COMMIT", "ROLLBACK", "SET TRANSACTION READ ONLY"] {
                let error = sqlx::query(text).execute(&mut *tx).await.unwrap_err();
                assert_eq!(Error::from(error).kind(), ErrorKind::Misconfigured);
            }
            let mut savepoint = tx.savepoint().await?;
            let error = sqlx::raw_sql("COMMIT").execute(&mut *savepoint).await;
            let error = Error::from(error.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Misconfigured);
            Ok(())
        }
        let response = run(&kit, handler).await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn second_transaction_of_request_is_in_use_on_reborrow() {
    test(async |kit| {
        async fn handler(mut one: Tx, mut two: Tx) -> Result<(), Error> {
            two_notes(&mut one, 1).await?;
            two_notes(&mut two, 3).await
        }
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::TxInUse);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn conditional_write_runs_on_reborrow() {
    static ADD: ConditionalWrite = ConditionalWrite::new(
        "INSERT INTO notes (id, note) SELECT $1, '' WHERE {conditions}",
        &[Condition::permitted("$1 < 10::INT8")],
    );
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            ADD.bind(1_i64).execute(&mut *tx).await?;
            let mut savepoint = tx.savepoint().await?;
            ADD.bind(2_i64).execute(&mut *savepoint).await?;
            let denied = ADD.bind(10_i64).execute(&mut *savepoint).await;
            assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
            savepoint.release().await?;
            Ok(())
        }
        assert_eq!(run(&kit, handler).await.status, 200);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}

#[test]
fn hook_of_reborrowed_savepoint_is_dropped_with_it() {
    fn register(tx: &mut TxExecutor, ran: &Arc<AtomicBool>) {
        let ran = Arc::clone(ran);
        tx.after_commit(async move { ran.store(true, Ordering::SeqCst) });
    }
    test(async |kit| {
        let (kept, dropped) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        let own = (Arc::clone(&kept), Arc::clone(&dropped));
        let handler = move |mut tx: Tx| async move {
            let mut savepoint = tx.savepoint().await?;
            register(&mut savepoint, &own.1);
            savepoint.rollback().await?;
            register(&mut tx, &own.0);
            // Dropped, it is rolled back by the next statement, and what comes first stays.
            let mut savepoint = tx.savepoint().await?;
            register(&mut savepoint, &own.1);
            drop(savepoint);
            register(&mut tx, &own.0);
            two_notes(&mut tx, 1).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        kit.interlock.drain().await;
        assert_eq!(kit.notes().await, [1, 2]);
        assert!(kept.load(Ordering::SeqCst));
        assert!(!dropped.load(Ordering::SeqCst));
    });
}

#[test]
fn rollback_undoes_forgotten_savepoint_inside() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<(), Error> {
            let mut outer = tx.savepoint().await?;
            two_notes(&mut outer, 1).await?;
            let mut inner = outer.savepoint().await?;
            two_notes(&mut inner, 3).await?;
            mem::forget(inner);
            two_notes(&mut outer, 5).await?;
            outer.rollback().await?;
            two_notes(&mut tx, 7).await
        }
        let response = run(&kit, handler).await;
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(kit.notes().await, [7, 8]);
    });
}

/// Only whole `Tx`s can be swapped. Each takes its transaction along, so the one of the closure is
/// kept past its closure.
#[test]
fn swapped_transactions_stay_whole() {
    test(async |kit| {
        let other = Interlock::new(kit.outside.clone());
        let own = other.clone();
        let handler = move |mut tx: Tx| async move {
            two_notes(&mut tx, 1).await?;
            let tx = Mutex::new(tx);
            let swapped = own
                .transact(async |mut inner: Tx| {
                    two_notes(&mut inner, 3).await?;
                    mem::swap(&mut *tx.lock().await, &mut inner);
                    two_notes(&mut inner, 5).await
                })
                .await;
            assert_eq!(swapped.unwrap_err().kind(), ErrorKind::TxEscaped);
            let mut tx = tx.into_inner();
            let late = two_notes(&mut tx, 7).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::TxEscaped);
            Ok::<_, Error>(())
        };
        let app = Router::new()
            .route("/", put_route(handler))
            .route_layer(kit.interlock.require(anyone));
        let response = put(&app, "/", "").await;
        assert_eq!(response.outcome(), Outcome::Committed);
        other.drain().await;
        assert_eq!(kit.notes().await, [1, 2, 5, 6]);
    });
}
