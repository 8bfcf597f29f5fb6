//! `drain` waits for the work that was accepted, and for the work that it begins.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tower_interlock::{Condition, ConditionalWrite, Error, ErrorKind, Interlock, Tx};

use super::cause;
use crate::kit::{anyone, conflict_once, guarded, note, put, test};

static WRITE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET version = version + 1 WHERE id = 1 AND {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
    )],
);

async fn write(interlock: &Interlock) -> Result<(), Error> {
    WRITE.unbound().execute(interlock).await?;
    Ok(())
}

async fn drain(interlock: &Interlock) {
    let drained = timeout(Duration::from_secs(10), interlock.drain()).await;
    drained.expect("drain does not end");
}

#[test]
fn conditional_write_of_a_hook_is_made_during_drain() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let made = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&made);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            tx.after_commit(async move {
                sleep(Duration::from_millis(300)).await;
                tell.store(write(&interlock).await.is_ok(), Ordering::SeqCst);
            });
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        drain(&kit.interlock).await;
        assert!(made.load(Ordering::SeqCst), "the hook's write was rejected");
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![1]));
    });
}

/// Hooks run one after the other, each in a task of its own.
#[test]
fn conditional_write_of_a_later_hook_is_made_during_drain() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            tx.after_commit(sleep(Duration::from_millis(300)));
            for _ in 0..2 {
                let interlock = interlock.clone();
                tx.after_commit(async move { drop(write(&interlock).await) });
            }
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        drain(&kit.interlock).await;
        assert_eq!(kit.version(1).await, 2);
    });
}

#[test]
fn conditional_write_of_an_accepted_request_is_made_during_drain() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let started = Arc::new(Notify::new());
        let start = Arc::clone(&started);
        let handler = async move |mut tx: Tx| {
            start.notify_one();
            sleep(Duration::from_millis(300)).await;
            write(&interlock).await?;
            Ok::<_, Error>(note(&mut tx, 1).await?)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let request = tokio::spawn(async move { put(&app, "/1", "").await });
        started.notified().await;
        drain(&kit.interlock).await;
        let response = request.await.unwrap();
        assert_eq!(response.status, 200, "{}", cause(&response));
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![1]));
    });
}

#[test]
fn conditional_write_of_an_accepted_requests_policy_is_made_during_drain() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let started = Arc::new(Notify::new());
        let start = Arc::clone(&started);
        let policy = async move || {
            start.notify_one();
            sleep(Duration::from_millis(300)).await;
            write(&interlock).await
        };
        let app = guarded(kit.interlock.require(policy), async || ());
        let request = tokio::spawn(async move { put(&app, "/1", "").await });
        started.notified().await;
        drain(&kit.interlock).await;
        let response = request.await.unwrap();
        assert_eq!(response.status, 200, "{}", cause(&response));
        assert_eq!(kit.version(1).await, 1);
    });
}

/// The hook begins a request and a transaction, whose own hook makes a conditional write.
#[test]
fn transactions_and_requests_of_a_hook_are_made_during_drain() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let inner = guarded(kit.interlock.require(anyone), async |mut tx: Tx| {
            Ok::<_, Error>(note(&mut tx, 2).await?)
        });
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            tx.after_commit(async move {
                sleep(Duration::from_millis(300)).await;
                assert_eq!(put(&inner, "/1", "").await.status, 200);
                let own = interlock.clone();
                let work = async |mut tx: Tx| {
                    let own = own.clone();
                    tx.after_commit(async move { write(&own).await.unwrap() });
                    Ok::<_, Error>(note(&mut tx, 3).await?)
                };
                interlock.transact(work).await.unwrap();
            });
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        drain(&kit.interlock).await;
        assert_eq!(kit.notes().await, [1, 2, 3]);
        assert_eq!(kit.version(1).await, 1);
    });
}

/// Work that one interlock has accepted is new to another one.
#[test]
fn work_on_another_interlock_that_is_drained_is_rejected() {
    test(async |kit| {
        let other = Interlock::new(kit.outside.clone());
        other.drain().await;
        let handler = async move |mut tx: Tx| {
            let rejected = write(&other).await.unwrap_err();
            assert_eq!(rejected.kind(), ErrorKind::Unavailable);
            Ok::<_, Error>(note(&mut tx, 1).await?)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        assert_eq!((kit.version(1).await, kit.notes().await), (0, vec![1]));
    });
}

#[test]
fn accepted_request_runs_again_during_drain() {
    test(async |kit| {
        let started = Arc::new(Notify::new());
        let (start, outside) = (Arc::clone(&started), kit.outside.clone());
        let handler = async move |mut tx: Tx| {
            start.notify_one();
            sleep(Duration::from_millis(300)).await;
            conflict_once(&mut tx, &outside).await?;
            Ok::<_, Error>(note(&mut tx, 1).await?)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let request = tokio::spawn(async move { put(&app, "/1", "").await });
        started.notified().await;
        drain(&kit.interlock).await;
        let response = request.await.unwrap();
        assert_eq!(
            (response.status.as_u16(), response.report().attempts()),
            (200, 2)
        );
        assert_eq!(kit.notes().await, [1]);
    });
}

/// New work is rejected, also while a hook is still running.
#[test]
fn new_conditional_write_is_rejected_during_drain() {
    test(async |kit| {
        let (release, released) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let wait = Arc::clone(&release);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            tx.after_commit(async move { wait.notified().await });
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        let draining = kit.interlock.clone();
        let told = Arc::clone(&released);
        let draining = tokio::spawn(async move {
            draining.drain().await;
            told.notify_one();
        });
        sleep(Duration::from_millis(100)).await;
        let rejected = write(&kit.interlock).await.unwrap_err();
        assert_eq!(rejected.kind(), ErrorKind::Unavailable, "{rejected:?}");
        put(&app, "/1", "")
            .await
            .assert_problem(ErrorKind::Unavailable);
        release.notify_one();
        released.notified().await;
        draining.await.unwrap();
        assert_eq!(kit.version(1).await, 0);
    });
}
