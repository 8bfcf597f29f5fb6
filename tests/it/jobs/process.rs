//! A job that kills its process.

use std::{process::Command, time::Duration};

use tower_interlock::{
    Error, Interlock, Tx,
    jobs::{Job, RunningJob},
};

use super::{
    act, acting, add_effect, effects, ended, enqueue, jobs_test, number, work_off, worker,
};

const URL: &str = "TOWER_INTERLOCK_JOBS_CHILD";

/// Runs a worker that aborts its process in the middle of a job.
#[test]
#[ignore = "the child of job_that_kills_its_process_is_parked_and_the_others_are_done"]
fn child() {
    let Ok(url) = std::env::var(URL) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pool = Interlock::pool_options().connect_lazy(&url).unwrap();
        let interlock = Interlock::builder(pool).jobs().build();
        let kill = async |_: RunningJob<i64>, mut tx: Tx| {
            add_effect(&mut tx, -1).await?;
            std::process::abort();
            #[allow(unreachable_code, reason = "it gives the closure its type")]
            Ok::<_, Error>(())
        };
        let killed = worker(&interlock)
            .on("kill", kill)
            .lease(LEASE)
            .max_runs(RUNS);
        killed.run(std::future::pending()).await.unwrap();
    });
}

const LEASE: Duration = Duration::from_millis(500);
const RUNS: u32 = 2;

/// Counted when it ends, the run would not count, and the job would kill one process after another.
#[test]
fn job_that_kills_its_process_is_parked_and_the_others_are_done() {
    jobs_test(async |kit| {
        enqueue(&kit.interlock, || Job::new("kill", 1)).await;
        for _ in 0..RUNS {
            let due = "SELECT count(*) FROM interlock_jobs WHERE live AND run_at <= now()";
            super::until(async || number(&kit, due).await == 1).await;
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["jobs::process::child", "--exact", "--ignored"]);
            let url = kit.database.url();
            let run = move || child.env(URL, url).output().unwrap();
            let output = tokio::task::spawn_blocking(run).await.unwrap();
            assert!(!output.status.success(), "{output:?}");
        }
        enqueue(&kit.interlock, acting(1)).await;
        let careful = worker(&kit.interlock).on("kill", act).max_runs(RUNS);
        work_off(&kit, [careful]).await;
        let effects = effects(&kit).await;
        assert_eq!(effects, [1]);
        let ended = ended(&kit).await;
        // The claim that has parked it is one, too.
        assert_eq!((ended.len(), ended[0].2), (1, 3));
        assert!(ended[0].1.starts_with("too many runs"), "{ended:?}");
    });
}
