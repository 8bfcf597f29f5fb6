//! The permission of a job holds when the job commits.

use tower_interlock::{
    Denied, Error, Tx,
    jobs::{Job, JobEnding, RunningJob},
    observe::JobEnd,
};

use super::{
    REVOKE, acting, add_effect, builder, effects, ended, enqueue, jobs_test, live, may_act,
    work_off, worker, write,
};
use crate::kit::{Kit, Recorder};

/// How far the job has come when the revocation commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Queued,
    Claimed,
    Checked,
    Written,
}

/// Runs a job, and revokes the permission in a gap of its first attempt.
async fn run_with_revocation(kit: &Kit, gap: Gap) {
    let handler = {
        let kit = kit.clone();
        move |job: RunningJob<i64>, mut tx: Tx| {
            let kit = kit.clone();
            async move {
                let revokes = |at| at == gap && tx.attempt() == 1;
                let (before, after_rule, after_write) = (
                    revokes(Gap::Claimed),
                    revokes(Gap::Checked),
                    revokes(Gap::Written),
                );
                if before {
                    write(&kit, REVOKE).await;
                }
                may_act(&mut tx, job.principal()?).await?;
                if after_rule {
                    write(&kit, REVOKE).await;
                }
                add_effect(&mut tx, *job.payload()).await?;
                if after_write {
                    write(&kit, REVOKE).await;
                }
                Ok::<_, Error>(())
            }
        }
    };
    enqueue(&kit.interlock, acting(1)).await;
    if gap == Gap::Queued {
        write(kit, REVOKE).await;
    }
    work_off(kit, [worker(&kit.interlock).on("act", handler)]).await;
}

/// The revocation has seen no effect, so there must be none after it. A check before the
/// transaction, or at READ COMMITTED, leaves one in the last two gaps.
#[test]
fn revocation_in_any_gap_is_respected() {
    for gap in [Gap::Queued, Gap::Claimed, Gap::Checked, Gap::Written] {
        jobs_test(async |kit| {
            run_with_revocation(&kit, gap).await;
            assert_eq!(effects(&kit).await, [0; 0], "{gap:?}");
            assert_eq!(
                ended(&kit).await,
                [("denied".to_owned(), "no grant".to_owned(), 1)]
            );
        });
    }
}

#[test]
fn denial_is_final_and_recorded() {
    jobs_test(async |kit| {
        let recorder = Recorder::default();
        let interlock = builder(&kit).observe(recorder.clone()).build();
        write(&kit, REVOKE).await;
        let job = enqueue(&interlock, acting(1)).await.id();
        work_off(&kit, [worker(&interlock)]).await;
        let ended = interlock.jobs().ended(10).await.unwrap();
        let [denied] = ended.as_slice() else {
            panic!("{ended:?}");
        };
        assert_eq!((denied.id, denied.ending), (job, JobEnding::Denied));
        assert_eq!(denied.reason, "no grant");
        assert_eq!(denied.principal.as_deref(), Some("1"));
        assert!(!interlock.jobs().retry(job).await.unwrap());
        assert_eq!(
            recorder.take_ends(),
            [(JobEnd::Denied, Some("no grant".to_owned()))]
        );

        // The permission comes back, and the job does not.
        write(&kit, &["INSERT INTO grants VALUES (1, 1)"]).await;
        enqueue(&interlock, acting(2)).await;
        work_off(&kit, [worker(&interlock)]).await;
        assert_eq!(effects(&kit).await, [2]);
        assert!(interlock.jobs().discard(job).await.unwrap());
        assert!(!interlock.jobs().discard(job).await.unwrap());
    });
}

#[test]
fn job_without_principal_is_denied() {
    jobs_test(async |kit| {
        let enqueued = kit
            .interlock
            .transact(async |mut tx: Tx| Ok::<_, Error>(tx.enqueue(Job::new("act", 1)).await?));
        enqueued.await.unwrap();
        work_off(&kit, [worker(&kit.interlock)]).await;
        assert_eq!(ended(&kit).await[0].1, "the job has no principal");
    });
}

/// A check that could not run has denied nothing.
#[test]
fn denial_that_follows_from_a_failed_statement_is_not_final() {
    jobs_test(async |kit| {
        let handler = async |job: RunningJob<i64>, mut tx: Tx| {
            if job.run() == 1 {
                let rule = sqlx::query("SELECT 1 FROM missing").execute(&mut tx).await;
                Denied::unless(rule.is_ok(), "no rule").map_err(Error::from)?;
            }
            add_effect(&mut tx, 1).await?;
            Ok::<_, Error>(())
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&kit.interlock).on("act", handler)]).await;
        assert_eq!(effects(&kit).await, [1]);
    });
}

#[test]
fn denial_undoes_what_was_written_before() {
    jobs_test(async |kit| {
        let handler = async |_: RunningJob<i64>, mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            tx.enqueue(Job::new("act", 2)).await?;
            Err::<(), Error>(Denied::new("late").into())
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&kit.interlock).on("act", handler)]).await;
        assert_eq!(effects(&kit).await, [0; 0]);
        assert_eq!(live(&kit).await, 0);
    });
}

/// The handler's own error type, with the denial as its source.
#[test]
fn denial_is_found_inside_of_another_error() {
    jobs_test(async |kit| {
        let handler = async |_: RunningJob<i64>, _: Tx| {
            let denied = Error::from(Denied::new("inside"));
            Err::<(), _>(Box::<dyn std::error::Error + Send + Sync>::from(denied))
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&kit.interlock).on("act", handler)]).await;
        assert_eq!(
            ended(&kit).await,
            [("denied".to_owned(), "inside".to_owned(), 1)]
        );
    });
}
