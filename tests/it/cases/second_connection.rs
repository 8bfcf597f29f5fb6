//! A second connection inside of one request: it waits for its own request's locks, and no server
//! sees that as a deadlock.

use std::time::{Duration, Instant};

use axum::{Router, body::Body, extract::Request};
use tower::ServiceExt as _;
use tower_interlock::{Condition, ConditionalWrite, Error, ErrorKind, Interlock, Outcome, Tx};

use super::{cause, version};
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

/// It is refused at once, says how to mend it, and nothing is kept.
async fn assert_refused(kit: &Kit, app: &Router) {
    let started = Instant::now();
    let answer = put(app, "/1", "").await;
    let took = started.elapsed();
    answer.assert_problem(ErrorKind::Misconfigured);
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(answer.outcome(), Outcome::RolledBack);
    assert_eq!(answer.report().attempts(), 1);
    assert!(cause(&answer).contains("Tx"), "{}", cause(&answer));
    kit.interlock.drain().await;
    assert_eq!((version(kit, 1).await, version(kit, 2).await), (0, 0));
    assert_eq!(kit.body(1).await, "old");
    assert_eq!(kit.notes().await, [0_i64; 0]);
}

fn hurried(kit: &Kit) -> Interlock {
    kit.builder().deadline(Duration::from_secs(3)).build()
}

#[test]
fn conditional_write_on_the_row_of_its_own_request_is_refused_at_once() {
    test(async |kit| {
        let interlock = hurried(&kit);
        let handler = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            write(&interlock, 1).await
        };
        let app = guarded(hurried(&kit).require(anyone), handler);
        assert_refused(&kit, &app).await;
    });
}

/// Today it is another row; tomorrow it is not.
#[test]
fn conditional_write_on_any_row_while_the_tx_is_open_is_refused_at_once() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&interlock, 2).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_refused(&kit, &app).await;
    });
}

#[test]
fn conditional_write_in_a_policy_that_has_read_is_refused_at_once() {
    test(async |kit| {
        let interlock = hurried(&kit);
        let policy = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            drop(tx);
            write(&interlock, 1).await
        };
        let app = guarded(hurried(&kit).require(policy), async || ());
        assert_refused(&kit, &app).await;
    });
}

/// The handler has no `Tx`, but the policy has opened the transaction.
#[test]
fn conditional_write_behind_a_policy_that_has_read_is_refused_at_once() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move || write(&interlock, 1).await;
        let app = guarded(kit.interlock.require(can_edit), handler);
        assert_refused(&kit, &app).await;
    });
}

#[test]
fn conditional_write_beside_a_savepoint_is_refused_at_once() {
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
        assert_refused(&kit, &app).await;
    });
}

/// A clone with other settings is the same interlock.
#[test]
fn conditional_write_on_a_clone_while_the_tx_is_open_is_refused_at_once() {
    test(async |kit| {
        let interlock = kit.builder().max_attempts(1).build();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&interlock, 2).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_refused(&kit, &app).await;
    });
}

/// Behind a timeout, `join!` or a stream it is still the same task.
#[test]
fn conditional_write_inside_other_futures_while_the_tx_is_open_is_refused_at_once() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let write = tokio::time::timeout(Duration::from_secs(5), write(&interlock, 2));
            let (written, ()) = tokio::join!(write, async {});
            written.unwrap()
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_refused(&kit, &app).await;
    });
}

/// A request through the router, in the course of another one's handler.
#[test]
fn request_inside_a_request_whose_tx_is_open_is_refused_at_once() {
    test(async |kit| {
        let inner = guarded(hurried(&kit).require(anyone), async |mut tx: Tx| {
            lock(&mut tx).await
        });
        let handler = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            let request = Request::put("/1").body(Body::empty()).unwrap();
            Ok::<_, Error>(inner.oneshot(request).await.unwrap())
        };
        let app = guarded(hurried(&kit).require(anyone), handler);
        let started = Instant::now();
        let answer = put(&app, "/1", "").await;
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{:?}",
            started.elapsed()
        );
        answer.assert_problem(ErrorKind::Misconfigured);
        assert_eq!(kit.body(1).await, "old");
    });
}

// What is allowed

#[track_caller]
fn assert_committed(answer: &TestResponse) {
    assert_eq!(answer.status, 200, "{}", cause(answer));
    assert_eq!(answer.outcome(), Outcome::Committed);
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
        assert_eq!((version(&kit, 1).await, kit.notes().await), (1, vec![1]));
    });
}

/// Neither waits for the other.
#[test]
fn request_inside_a_request_before_its_first_statement_is_made() {
    test(async |kit| {
        let inner = guarded(kit.interlock.require(anyone), async |mut tx: Tx| {
            lock(&mut tx).await
        });
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

/// It carries the extensions of the request, and joins its transaction.
#[test]
fn request_forwarded_inside_a_request_joins_its_transaction() {
    test(async |kit| {
        let inner = guarded(kit.interlock.require(anyone), async |mut tx: Tx| {
            lock(&mut tx).await
        });
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
fn transact_while_the_tx_is_open_is_refused_at_once() {
    test(async |kit| {
        let interlock = hurried(&kit);
        let handler = async move |mut tx: Tx| {
            lock(&mut tx).await?;
            interlock
                .transact(async |mut tx: Tx| lock(&mut tx).await)
                .await
        };
        let app = guarded(hurried(&kit).require(anyone), handler);
        assert_refused(&kit, &app).await;
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
        assert_eq!((version(&kit, 1).await, kit.notes().await), (1, vec![1]));
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
        assert_eq!(
            (version(&kit, 1).await, kit.body(1).await),
            (1, "new".into())
        );
    });
}

/// The next request of the same task is another one.
#[test]
fn conditional_write_after_a_request_in_the_same_task_is_made() {
    test(async |kit| {
        let app = guarded(kit.interlock.require(anyone), async |mut tx: Tx| {
            lock(&mut tx).await
        });
        assert_committed(&put(&app, "/1", "").await);
        write(&kit.interlock, 1).await.unwrap();
        assert_eq!(
            (version(&kit, 1).await, kit.body(1).await),
            (1, "new".into())
        );
    });
}

/// The limit that is documented: a task of its own is not known to be of the request.
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
        assert_eq!((version(&kit, 2).await, kit.notes().await), (1, vec![1]));
    });
}
