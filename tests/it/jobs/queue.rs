//! The queue as an operator sees it.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tower_interlock::{
    Error, Tx,
    jobs::{Job, JobEnding, JobId, KindState, RunningJob},
};

use super::{acting, enqueue, enqueue_as, jobs_test, live, work_off, worker, write};
use crate::kit::Kit;

/// The numbers of a state, without the lag.
fn numbers(state: &KindState) -> (&str, [u64; 5]) {
    let counts = [
        state.due,
        state.waiting,
        state.running,
        state.parked,
        state.denied,
    ];
    (&state.kind, counts)
}

async fn state(kit: &Kit) -> Vec<KindState> {
    kit.interlock.jobs().state().await.unwrap()
}

#[test]
fn state_counts_each_job_once() {
    jobs_test(async |kit| {
        assert_eq!(state(&kit).await, []);
        enqueue(&kit.interlock, || Job::new("act", "text")).await;
        enqueue_as(&kit.interlock, "2", acting(1)).await;
        work_off(&kit, [worker(&kit.interlock)]).await;
        enqueue(&kit.interlock, acting(1)).await;
        enqueue(&kit.interlock, acting(2)).await;
        enqueue(&kit.interlock, || {
            Job::new("act", 3).after(Duration::from_secs(60))
        })
        .await;
        enqueue(&kit.interlock, || Job::new("other", 3)).await;
        write(&kit, &["UPDATE interlock_jobs SET run_at = run_at - INTERVAL '90 seconds' WHERE kind = 'other'"]).await;

        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let held = {
            let (reached, release) = (Arc::clone(&reached), Arc::clone(&release));
            move |_: RunningJob<i64>, _: Tx| {
                let (reached, release) = (Arc::clone(&reached), Arc::clone(&release));
                async move {
                    reached.notify_one();
                    release.notified().await;
                    Ok::<_, Error>(())
                }
            }
        };
        let stop = Arc::new(Notify::new());
        let one = worker(&kit.interlock).on("act", held).concurrency(1);
        let looking = async {
            reached.notified().await;
            let state = state(&kit).await;
            stop.notify_one();
            release.notify_one();
            state
        };
        let (ended, state) = tokio::join!(one.run(stop.notified()), looking);
        ended.unwrap();
        let seen: Vec<_> = state.iter().map(numbers).collect();
        assert_eq!(seen, [("act", [1, 1, 1, 1, 1]), ("other", [1, 0, 0, 0, 0])]);
        assert!(state[1].lag >= Duration::from_secs(90) && state[0].lag < Duration::from_secs(60));
    });
}

#[test]
fn ended_jobs_are_listed_and_discarded() {
    jobs_test(async |kit| {
        for item in ["a", "b", "c"] {
            enqueue(&kit.interlock, move || Job::new("act", item)).await;
            work_off(&kit, [worker(&kit.interlock)]).await;
        }
        let jobs = kit.interlock.jobs();
        let ended = jobs.ended(2).await.unwrap();
        let payloads: Vec<_> = ended.iter().map(|job| job.payload.as_str()).collect();
        assert_eq!(payloads, [r#""c""#, r#""b""#]);
        assert!(
            ended
                .iter()
                .all(|job| job.ending == JobEnding::Parked && job.runs == 1)
        );
        assert!(ended.iter().all(|job| job.age < Duration::from_secs(60)));
        assert_eq!(
            jobs.discard_older(Duration::from_secs(3600)).await.unwrap(),
            0
        );
        assert!(jobs.discard(ended[0].id).await.unwrap());
        assert_eq!(jobs.discard_older(Duration::ZERO).await.unwrap(), 2);
        assert_eq!(jobs.ended(9).await.unwrap(), []);
        assert_eq!(jobs.discard_older(Duration::MAX).await.unwrap(), 0);
    });
}

#[test]
fn live_job_is_neither_retried_nor_discarded() {
    jobs_test(async |kit| {
        let job = enqueue(&kit.interlock, acting(1)).await.id();
        let jobs = kit.interlock.jobs();
        assert!(!jobs.retry(job).await.unwrap());
        assert!(!jobs.discard(job).await.unwrap());
        assert_eq!(jobs.discard_older(Duration::ZERO).await.unwrap(), 0);
        assert_eq!(live(&kit).await, 1);
        let missing: JobId = "00000000-0000-4000-8000-000000000000".parse().unwrap();
        assert!(!jobs.discard(missing).await.unwrap());
    });
}
