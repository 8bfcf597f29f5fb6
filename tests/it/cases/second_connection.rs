//! A second connection inside of one request: it waits for its own request's locks, and no server
//! sees that as a deadlock.

use std::time::{Duration, Instant};

use axum::{Router, body::Body, extract::Request};
use tower::ServiceExt as _;
use tower_interlock::{
    AuthorizeLayer, Condition, ConditionalWrite, Error, ErrorKind, Interlock, Outcome, Tx,
};

use super::cause;
use crate::kit::{Kit, TestResponse, anyone, can_edit, guarded, note, pool, put, test};

static WRITE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET version = version + 1 WHERE id = $1 AND {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
    )],
);

async fn write(interlock: &Interlock, id: i64) -> Result<(), Error> {
    WRITE.bind(id).execute(interlock).await?;
    Ok(())
}

async fn lock(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("UPDATE documents SET body = 'new' WHERE id = 1")
        .execute(tx)
        .await?;
    Ok(())
}

/// The request is rejected at once, the error names the remedy, and nothing is stored.
async fn assert_rejected(kit: &Kit, app: &Router) {
    let started = Instant::now();
    let response = put(app, "/1", "").await;
    let took = started.elapsed();
    response.assert_problem(ErrorKind::Misconfigured);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(response.outcome(), Outcome::RolledBack);
    assert_eq!(response.report().attempts(), 1);
    assert!(cause(&response).contains("Tx"), "{}", cause(&response));
    kit.interlock.drain().await;
    assert_eq!((kit.version(1).await, kit.version(2).await), (0, 0));
    assert_eq!(kit.body(1).await, "old");
    assert_eq!(kit.notes().await, [0_i64; 0]);
}

/// A service that locks document 1.
fn locking(layer: AuthorizeLayer) -> Router {
    guarded(layer, async |mut tx: Tx| lock(&mut tx).await)
}

fn hurried(kit: &Kit) -> Interlock {
    kit.builder().deadline(Duration::from_secs(3)).build()
}

#[test]
fn conditional_write_on_the_row_of_its_own_request_is_rejected_at_once() {
    test(async |kit| {
        let interlock = hurried(&kit);
        let handler = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            write(&interlock, 1).await
        };
        let app = guarded(hurried(&kit).require(anyone), handler);
        assert_rejected(&kit, &app).await;
    });
}

/// The crate does not know which rows the request has locked.
#[test]
fn conditional_write_on_any_row_while_the_tx_is_open_is_rejected_at_once() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&interlock, 2).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_rejected(&kit, &app).await;
    });
}

#[test]
fn conditional_write_in_a_policy_that_has_read_is_rejected_at_once() {
    test(async |kit| {
        let interlock = hurried(&kit);
        let policy = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            drop(tx);
            write(&interlock, 1).await
        };
        let app = guarded(hurried(&kit).require(policy), async || ());
        assert_rejected(&kit, &app).await;
    });
}

/// The handler has no `Tx`, but the policy has opened the transaction.
#[test]
fn conditional_write_behind_a_policy_that_has_read_is_rejected_at_once() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move || write(&interlock, 1).await;
        let app = guarded(kit.interlock.require(can_edit), handler);
        assert_rejected(&kit, &app).await;
    });
}

#[test]
fn conditional_write_beside_a_savepoint_is_rejected_at_once() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            let mut savepoint = tx.savepoint().await?;
            sqlx::query("INSERT INTO notes VALUES (1, '')")
                .execute(&mut savepoint)
                .await?;
            write(&interlock, 2).await?;
            savepoint.release().await?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_rejected(&kit, &app).await;
    });
}

/// An interlock with other settings waits for the same pool.
#[test]
fn conditional_write_on_another_interlock_of_the_pool_while_the_tx_is_open_is_rejected_at_once() {
    test(async |kit| {
        let interlock = kit.builder().max_attempts(1).build();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&interlock, 2).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_rejected(&kit, &app).await;
    });
}

/// A timeout and `join!` run their futures in the same task.
#[test]
fn conditional_write_inside_other_futures_while_the_tx_is_open_is_rejected_at_once() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let write = tokio::time::timeout(Duration::from_secs(5), write(&interlock, 2));
            let (written, ()) = tokio::join!(write, async {});
            written.unwrap()
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_rejected(&kit, &app).await;
    });
}

