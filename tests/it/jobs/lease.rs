//! The lease, and the clock that it depends on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use support::{Fault, Moment, Proxy};
use tokio::sync::Notify;
use tower_interlock::{
    Backoff, Error, Interlock, Tx,
    jobs::{RunningJob, Worker},
    observe::JobEnd,
};

use super::{
    act, acting, add_effect, builder, effects, ended, enqueue, jobs_test, live, number, until,
    work_off, worker, write,
};
use crate::kit::{Kit, Recorder};

/// A worker whose first run is held after its effect, and before its end.
fn held(worker: Worker, reached: &Arc<Notify>, release: &Arc<Notify>) -> Worker {
    let (reached, release) = (Arc::clone(reached), Arc::clone(release));
    worker.on("act", move |job: RunningJob<i64>, mut tx: Tx| {
        let (reached, release) = (Arc::clone(&reached), Arc::clone(&release));
        async move {
            add_effect(&mut tx, *job.payload()).await?;
            if (job.run(), tx.attempt()) == (1, 1) {
                reached.notify_one();
                release.notified().await;
            }
            Ok::<_, Error>(())
        }
    })
}

/// Runs one job whose first run is held, meanwhile `change`, and then the rest. Returns how the runs
/// of the held worker have ended.
async fn with_held_run(kit: &Kit, change: impl AsyncFnOnce()) -> Vec<JobEnd> {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let recorder = Recorder::default();
    let observed = builder(kit).observe(recorder.clone()).build();
    enqueue(&kit.interlock, acting(1)).await;
    let stop = Arc::new(Notify::new());
    // One claim, at the start: it takes no other job, nor this one again.
    let first = held(worker(&observed), &reached, &release).poll_interval(Duration::from_secs(600));
    let first = first.run(stop.notified());
    let second = async {
        reached.notified().await;
        stop.notify_one();
        change().await;
        release.notify_one();
    };
    let (ended, ()) = tokio::join!(first, second);
    ended.unwrap();
    work_off(kit, [held(worker(&kit.interlock), &reached, &release)]).await;
    recorder
        .take_ends()
        .into_iter()
        .map(|(end, _)| end)
        .collect()
}

/// The clock of the database jumps forward.
const END_LEASE: &str = "UPDATE interlock_jobs SET run_at = now() - INTERVAL '1 hour'";

/// The clock of the database jumps forward: the lease of a job that is running ends. Without the
/// token, both runs would commit.
#[test]
fn lease_that_ends_in_mid_work_is_taken_over_and_the_late_run_keeps_nothing() {
    jobs_test(async |kit| {
        let ends = with_held_run(&kit, async || {
            write(&kit, &[END_LEASE]).await;
            work_off(&kit, [worker(&kit.interlock)]).await;
        })
        .await;
        assert_eq!(ends, [JobEnd::LeaseLost]);
        assert_eq!(effects(&kit).await, [1]);
    });
}

/// The lease ended, and no other worker has come.
#[test]
fn lease_that_ended_unnoticed_does_no_harm() {
    jobs_test(async |kit| {
        let ends = with_held_run(&kit, async || {
            write(&kit, &[END_LEASE]).await;
        })
        .await;
        assert_eq!(ends, [JobEnd::Done]);
        assert_eq!(effects(&kit).await, [1]);
    });
}

#[test]
fn clock_that_jumps_back_delays_jobs_only() {
    jobs_test(async |kit| {
        let ends = with_held_run(&kit, async || {
            let jump = "UPDATE interlock_jobs SET run_at = run_at + INTERVAL '10 years'";
            write(&kit, &[jump]).await;
        })
        .await;
        assert_eq!(ends, [JobEnd::Done]);
        assert_eq!(effects(&kit).await, [1]);
    });
}

/// An operator deletes the row by hand, as if another worker had done the job.
#[test]
fn job_that_is_deleted_while_it_runs_keeps_nothing() {
    jobs_test(async |kit| {
        let ends = with_held_run(&kit, async || {
            write(&kit, &["DELETE FROM interlock_jobs"]).await;
        })
        .await;
        assert_eq!(ends, [JobEnd::LeaseLost]);
        assert_eq!(effects(&kit).await, [0; 0]);
    });
}

#[test]
fn slow_run_is_cancelled_when_its_lease_ends() {
    jobs_test(async |kit| {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let handler = move |_: RunningJob<i64>, mut tx: Tx| {
            let counted = Arc::clone(&counted);
            async move {
                add_effect(&mut tx, 1).await?;
                counted.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<Result<(), Error>>().await
            }
        };
        enqueue(&kit.interlock, acting(1)).await;
        let slow = worker(&kit.interlock).on("act", handler);
        work_off(&kit, [slow.lease(Duration::from_secs(2)).max_runs(2)]).await;
        assert_eq!(runs.load(Ordering::SeqCst), 2);
        assert_eq!(effects(&kit).await, [0; 0]);
        let ended = ended(&kit).await;
        assert!(ended[0].1.starts_with("DeadlineExceeded"), "{ended:?}");
    });
}

