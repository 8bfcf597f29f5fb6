//! The end of a job that is not done, and the others beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tower_interlock::{
    Denied, Error, ErrorKind, Outcome, Receipts, Tx,
    jobs::{Enqueued, Job, JobEnding, RunningJob},
    observe::{JobEnd, WorkKind},
    schema::RECEIPTS,
};

use super::{
    act, acting, add_effect, builder, effects, ended, enqueue, jobs_test, live, until, work_off,
    worker,
};
use crate::kit::{Recorder, Seen, conflict_once, traced};

#[test]
fn finished_job_is_gone_and_observed() {
    jobs_test(async |kit| {
        let recorder = Recorder::default();
        let interlock = builder(&kit).observe(recorder.clone()).build();
        enqueue(&interlock, acting(1)).await;
        recorder.take();
        work_off(&kit, [worker(&interlock)]).await;
        assert_eq!(effects(&kit).await, [1]);
        assert_eq!(ended(&kit).await, []);
        let events = recorder.take();
        let finished = Seen::Finished {
            kind: WorkKind::Job,
            names: vec!["act"],
            principal: Some("1".to_owned()),
            attempts: 1,
            outcome: Outcome::Committed,
            error: None,
        };
        let done = Seen::Job {
            end: JobEnd::Done,
            reason: None,
        };
        assert_eq!(events[events.len() - 2..], [finished, done], "{events:#?}");
    });
}

#[test]
fn conflict_in_a_job_is_retried_in_the_same_run() {
    jobs_test(async |kit| {
        let recorder = Recorder::default();
        let interlock = builder(&kit).observe(recorder.clone()).build();
        let handler = {
            let outside = kit.outside.clone();
            move |_: RunningJob<i64>, mut tx: Tx| {
                let outside = outside.clone();
                async move {
                    let attempt = i64::from(tx.attempt());
                    add_effect(&mut tx, attempt).await?;
                    conflict_once(&mut tx, &outside).await?;
                    Ok::<_, Error>(())
                }
            }
        };
        enqueue(&interlock, acting(1)).await;
        work_off(&kit, [worker(&interlock).on("act", handler)]).await;
        assert_eq!(effects(&kit).await, [2]);
        assert_eq!(recorder.last(), Some((Outcome::Committed, 2)));
        assert_eq!(recorder.take_ends(), [(JobEnd::Done, None)]);
    });
}

#[test]
fn error_is_retried_and_then_parked() {
    jobs_test(async |kit| {
        let handler = async |job: RunningJob<i64>, mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            let run = job.run();
            Err::<(), Box<dyn std::error::Error + Send + Sync>>(format!("run {run}\0").into())
        };
        let failing = || worker(&kit.interlock).on("act", handler).max_runs(3);
        let job = enqueue(&kit.interlock, acting(1)).await.id();
        work_off(&kit, [failing()]).await;
        assert_eq!(
            ended(&kit).await,
            [("parked".to_owned(), "run 3\u{fffd}".to_owned(), 3)]
        );
        assert_eq!(effects(&kit).await, [0; 0]);

        // Retried by hand it has as many runs as a new job, and its runs are counted on.
        assert!(kit.interlock.jobs().retry(job).await.unwrap());
        assert!(!kit.interlock.jobs().retry(job).await.unwrap());
        work_off(&kit, [failing()]).await;
        assert_eq!(
            ended(&kit).await,
            [("parked".to_owned(), "run 6\u{fffd}".to_owned(), 6)]
        );
        assert!(kit.interlock.jobs().retry(job).await.unwrap());
        work_off(&kit, [worker(&kit.interlock)]).await;
        assert_eq!(effects(&kit).await, [1]);
    });
}