/// The handler of one request sends another one through a router.
#[test]
fn request_inside_a_request_whose_tx_is_open_is_rejected_at_once() {
    test(async |kit| {
        let inner = locking(hurried(&kit).require(anyone));
        let handler = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            let request = Request::put("/1").body(Body::empty()).unwrap();
            Ok::<_, Error>(inner.oneshot(request).await.unwrap())
        };
        let app = guarded(hurried(&kit).require(anyone), handler);
        let started = Instant::now();
        let response = put(&app, "/1", "").await;
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
        response.assert_problem(ErrorKind::Misconfigured);
        assert_eq!(kit.body(1).await, "old");
    });
}

// Allowed

#[track_caller]
fn assert_committed(response: &TestResponse) {
    assert_eq!(response.status, 200, "{}", cause(response));
    assert_eq!(response.outcome(), Outcome::Committed);
}

#[test]
fn conditional_write_before_the_first_statement_is_made() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            write(&interlock, 1).await?;
            Ok::<_, Error>(note(&mut tx, 1).await?)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_committed(&put(&app, "/1", "").await);
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![1]));
    });
}

/// Neither request waits for the other.
#[test]
fn request_inside_a_request_before_its_first_statement_is_made() {
    test(async |kit| {
        let inner = locking(kit.interlock.require(anyone));
        let handler = async move |mut tx: Tx| {
            let request = Request::put("/1").body(Body::empty()).unwrap();
            assert_eq!(inner.oneshot(request).await.unwrap().status(), 200);
            Ok::<_, Error>(note(&mut tx, 1).await?)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_committed(&put(&app, "/1", "").await);
        assert_eq!(
            (kit.body(1).await, kit.notes().await),
            ("new".into(), vec![1])
        );
    });
}

/// It carries the extensions of the outer request, and joins its transaction.
#[test]
fn request_forwarded_inside_a_request_joins_its_transaction() {
    test(async |kit| {
        let inner = locking(kit.interlock.require(anyone));
        let policy = async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 1).await?);
        let handler = async move |request: Request| inner.oneshot(request).await.unwrap();
        let app = guarded(kit.interlock.require(policy), handler);
        assert_committed(&put(&app, "/1", "").await);
        assert_eq!(
            (kit.body(1).await, kit.notes().await),
            ("new".into(), vec![1])
        );
    });
}

#[test]
fn transact_while_the_tx_is_open_is_rejected_at_once() {
    test(async |kit| {
        let interlock = hurried(&kit);
        let handler = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            interlock
                .transact(async |mut tx: Tx| lock(&mut tx).await)
                .await
        };
        let app = guarded(hurried(&kit).require(anyone), handler);
        assert_rejected(&kit, &app).await;
    });
}

#[test]
fn conditional_write_on_another_interlock_while_the_tx_is_open_is_made() {
    test(async |kit| {
        let other = Interlock::new(pool(&kit.database, 1));
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&other, 1).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_committed(&put(&app, "/1", "").await);
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![1]));
    });
}

#[test]
fn conditional_write_in_a_hook_is_made() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let (done, written) = tokio::sync::oneshot::channel();
        let done = std::sync::Arc::new(std::sync::Mutex::new(Some(done)));
        let handler = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            tx.after_commit(async move {
                let written = write(&interlock, 1).await;
                done.lock().unwrap().take().unwrap().send(written).unwrap();
            });
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_committed(&put(&app, "/1", "").await);
        written.await.unwrap().unwrap();
        assert_eq!((kit.version(1).await, kit.body(1).await), (1, "new".into()));
    });
}

/// The task has no transaction open any more.
#[test]
fn conditional_write_after_a_request_in_the_same_task_is_made() {
    test(async |kit| {
        let app = locking(kit.interlock.require(anyone));
        assert_committed(&put(&app, "/1", "").await);
        write(&kit.interlock, 1).await.unwrap();
        assert_eq!((kit.version(1).await, kit.body(1).await), (1, "new".into()));
    });
}

/// A documented limit: a spawned task is not known to belong to the request.
#[test]
fn conditional_write_in_a_spawned_task_is_made() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let interlock = interlock.clone();
            tokio::spawn(async move { write(&interlock, 2).await })
                .await
                .unwrap()
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_committed(&put(&app, "/1", "").await);
        assert_eq!((kit.version(2).await, kit.notes().await), (1, vec![1]));
    });
}