/// If its deadline was the end of its lease, the next run would begin before its end is recorded.
#[test]
fn run_that_is_cancelled_is_followed_by_its_backoff() {
    jobs_test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
        let interlock = Interlock::builder(pool).jobs().build();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let slow = move |_: RunningJob<i64>, _: Tx| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<Result<(), Error>>()
        };
        enqueue(&kit.interlock, acting(1)).await;
        let hour = Duration::from_secs(3_600);
        let slow = worker(&interlock)
            .on("act", slow)
            .backoff(Backoff::new(hour, hour));
        let recording = Moment::Text("SET leased = false");
        proxy.inject(recording, Fault::Delay(Duration::from_millis(200)));
        let recorded = "SELECT count(*) FROM interlock_jobs WHERE reason IS NOT NULL";
        let recorded =
            until(async || number(&kit, recorded).await == 1 || runs.load(Ordering::SeqCst) > 1);
        slow.lease(Duration::from_secs(8))
            .run(recorded)
            .await
            .unwrap();
        assert_eq!(proxy.counts().faults, 1);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn shutdown_waits_for_the_run_and_takes_no_other_job() {
    jobs_test(async |kit| {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        enqueue(&kit.interlock, acting(1)).await;
        let stop = Arc::new(Notify::new());
        let one = held(worker(&kit.interlock), &reached, &release).concurrency(1);
        let mut running = Box::pin(one.run(stop.notified()));
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            () = reached.notified() => {}
        }
        enqueue(&kit.interlock, acting(2)).await;
        stop.notify_one();
        let waited = tokio::time::timeout(Duration::from_millis(200), &mut running).await;
        assert!(waited.is_err(), "it has not waited");
        release.notify_one();
        running.await.unwrap();
        assert_eq!((effects(&kit).await, live(&kit).await), (vec![1], 1));
    });
}

#[test]
fn drain_waits_for_the_run_and_ends_the_worker() {
    jobs_test(async |kit| {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        enqueue(&kit.interlock, acting(1)).await;
        let one = held(worker(&kit.interlock), &reached, &release).concurrency(1);
        let running = tokio::spawn(one.run(std::future::pending()));
        reached.notified().await;
        let mut draining = Box::pin(kit.interlock.drain());
        let waited = tokio::time::timeout(Duration::from_millis(200), &mut draining).await;
        assert!(waited.is_err(), "it has not waited");
        release.notify_one();
        draining.await;
        running.await.unwrap().unwrap();
        assert_eq!((effects(&kit).await, live(&kit).await), (vec![1], 0));
    });
}

/// A run that is dropped leaves its job leased.
#[test]
fn aborted_worker_keeps_nothing_and_its_job_is_taken_over() {
    jobs_test(async |kit| {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        enqueue(&kit.interlock, acting(1)).await;
        let short = Duration::from_millis(400);
        let one = held(worker(&kit.interlock).lease(short), &reached, &release);
        let running = tokio::spawn(one.run(std::future::pending()));
        reached.notified().await;
        running.abort();
        let leased = "SELECT count(*) FROM interlock_jobs WHERE leased";
        until(async || number(&kit, leased).await == 1).await;
        work_off(&kit, [worker(&kit.interlock)]).await;
        assert_eq!(effects(&kit).await, [1]);
    });
}

/// The worker would look again in an hour.
#[test]
fn drain_ends_an_idle_worker_at_once() {
    jobs_test(async |kit| {
        let idle = worker(&kit.interlock).poll_interval(Duration::from_secs(3600));
        let running = tokio::spawn(idle.run(std::future::pending()));
        enqueue(&kit.interlock, acting(1)).await;
        until(async || effects(&kit).await == [1]).await;
        kit.interlock.drain().await;
        let ended = tokio::time::timeout(Duration::from_secs(10), running).await;
        ended.expect("it has not ended").unwrap().unwrap();
    });
}

/// The look at the queue is under way when `drain` is called.
#[test]
fn no_job_begins_once_drain_is_over() {
    jobs_test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
        let interlock = Interlock::builder(pool).jobs().build();
        for item in 1..=4 {
            enqueue(&kit.interlock, acting(item)).await;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let handler = {
            let is_over = Arc::clone(&is_over);
            move |job: RunningJob<i64>, tx: Tx| {
                assert!(!is_over.load(Ordering::SeqCst), "a job has begun");
                act(job, tx)
            }
        };
        proxy.inject(
            Moment::Text("FROM unnest"),
            Fault::Delay(Duration::from_millis(300)),
        );
        let running = worker(&interlock)
            .on("act", handler)
            .run(std::future::pending());
        let running = tokio::spawn(running);
        until(async || proxy.counts().faults == 1).await;
        interlock.drain().await;
        is_over.store(true, Ordering::SeqCst);
        running.await.unwrap().unwrap();
        assert_eq!(
            number(&kit, "SELECT count(*) FROM interlock_jobs WHERE leased").await,
            0
        );
        assert_eq!(
            number(
                &kit,
                "SELECT count(*) FROM interlock_jobs WHERE reason IS NOT NULL"
            )
            .await,
            0
        );
    });
}
