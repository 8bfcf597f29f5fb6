//! A worker that loses its database, or is aborted, at each step.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use support::{Fault, Kind, Moment, Proxy, ServerError, drop_after};
use tower_interlock::{
    Error, Interlock, Receipts, Tx,
    jobs::{Job, RunningJob, Worker},
    observe::JobEnd,
    schema::RECEIPTS,
};

use super::{acting, effects, ended, enqueue, jobs_test, live, work_off, worker, write};
use crate::kit::{Kit, Recorder};

/// The steps of a run, by what is sent.
fn steps() -> [(&'static str, Moment); 9] {
    [
        ("look", Moment::Text("FROM unnest")),
        ("claim", Moment::Text("SET runs = runs + 1")),
        ("begin", Moment::Begin),
        ("rule", Moment::Text("FROM grants")),
        ("effect", Moment::Text("INTO effects")),
        ("finish", Moment::Text("DELETE FROM")),
        ("commit", Moment::Commit),
        ("retry later", Moment::Text("SET leased = false")),
        ("end", Moment::Text("SET live = NULL")),
    ]
}

fn faults() -> [Fault; 5] {
    [
        Fault::CutBefore,
        Fault::CutSent,
        Fault::CutAfter,
        Fault::Swallow,
        Fault::Stall,
    ]
}

/// A worker with a short lease on a pool behind the proxy.
fn behind(proxy: &Proxy) -> (Interlock, sqlx::PgPool) {
    let pool = Interlock::pool_options()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(2))
        .connect_lazy_with(proxy.options());
    let interlock = Interlock::builder(pool.clone())
        .jobs()
        .grace(Duration::from_millis(300))
        .build();
    (interlock, pool)
}

fn short(worker: Worker) -> Worker {
    worker.lease(Duration::from_millis(700))
}

/// Jobs 1 to 3 are done. Job 4 fails in its first run. Job 5 is denied.
fn mixed(worker: Worker) -> Worker {
    worker.on("act", async |job: RunningJob<i64>, mut tx: Tx| {
        let item = *job.payload();
        if item == 4 && job.run() == 1 {
            return Err(Error::not_found());
        }
        if item == 5 {
            return Err(tower_interlock::Denied::new("five").into());
        }
        super::may_act(&mut tx, job.principal()?).await?;
        super::add_effect(&mut tx, item).await?;
        Ok(())
    })
}

async fn survives(kit: &Kit, step: &str, moment: Moment, fault: Fault) {
    let proxy = Proxy::start(&kit.database);
    let (interlock, pool) = behind(&proxy);
    for item in 1..=5 {
        enqueue(&kit.interlock, acting(item)).await;
    }
    proxy.inject(moment, fault.clone());
    work_off(kit, [short(mixed(worker(&interlock))).concurrency(2)]).await;
    let context = format!("{step} {fault:?}");
    assert_eq!(proxy.counts().faults, 1, "{context}");
    assert_eq!(effects(kit).await, [1, 2, 3, 4], "{context}");
    let ended = ended(kit).await;
    assert_eq!(ended.len(), 1, "{context}: {ended:?}");
    assert_eq!(
        (ended[0].0.as_str(), ended[0].1.as_str()),
        ("denied", "five"),
        "{context}"
    );
    proxy.cut();
    pool.close().await;
    write(kit, &["DELETE FROM effects", "DELETE FROM interlock_jobs"]).await;
}

/// With the row of the job deleted before or after its transaction, an effect is lost or doubled.
#[test]
fn worker_that_loses_its_database_at_any_step_does_each_job_once() {
    jobs_test(async |kit| {
        for (step, moment) in steps() {
            for fault in faults() {
                survives(&kit, step, moment.clone(), fault).await;
            }
        }
    });
}

async fn ends_of_lost_commit(kit: &Kit, fault: Fault, receipts: bool) -> Vec<JobEnd> {
    let proxy = Proxy::start(&kit.database);
    let recorder = Recorder::default();
    let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
    let mut builder = Interlock::builder(pool).jobs().observe(recorder.clone());
    if receipts {
        builder = builder.receipts(Receipts::new());
    }
    let interlock = builder.build();
    enqueue(&kit.interlock, acting(1)).await;
    proxy.inject(Moment::Commit, fault);
    work_off(kit, [worker(&interlock)]).await;
    assert_eq!(proxy.counts().faults, 1);
    assert_eq!(effects(kit).await, [1]);
    write(kit, &["DELETE FROM effects"]).await;
    interlock.drain().await;
    recorder
        .take_ends()
        .into_iter()
        .map(|(end, _)| end)
        .collect()
}

