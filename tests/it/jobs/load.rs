//! Ten thousand jobs under random faults.

use std::{collections::BTreeMap, time::Duration};

use support::{Fault, Moment, Proxy, ServerError, drop_after};
use tower_interlock::{
    Error, Interlock, Tx,
    jobs::{Job, RunningJob, Worker},
};

use super::{act, ended, is_any_live, jobs_test, live, read, until, work_off, worker, write};
use crate::kit::Kit;

const JOBS: i64 = 10_000;
const WORKERS: usize = 3;

/// Enqueues jobs of user 1 and user 2, of whom only the first one has a grant.
async fn fill(kit: &Kit) {
    for hundred in 0..JOBS / 100 {
        let user = if hundred % 10 == 9 { "2" } else { "1" };
        let filled = kit
            .interlock
            .transaction()
            .principal(user)
            .run(async |mut tx: Tx| {
                for item in hundred * 100..(hundred + 1) * 100 {
                    // Every thousandth one is poisoned.
                    let job = match item % 1000 {
                        500 => Job::new("act", "poison"),
                        _ => Job::new("act", item),
                    };
                    tx.enqueue(job).await?;
                }
                Ok::<_, Error>(())
            });
        filled.await.unwrap();
    }
}

fn random_fault() -> (Moment, Fault) {
    let moments = [
        Moment::Begin,
        Moment::Statement(1),
        Moment::Statement(2),
        Moment::Statement(3),
        Moment::Commit,
        Moment::Rollback,
        Moment::Text("SET runs = runs + 1"),
        Moment::Text("FROM unnest"),
        Moment::Text("SET live = NULL"),
        Moment::Text("SET leased = false"),
    ];
    let faults = [
        Fault::CutBefore,
        Fault::CutSent,
        Fault::CutAfter,
        Fault::Delay(Duration::from_millis(50)),
        Fault::Reject(ServerError::RESTART),
        Fault::Misreport(ServerError::RESTART),
        Fault::Terminate(ServerError::SHUTDOWN),
        Fault::Misreport(ServerError::AMBIGUOUS),
    ];
    loop {
        let moment = moments[fastrand::usize(..moments.len())].clone();
        let fault = faults[fastrand::usize(..faults.len())].clone();
        // A server that reports a failure has not done it.
        let lies = matches!(&fault, Fault::Misreport(error) if *error == ServerError::RESTART);
        let is_ambiguous =
            matches!(&fault, Fault::Misreport(error) if *error == ServerError::AMBIGUOUS);
        if !lies && (!is_ambiguous || moment == Moment::Commit) {
            return (moment, fault);
        }
    }
}

fn impatient(interlock: &Interlock) -> Worker {
    // Some handlers fail by themselves.
    let handler = async |job: RunningJob<i64>, tx: Tx| {
        if fastrand::u8(..) == 0 {
            return Err(Error::not_found());
        }
        assert_ne!(fastrand::u16(..2_000), 0, "a panic");
        act(job, tx).await
    };
    let one = worker(interlock).on("act", handler).max_runs(1_000);
    one.lease(Duration::from_millis(1_500)).concurrency(4)
}

/// One worker after the other, each aborted after a while.
async fn crashing_worker(kit: &Kit, proxy: &Proxy) {
    let pool = Interlock::pool_options()
        .max_connections(6)
        .connect_lazy_with(proxy.options());
    let interlock = Interlock::builder(pool.clone())
        .jobs()
        .grace(Duration::from_millis(300))
        .build();
    until(async || {
        let polls = 200 + fastrand::i64(..2_000);
        let stop = until(async || !is_any_live(kit).await);
        let ended = drop_after(polls, impatient(&interlock).run(stop)).await;
        ended.is_some()
    })
    .await;
    proxy.relent();
    interlock.drain().await;
    pool.close().await;
}

#[test]
fn ten_thousand_jobs_under_random_faults_are_done_once_or_refused_with_their_reason() {
    jobs_test(async |kit| {
        fill(&kit).await;
        let proxy = Proxy::start(&kit.database);
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| crashing_worker(&kit, &proxy))
            .collect();
        let workers = futures::future::join_all(workers);
        let striking = async {
            loop {
                let (moment, fault) = random_fault();
                // One at a time: if those that wait for their moment added up, a slow machine
                // would meet one at each statement.
                proxy.relent();
                proxy.inject(moment, fault);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // For a while user 1 has no permission: what runs then is denied.
        let revoking = async {
            until(async || live(&kit).await < JOBS * 9 / 10).await;
            write(&kit, &["DELETE FROM grants"]).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            write(&kit, &["INSERT INTO grants VALUES (1, 1)"]).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = workers => {}
            () = striking => {}
            () = revoking => {}
        }
        work_off(&kit, [worker(&kit.interlock)]).await;
        assert_accounted(&kit, &proxy).await;
    });
}

/// Each job is there exactly once: as an effect, or as a row with a reason.
async fn assert_accounted(kit: &Kit, proxy: &Proxy) {
    let done = super::effects(kit).await;
    let mut reasons: BTreeMap<String, i64> = BTreeMap::new();
    for (how, reason, _) in ended(kit).await {
        *reasons.entry(format!("{how}: {reason}")).or_default() += 1;
    }
    let runs = read(
        kit,
        "SELECT coalesce(sum(runs), 0)::INT8 FROM interlock_jobs",
    )
    .await;
    println!(
        "{} done, {reasons:?}, {} faults, {runs:?} runs of ended jobs",
        done.len(),
        proxy.counts().faults
    );
    let refused = "SELECT payload::TEXT::INT8 FROM interlock_jobs WHERE ended = 'denied'";
    let mut all = done.clone();
    let denied = read(kit, refused).await;
    all.extend(&denied);
    all.sort_unstable();
    let expected: Vec<_> = (0..JOBS).filter(|item| item % 1000 != 500).collect();
    assert_eq!(all, expected);
    assert!(
        done.iter().all(|item| item / 100 % 10 != 9),
        "user 2 has acted"
    );
    let poisoned = "SELECT count(*) FROM interlock_jobs WHERE ended = 'parked'";
    assert_eq!(super::number(kit, poisoned).await, JOBS / 1000);
    let without = "SELECT count(*) FROM interlock_jobs WHERE ended IS NOT NULL AND reason IS NULL";
    assert_eq!(super::number(kit, without).await, 0);
    assert!(!denied.is_empty() && proxy.counts().faults > 50);
}