#[test]
fn backoff_grows_and_waits() {
    jobs_test(async |kit| {
        let handler = async |_: RunningJob<i64>, _: Tx| Err::<(), _>("no");
        enqueue(&kit.interlock, acting(1)).await;
        let stop = until(async || {
            super::number(&kit, "SELECT runs::INT8 FROM interlock_jobs").await == 1
                && super::number(&kit, "SELECT count(*) FROM interlock_jobs WHERE NOT leased").await
                    == 1
        });
        let slow = kit.interlock.worker().on("act", handler);
        let hour = Duration::from_secs(3600);
        slow.backoff(tower_interlock::Backoff::new(hour, hour))
            .run(stop)
            .await
            .unwrap();
        let state = kit.interlock.jobs().state().await.unwrap();
        assert_eq!(
            (state[0].waiting, state[0].due, state[0].running),
            (1, 0, 0)
        );
    });
}

#[test]
fn panic_is_retried_and_the_others_go_on() {
    jobs_test(async |kit| {
        let handler = |job: RunningJob<i64>, tx: Tx| async move {
            let item = *job.payload();
            assert_ne!(item, 1, "poisoned");
            act(job, tx).await
        };
        // It panics before it returns a future.
        let eager = |_: RunningJob<i64>, _: Tx| -> std::future::Ready<Result<(), Error>> {
            panic!("eager")
        };
        enqueue(&kit.interlock, || Job::new("eager", 1)).await;
        for item in 1..=4 {
            enqueue(&kit.interlock, acting(item)).await;
        }
        let one = worker(&kit.interlock).on("act", handler).on("eager", eager);
        work_off(&kit, [one.max_runs(2).concurrency(1)]).await;
        assert_eq!(effects(&kit).await, [2, 3, 4]);
        let mut ended = ended(&kit).await;
        ended.sort();
        assert_eq!(ended.len(), 2);
        assert!(
            ended[0].1.starts_with("panic: ") && ended[0].1.contains("poisoned"),
            "{ended:?}"
        );
        let eager = ("parked".to_owned(), "panic: eager".to_owned(), 2);
        assert_eq!(ended[1], eager);
    });
}

#[test]
fn payload_that_cannot_be_decoded_is_parked_at_once() {
    jobs_test(async |kit| {
        enqueue(&kit.interlock, || Job::new("act", "text")).await;
        enqueue(&kit.interlock, acting(2)).await;
        work_off(&kit, [worker(&kit.interlock).concurrency(1)]).await;
        assert_eq!(effects(&kit).await, [2]);
        let ended = ended(&kit).await;
        assert_eq!((ended.len(), ended[0].2), (1, 1));
        assert!(
            ended[0]
                .1
                .starts_with("the payload cannot be decoded: invalid type"),
            "{ended:?}"
        );
    });
}

/// A payload whose code panics.
struct Panicking;

impl<'de> serde::Deserialize<'de> for Panicking {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("decoding")
    }
}

#[test]
fn panic_of_a_payload_is_that_of_its_run() {
    jobs_test(async |kit| {
        enqueue(&kit.interlock, acting(1)).await;
        let handler = async |_: RunningJob<Panicking>, _: Tx| Ok::<_, Error>(());
        let one = worker(&kit.interlock).on("act", handler);
        work_off(&kit, [one.max_runs(2)]).await;
        let panic = ("parked".to_owned(), "panic: decoding".to_owned(), 2);
        assert_eq!(ended(&kit).await, [panic]);
    });
}

/// `serde_json` reads 127 levels, and writes any number.
#[test]
fn payload_that_is_nested_too_deeply_is_parked_at_once_and_listed() {
    jobs_test(async |kit| {
        let mut nested = serde_json::json!(1);
        for _ in 0..200 {
            nested = serde_json::json!([nested]);
        }
        let job = enqueue(&kit.interlock, || Job::new("act", &nested))
            .await
            .id();
        enqueue(&kit.interlock, acting(2)).await;
        work_off(&kit, [worker(&kit.interlock)]).await;
        assert_eq!(effects(&kit).await, [2]);
        let ended = kit.interlock.jobs().ended(9).await.unwrap();
        let [parked] = ended.as_slice() else {
            panic!("{ended:?}");
        };
        assert_eq!((parked.id, parked.runs), (job, 1));
        assert!(parked.reason.starts_with("the payload cannot be decoded"));
    });
}

