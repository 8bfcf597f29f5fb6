//! Hooks run at most once, in order, and only after COMMIT.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::StatusCode;
use tokio::sync::oneshot;
use tower_interlock::{Denied, Error, ErrorKind, Interlock, Tx};

use crate::kit::{
    anyone, can_edit, committing, conflict_once, guarded, never, note, put, slow_commit, test,
    test_with_pool,
};

/// The hooks that ran, in order.
#[derive(Clone, Default)]
struct Ran(Arc<Mutex<Vec<i64>>>);

impl Ran {
    fn hook(&self, id: i64) -> impl Future<Output = ()> + Send + 'static {
        let ran = self.clone();
        async move { ran.0.lock().unwrap().push(id) }
    }

    /// All hooks that ran, after every request and hook has ended.
    async fn all(&self, interlock: &Interlock) -> Vec<i64> {
        interlock.drain().await;
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn hooks_run_once_and_in_order() {
    test(async |kit| {
        let ran = Ran::default();
        let (of_policy, of_handler) = (ran.clone(), ran.clone());
        let policy = move |mut tx: Tx| async move {
            note(&mut tx, 1).await?;
            tx.after_commit(of_policy.hook(1));
            Ok::<_, Error>(())
        };
        let handler = move |mut tx: Tx| async move {
            tx.after_commit(of_handler.hook(2));
            let mut savepoint = tx.savepoint().await?;
            savepoint.after_commit(of_handler.hook(3));
            savepoint.release().await?;
            tx.after_commit(of_handler.hook(4));
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(policy), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.notes().await, [1]);
        assert_eq!(ran.all(&kit.interlock).await, [1, 2, 3, 4]);
    });
}

#[test]
fn slow_hook_delays_next_hook_but_not_response() {
    test(async |kit| {
        let ran = Ran::default();
        let own = ran.clone();
        let (release, held) = oneshot::channel::<()>();
        let held = Arc::new(Mutex::new(Some(held)));
        let handler = move |mut tx: Tx| async move {
            let held = held.lock().unwrap().take().unwrap();
            let first = own.hook(1);
            tx.after_commit(async move {
                held.await.unwrap();
                first.await;
            });
            tx.after_commit(own.hook(2));
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert!(ran.0.lock().unwrap().is_empty());

        let mut drain = Box::pin(kit.interlock.drain());
        assert!(futures::poll!(&mut drain).is_pending());
        release.send(()).unwrap();
        assert_eq!(ran.all(&kit.interlock).await, [1, 2]);
    });
}

#[test]
fn hooks_see_committed_rows() {
    test(async |kit| {
        let (send, seen) = oneshot::channel();
        let send = Arc::new(Mutex::new(Some(send)));
        let own = kit.clone();
        let handler = move |mut tx: Tx| async move {
            let send = send.lock().unwrap().take().unwrap();
            tx.after_commit(async move { send.send(own.notes().await).unwrap() });
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(seen.await.unwrap(), [1]);
    });
}

#[test]
fn hooks_wait_for_commit_but_not_for_client() {
    test(async |kit| {
        let Some(held) = slow_commit(&kit).await else {
            return;
        };
        let ran = Ran::default();
        let own = ran.clone();
        let handler = move |mut tx: Tx| async move {
            tx.after_commit(own.hook(1));
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let request = tokio::spawn(async move { put(&app, "/1", "").await.status });
        committing(&kit).await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        assert!(ran.0.lock().unwrap().is_empty());

        drop(held);
        assert_eq!(ran.all(&kit.interlock).await, [1]);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn hooks_of_retried_attempt_do_not_run() {
    test(async |kit| {
        let ran = Ran::default();
        let (own, outside) = (ran.clone(), kit.outside.clone());
        let handler = move |mut tx: Tx| async move {
            let attempt = tx.attempt();
            tx.after_commit(own.hook(attempt.into()));
            note(&mut tx, attempt.into()).await?;
            conflict_once(&mut tx, &outside).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.notes().await, [2]);
        assert_eq!(ran.all(&kit.interlock).await, [2]);
    });
}

#[test]
fn hooks_do_not_run_after_rollback() {
    test(async |kit| {
        let ran = Ran::default();
        let own = ran.clone();
        let policy = move |mut tx: Tx| async move {
            tx.after_commit(own.hook(1));
            note(&mut tx, 1).await?;
            Err::<(), _>(Error::from(Denied::new("no")))
        };
        let response = put(&guarded(kit.interlock.require(policy), never), "/1", "").await;
        response.assert_problem(ErrorKind::Denied);

        for (status, swallows) in [(409, false), (500, false), (200, true)] {
            let own = ran.clone();
            let handler = move |mut tx: Tx| async move {
                tx.after_commit(own.hook(2));
                note(&mut tx, 1).await?;
                if swallows {
                    let _ = note(&mut tx, 1).await;
                }
                Ok::<_, Error>(StatusCode::from_u16(status).unwrap())
            };
            put(&guarded(kit.interlock.require(can_edit), handler), "/1", "").await;
        }

        let own = ran.clone();
        let dry = kit.builder().dry_run(true).build();
        let handler = move |mut tx: Tx| async move {
            tx.after_commit(own.hook(3));
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(dry.require(can_edit), handler), "/1", "").await;
        assert_eq!(response.status, 200);

        let own = ran.clone();
        let handler = move |mut tx: Tx| async move {
            tx.after_commit(own.hook(4));
            tx.rollback_only();
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(can_edit), handler), "/1", "").await;
        assert_eq!(response.status, 200);

        dry.drain().await;
        assert!(ran.all(&kit.interlock).await.is_empty());
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn hooks_run_for_committed_4xx() {
    test(async |kit| {
        let ran = Ran::default();
        let own = ran.clone();
        let handler = move |mut tx: Tx| async move {
            tx.after_commit(own.hook(1));
            note(&mut tx, 1).await?;
            tx.commit_on_client_error();
            Ok::<_, Error>(StatusCode::UNAUTHORIZED)
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 401);
        assert_eq!(kit.notes().await, [1]);
        assert_eq!(ran.all(&kit.interlock).await, [1]);
    });
}

#[test]
fn hooks_of_rolled_back_savepoint_do_not_run() {
    test(async |kit| {
        let ran = Ran::default();
        let own = ran.clone();
        let handler = move |mut tx: Tx| async move {
            tx.after_commit(own.hook(1));
            let mut outer = tx.savepoint().await?;
            outer.after_commit(own.hook(2));
            let mut inner = outer.savepoint().await?;
            inner.after_commit(own.hook(3));
            inner.release().await?;
            outer.rollback().await?;
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.notes().await, [1]);
        assert_eq!(ran.all(&kit.interlock).await, [1]);
    });
}

#[test]
fn hooks_of_dropped_savepoint_do_not_run() {
    test(async |kit| {
        for goes_on in [true, false] {
            let ran = Ran::default();
            let own = ran.clone();
            let handler = move |mut tx: Tx| async move {
                let mut savepoint = tx.savepoint().await?;
                savepoint.after_commit(own.hook(1));
                drop(savepoint);
                if goes_on {
                    note(&mut tx, 1).await?;
                }
                Ok::<_, Error>("ok")
            };
            let interlock = Interlock::new(kit.pool.clone());
            let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
            assert_eq!(response.status, 200);
            let ran = ran.all(&interlock).await;
            assert!(ran.is_empty(), "followed by a statement: {goes_on}");
        }
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn hooks_of_released_savepoint_survive_later_rollback() {
    test(async |kit| {
        let ran = Ran::default();
        let own = ran.clone();
        let handler = move |mut tx: Tx| async move {
            let mut savepoint = tx.savepoint().await?;
            savepoint.after_commit(own.hook(1));
            savepoint.release().await?;
            let mut savepoint = tx.savepoint().await?;
            savepoint.after_commit(own.hook(2));
            savepoint.rollback().await?;
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.notes().await, [1]);
        assert_eq!(ran.all(&kit.interlock).await, [1]);
    });
}

#[test]
fn panic_in_hook_does_not_stop_next_hook() {
    test(async |kit| {
        let ran = Ran::default();
        let own = ran.clone();
        let handler = move |mut tx: Tx| async move {
            tx.after_commit(own.hook(1));
            tx.after_commit(async { panic!("on purpose") });
            tx.after_commit(own.hook(2));
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(ran.all(&kit.interlock).await, [1, 2]);
    });
}

#[test]
fn hook_may_call_the_service() {
    // The hook needs the only connection, so the committed transaction must have released it.
    test_with_pool(1, async |kit| {
        let (send, done) = oneshot::channel();
        let send = Arc::new(Mutex::new(Some(send)));
        let second = guarded(kit.interlock.require(anyone), async |mut tx: Tx| {
            note(&mut tx, 2).await?;
            Ok::<_, Error>("ok")
        });
        let handler = move |mut tx: Tx| async move {
            let send = send.lock().unwrap().take().unwrap();
            tx.after_commit(async move {
                let response = put(&second, "/1", "").await;
                send.send(response.status).unwrap();
            });
            note(&mut tx, 1).await?;
            Ok::<_, Error>("ok")
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        let done = tokio::time::timeout(Duration::from_secs(10), done).await;
        assert_eq!(done.unwrap().unwrap(), 200);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}