/// The row of the job is the receipt of its COMMIT: if it is gone, the job is done.
#[test]
fn unknown_commit_of_a_job_is_found_out() {
    jobs_test(async |kit| {
        kit.database.run(RECEIPTS).await;
        let ends = ends_of_lost_commit(&kit, Fault::CutAfter, false).await;
        assert_eq!(ends, [JobEnd::Done]);
        // PostgreSQL has rolled back if it reports an error (C4).
        if kit.database.kind() == Kind::CockroachDb {
            let ambiguous = Fault::Misreport(ServerError::AMBIGUOUS);
            let ends = ends_of_lost_commit(&kit, ambiguous, false).await;
            assert_eq!(ends, [JobEnd::Done]);
        }
        let ends = ends_of_lost_commit(&kit, Fault::CutBefore, false).await;
        assert_eq!(ends, [JobEnd::Failed, JobEnd::Done]);
        // With receipts the engine decides, and retries in the same run.
        for fault in [Fault::CutAfter, Fault::CutBefore] {
            assert_eq!(ends_of_lost_commit(&kit, fault, true).await, [JobEnd::Done]);
        }
    });
}

#[test]
fn worker_that_is_aborted_at_any_poll_does_each_job_once() {
    const POLLS: i64 = 30;
    const JOBS: i64 = 400;
    jobs_test(async |kit| {
        let times = POLLS * 2;
        for item in 0..JOBS {
            enqueue(&kit.interlock, acting(item)).await;
        }
        let aborted = stream::iter(0..times).map(|number| {
            let one = worker(&kit.interlock).concurrency(2);
            let one = one
                .lease(Duration::from_millis(300))
                .run(std::future::pending());
            drop_after(number % POLLS, one)
        });
        aborted.buffer_unordered(2).for_each(async |_| ()).await;
        let done = effects(&kit).await.len();
        println!("{done} of {JOBS} done by {times} aborted workers");
        let patient = worker(&kit.interlock).max_runs(1_000);
        work_off(&kit, [patient]).await;
        kit.interlock.drain().await;
        assert_eq!(effects(&kit).await, (0..JOBS).collect::<Vec<_>>());
        assert_eq!(ended(&kit).await, []);
    });
}

#[test]
fn worker_survives_a_database_that_is_not_there() {
    jobs_test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let (interlock, _pool) = behind(&proxy);
        proxy.inject_times(5, Moment::Connect, Fault::CutBefore);
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&interlock)]).await;
        assert_eq!(effects(&kit).await, [1]);
        assert!(proxy.counts().faults > 0);
    });
}

/// Claimed again at once, the database and the log would be flooded.
#[test]
fn claim_that_is_rejected_waits_for_the_next_poll() {
    jobs_test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let (interlock, _pool) = behind(&proxy);
        let denied = Fault::Reject(ServerError::error("42501", "permission denied"));
        proxy.inject_times(1_000, Moment::Text("SET runs = runs + 1"), denied);
        for item in 1..=8 {
            enqueue(&kit.interlock, acting(item)).await;
        }
        let polling = worker(&interlock).poll_interval(Duration::from_millis(100));
        let second = tokio::time::sleep(Duration::from_secs(1));
        polling.run(second).await.unwrap();
        let claims = proxy.counts().faults;
        assert!((2..=20).contains(&claims), "{claims} claims");
        proxy.relent();
        work_off(&kit, [worker(&interlock)]).await;
        assert_eq!(effects(&kit).await, (1..=8).collect::<Vec<_>>());
    });
}

/// Its claims would be SERIALIZABLE from then on, and fail each other.
#[test]
fn connection_whose_setting_was_rejected_is_not_kept() {
    jobs_test(async |kit| {
        // CockroachDB does without its setting.
        if kit.database.kind() == Kind::CockroachDb {
            return;
        }
        let proxy = Proxy::start(&kit.database);
        let (interlock, _pool) = behind(&proxy);
        let denied = Fault::Reject(ServerError::error("42501", "permission denied"));
        proxy.inject_times(2, Moment::Text("read committed"), denied);
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&interlock)]).await;
        assert_eq!(proxy.counts().faults, 2);
        assert_eq!(effects(&kit).await, [1]);
    });
}

/// The job and its request: COMMIT of the request is lost.
#[test]
fn job_of_a_request_with_an_unknown_outcome_exists_exactly_if_its_writes_do() {
    jobs_test(async |kit| {
        for (fault, stored) in [(Fault::CutAfter, 1), (Fault::CutBefore, 0)] {
            let proxy = Proxy::start(&kit.database);
            let (interlock, _pool) = behind(&proxy);
            proxy.inject(Moment::Commit, fault);
            let enqueued = interlock
                .transaction()
                .principal("1")
                .run(async |mut tx: Tx| {
                    tx.enqueue(Job::new("act", 1)).await?;
                    crate::kit::note(&mut tx, 1).await?;
                    Ok::<_, Error>(())
                });
            enqueued.await.unwrap_err();
            interlock.drain().await;
            assert_eq!(
                (live(&kit).await, kit.notes().await.len()),
                (stored, stored as usize)
            );
            work_off(&kit, [worker(&kit.interlock)]).await;
            assert_eq!(effects(&kit).await.len() as i64, stored);
            write(&kit, &["DELETE FROM effects", "DELETE FROM notes"]).await;
        }
    });
}