/// How a handler ends that has committed its transaction itself.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Success,
    Error,
    Denial,
    Panic,
    Deadline,
}

/// Retried, it would do again what it has committed (T9).
#[test]
fn handler_that_commits_its_transaction_itself_is_not_run_again() {
    for ending in [
        Ending::Success,
        Ending::Error,
        Ending::Denial,
        Ending::Panic,
        Ending::Deadline,
    ] {
        jobs_test(async |kit| {
            let handler = move |_: RunningJob<i64>, mut tx: Tx| async move {
                let text = "INSERT INTO effects (item) VALUES (1); COMMIT; SELECT 1";
                sqlx::raw_sql(text).execute(&mut tx).await?;
                match ending {
                    Ending::Success => Ok(()),
                    Ending::Error => Err(Error::not_found()),
                    Ending::Denial => Err(Denied::new("too late").into()),
                    Ending::Panic => panic!("too late"),
                    Ending::Deadline => std::future::pending().await,
                }
            };
            enqueue(&kit.interlock, acting(1)).await;
            let one = worker(&kit.interlock).on("act", handler);
            work_off(&kit, [one.lease(Duration::from_secs(4))]).await;
            assert_eq!(effects(&kit).await, [1], "{ending:?}");
            let ended = ended(&kit).await;
            assert_eq!(
                (ended[0].0.as_str(), ended[0].2),
                ("parked", 1),
                "{ending:?}"
            );
            assert!(
                ended[0].1.contains("may have ended the transaction"),
                "{ended:?}"
            );
        });
    }
}

/// A query for the oldest due jobs of any kind would see nothing but the unknown ones.
#[test]
fn unknown_kind_waits_and_blocks_nothing() {
    jobs_test(async |kit| {
        for item in 0..100 {
            enqueue(&kit.interlock, move || Job::new("unknown", item)).await;
        }
        enqueue(&kit.interlock, acting(-1)).await;
        let stop = until(async || effects(&kit).await == [-1]);
        worker(&kit.interlock)
            .concurrency(1)
            .run(stop)
            .await
            .unwrap();
        assert_eq!(live(&kit).await, 100);
        work_off(&kit, [worker(&kit.interlock).on("unknown", act)]).await;
        assert_eq!(effects(&kit).await, (-1..100).collect::<Vec<_>>());
    });
}

#[test]
fn flood_of_one_kind_does_not_delay_another_one() {
    jobs_test(async |kit| {
        for item in 0..100 {
            enqueue(&kit.interlock, move || Job::new("flood", item)).await;
        }
        enqueue(&kit.interlock, acting(-1)).await;
        let slow = async |job: RunningJob<i64>, tx: Tx| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            act(job, tx).await
        };
        let stop = until(async || effects(&kit).await.first() == Some(&-1));
        worker(&kit.interlock)
            .concurrency(2)
            .on("flood", slow)
            .run(stop)
            .await
            .unwrap();
        assert!(live(&kit).await > 50);
    });
}

#[test]
fn rollback_only_keeps_nothing_and_is_retried() {
    jobs_test(async |kit| {
        let handler = async |job: RunningJob<i64>, mut tx: Tx| {
            add_effect(&mut tx, i64::from(job.run())).await?;
            if job.run() == 1 {
                tx.rollback_only();
            }
            Ok::<_, Error>(())
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&kit.interlock).on("act", handler)]).await;
        assert_eq!(effects(&kit).await, [2]);
    });
}

