//! Several workers on one queue.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::sync::Barrier;
use tower_interlock::{
    Error, Interlock, Tx,
    jobs::{Job, RunningJob},
};

use super::{act, effects, ended, jobs_test, work_off, worker};
use crate::kit::{Kit, pool};

const JOBS: i64 = 400;

async fn fill(interlock: &Interlock, jobs: i64) {
    let filled = interlock
        .transaction()
        .principal("1")
        .run(async |mut tx: Tx| {
            for item in 0..jobs {
                tx.enqueue(Job::new("act", item)).await?;
            }
            Ok::<_, Error>(())
        });
    filled.await.unwrap();
}

/// Workers as in processes of their own: each has a pool.
async fn run_workers(kit: &Kit, workers: usize) {
    fill(&kit.interlock, JOBS).await;
    let busy = Arc::new(Mutex::new(BTreeSet::new()));
    // Else a worker that starts late on a busy machine would find nothing left.
    let all_busy = Arc::new(Barrier::new(workers));
    let pools: Vec<_> = (0..workers).map(|_| pool(&kit.database, 3)).collect();
    let all = pools.iter().enumerate().map(|(number, pool)| {
        let (busy, all_busy) = (Arc::clone(&busy), Arc::clone(&all_busy));
        let interlock = Interlock::builder(pool.clone()).jobs().build();
        worker(&interlock)
            .concurrency(2)
            .on("act", move |job: RunningJob<i64>, tx: Tx| {
                let is_first = busy.lock().unwrap().insert(number);
                let all_busy = Arc::clone(&all_busy);
                async move {
                    if is_first {
                        all_busy.wait().await;
                    }
                    act(job, tx).await
                }
            })
    });
    work_off(kit, all).await;
    assert_eq!(effects(kit).await, (0..JOBS).collect::<Vec<_>>());
    assert_eq!(ended(kit).await, []);
    assert_eq!(busy.lock().unwrap().len(), workers);
    for pool in pools {
        pool.close().await;
    }
}

#[test]
fn two_workers_do_each_job_once() {
    jobs_test(async |kit| run_workers(&kit, 2).await);
}

#[test]
fn eight_workers_do_each_job_once() {
    jobs_test(async |kit| run_workers(&kit, 8).await);
}

#[test]
fn no_more_jobs_run_at_a_time_than_the_worker_may() {
    jobs_test(async |kit| {
        fill(&kit.interlock, 20).await;
        let (running, most) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let handler = {
            let most = Arc::clone(&most);
            move |job: RunningJob<i64>, tx: Tx| {
                let (running, most) = (Arc::clone(&running), Arc::clone(&most));
                async move {
                    let now = {
                        let mut running = running.lock().unwrap();
                        *running += 1;
                        *running
                    };
                    let seen = &mut *most.lock().unwrap();
                    *seen = now.max(*seen);
                    let _ = seen;
                    let acted = async {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        act(job, tx).await
                    };
                    let acted = Box::pin(acted);
                    Ok::<_, Error>((acted, running))
                }
            }
        };
        let handler = move |job: RunningJob<i64>, tx: Tx| {
            let started = handler(job, tx);
            async move {
                let (acting, running) = started.await?;
                let acted = acting.await;
                *running.lock().unwrap() -= 1;
                acted
            }
        };
        work_off(
            &kit,
            [worker(&kit.interlock).concurrency(3).on("act", handler)],
        )
        .await;
        assert_eq!(effects(&kit).await.len(), 20);
        assert!((2..=3).contains(&*most.lock().unwrap()));
    });
}