#[test]
fn escaped_tx_is_a_failure() {
    jobs_test(async |kit| {
        let handler = async |_: RunningJob<i64>, mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(tx);
            });
            Ok::<_, Error>(())
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(
            &kit,
            [worker(&kit.interlock).on("act", handler).max_runs(1)],
        )
        .await;
        assert_eq!(effects(&kit).await, [0; 0]);
        let ended = ended(&kit).await;
        // The job's own last statement finds the Tx in use, or the settlement finds it alive.
        assert!(
            ended[0].1.starts_with("TxEscaped") || ended[0].1.starts_with("TxInUse"),
            "{ended:?}"
        );
    });
}

#[test]
fn ignored_error_keeps_nothing() {
    jobs_test(async |kit| {
        let handler = async |_: RunningJob<i64>, mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            let _ = sqlx::query("SELECT 1 FROM missing").execute(&mut tx).await;
            Ok::<_, Error>(())
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(
            &kit,
            [worker(&kit.interlock).on("act", handler).max_runs(2)],
        )
        .await;
        assert_eq!(effects(&kit).await, [0; 0]);
        assert_eq!(ended(&kit).await[0].2, 2);
    });
}

#[test]
fn handler_without_a_statement_is_done_too() {
    jobs_test(async |kit| {
        let ran = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&ran);
        let handler = move |_: RunningJob<serde_json::Value>, _: Tx| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Error>(()) }
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&kit.interlock).on("act", handler)]).await;
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn hooks_run_once_the_job_is_committed() {
    jobs_test(async |kit| {
        let ran = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&ran);
        let handler = move |job: RunningJob<i64>, mut tx: Tx| {
            let counted = Arc::clone(&counted);
            async move {
                tx.after_commit(async move {
                    counted.fetch_add(1, Ordering::SeqCst);
                });
                add_effect(&mut tx, 1).await?;
                if job.run() == 1 {
                    Err(Error::not_found())
                } else {
                    Ok(())
                }
            }
        };
        enqueue(&kit.interlock, acting(1)).await;
        work_off(&kit, [worker(&kit.interlock).on("act", handler)]).await;
        kit.interlock.drain().await;
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn receipt_of_a_job_has_its_principal_and_notes() {
    jobs_test(async |kit| {
        kit.database.run(RECEIPTS).await;
        let interlock = builder(&kit).receipts(Receipts::new()).build();
        let handler = async |_: RunningJob<i64>, mut tx: Tx| {
            tx.note("item", 7);
            Ok::<_, Error>(add_effect(&mut tx, 7).await?)
        };
        enqueue(&kit.interlock, acting(7)).await;
        work_off(&kit, [worker(&interlock).on("act", handler)]).await;
        let receipts = "SELECT count(*) FROM interlock_receipts \
                        WHERE principal = '1' AND policies = 'act' AND detail->>'item' = '7'";
        assert_eq!(super::number(&kit, receipts).await, 1);
    });
}

#[test]
fn retry_of_a_job_whose_key_is_taken_is_a_violation() {
    jobs_test(async |kit| {
        let unique = || Job::new("act", "text").unique("key");
        let parked = enqueue(&kit.interlock, unique).await.id();
        work_off(&kit, [worker(&kit.interlock)]).await;
        assert!(matches!(
            enqueue(&kit.interlock, unique).await,
            Enqueued::Added(_)
        ));
        let error = kit.interlock.jobs().retry(parked).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConstraintViolation);
        assert_eq!(
            kit.interlock.jobs().ended(9).await.unwrap()[0].ending,
            JobEnding::Parked
        );
    });
}

#[test]
fn log_names_the_job() {
    jobs_test(async |kit| {
        let job = enqueue(&kit.interlock, || Job::new("act", "text"))
            .await
            .id();
        let ((), log) = traced(work_off(&kit, [worker(&kit.interlock)]).map(drop)).await;
        let parked = log.find("job parked");
        assert_eq!(parked.len(), 1);
        let (name, fields) = &log.spans[parked[0].span.unwrap()];
        assert_eq!(
            (*name, fields["id"].as_str()),
            ("job", job.to_string().as_str())
        );
    });
}
