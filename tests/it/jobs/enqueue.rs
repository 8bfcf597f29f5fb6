//! On the way into the queue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
};
use support::Kind;
use tokio::sync::Notify;
use tower_interlock::{
    Error, ErrorKind, Tx,
    jobs::{Enqueued, Job, RunningJob},
    observe::JobEnd,
    schema::JOBS,
};

use super::{
    act, acting, add_effect, builder, effects, ended, enqueue, enqueue_as, jobs_test, live,
    may_act, number, until, work_off, worker, write,
};
use crate::kit::{Kit, Recorder, anyone, conflict_once, guarded, note, send, test};

/// A policy with the rule of the jobs.
async fn policy(headers: HeaderMap, mut tx: Tx) -> Result<(), Error> {
    let user = headers.get("user").and_then(|user| user.to_str().ok());
    may_act(&mut tx, user.unwrap_or_default()).await
}

async fn order(mut tx: Tx, status: String) -> Result<StatusCode, Error> {
    tx.enqueue(Job::new("act", 7)).await?;
    note(&mut tx, 1).await?;
    Ok(StatusCode::from_bytes(status.as_bytes()).unwrap())
}

async fn ordered(app: &Router, user: &str, status: &'static str) -> StatusCode {
    let request = Request::put("/1").header("user", user);
    send(app, request.body(Body::from(status)).unwrap())
        .await
        .status
}

#[test]
fn job_of_a_request_is_stored_exactly_if_the_request_commits() {
    jobs_test(async |kit| {
        let app = guarded(kit.interlock.require(policy), order);
        for (user, status) in [("1", "404"), ("1", "500"), ("2", "200")] {
            ordered(&app, user, status).await;
            assert_eq!((live(&kit).await, kit.notes().await.len()), (0, 0));
        }
        assert_eq!(ordered(&app, "1", "202").await, StatusCode::ACCEPTED);
        assert_eq!((live(&kit).await, kit.notes().await.len()), (1, 1));
        let principal = "SELECT count(*) FROM interlock_jobs WHERE principal = '1'";
        assert_eq!(number(&kit, principal).await, 1);
        work_off(&kit, [worker(&kit.interlock)]).await;
        assert_eq!(effects(&kit).await, [7]);
    });
}

#[test]
fn job_of_a_request_that_is_retried_is_stored_once() {
    jobs_test(async |kit| {
        let outside = kit.outside.clone();
        let handler = async move |mut tx: Tx| {
            tx.enqueue(Job::new("act", 7)).await?;
            conflict_once(&mut tx, &outside).await?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let request = Request::put("/1").body(Body::empty()).unwrap();
        let response = send(&app, request).await;
        assert_eq!(response.report().attempts(), 2);
        assert_eq!(live(&kit).await, 1);
    });
}

#[test]
fn job_of_a_savepoint_is_dropped_with_it() {
    jobs_test(async |kit| {
        let enqueued = kit.interlock.transact(async |mut tx: Tx| {
            let mut savepoint = tx.savepoint().await?;
            savepoint.enqueue(Job::new("act", 1)).await?;
            savepoint.rollback().await?;
            let mut savepoint = tx.savepoint().await?;
            savepoint.enqueue(Job::new("act", 2)).await?;
            savepoint.release().await?;
            Ok::<_, Error>(())
        });
        enqueued.await.unwrap();
        let payload = "SELECT payload::TEXT::INT8 FROM interlock_jobs";
        assert_eq!(super::read(&kit, payload).await, [2]);
    });
}

#[test]
fn queue_that_is_not_set_up_is_misconfigured() {
    test(async |kit: Kit| {
        let enqueue = async |interlock: &tower_interlock::Interlock| {
            let enqueued = interlock.transact(async |mut tx: Tx| {
                tx.enqueue(Job::new("act", 1)).await?;
                Ok::<_, Error>(())
            });
            enqueued.await.unwrap_err().kind()
        };
        assert_eq!(enqueue(&kit.interlock).await, ErrorKind::Misconfigured);
        kit.interlock
            .transact(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 1).await?))
            .await
            .unwrap();

        let without_table = builder(&kit).build();
        assert_eq!(enqueue(&without_table).await, ErrorKind::Misconfigured);
        let transact =
            without_table.transact(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 2).await?));
        assert_eq!(transact.await.unwrap_err().kind(), ErrorKind::Misconfigured);

        let never = std::future::pending;
        for worker in [
            without_table.worker().on("act", act),
            builder(&kit).build().worker(),
            builder(&kit).dry_run(true).build().worker().on("act", act),
            kit.builder().build().worker().on("act", act),
        ] {
            let ended = tokio::time::timeout(Duration::from_secs(10), worker.run(never()));
            let error = ended.await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error:?}");
        }
    });
}

#[test]
fn payload_that_is_no_json_is_misconfigured() {
    jobs_test(async |kit| {
        let payload = std::collections::BTreeMap::from([((1, 2), 3)]);
        let enqueued = kit.interlock.transact(async |mut tx: Tx| {
            tx.enqueue(Job::new("act", &payload)).await?;
            Ok::<_, Error>(())
        });
        assert_eq!(enqueued.await.unwrap_err().kind(), ErrorKind::Misconfigured);
        assert_eq!(live(&kit).await, 0);
    });
}

#[test]
fn unique_key_allows_one_queued_job_for_each_kind_and_principal() {
    jobs_test(async |kit| {
        let unique = |kind| move || Job::new(kind, 1).unique("key");
        let first = enqueue(&kit.interlock, unique("act")).await;
        assert!(matches!(first, Enqueued::Added(_)));
        let second = enqueue(&kit.interlock, unique("act")).await;
        assert_eq!(second, Enqueued::AlreadyQueued(first.id()));
        let other_kind = enqueue(&kit.interlock, unique("other")).await;
        assert!(matches!(other_kind, Enqueued::Added(_)));
        let other_user = enqueue_as(&kit.interlock, "2", unique("act")).await;
        assert!(matches!(other_user, Enqueued::Added(_)));
        assert_eq!(live(&kit).await, 3);

        let other = async |_: RunningJob<i64>, _: Tx| Ok::<_, Error>(());
        work_off(&kit, [worker(&kit.interlock).on("other", other)]).await;
        assert_eq!(effects(&kit).await, [1]); // User 2 has no grant.
        for user in ["1", "2"] {
            let again = enqueue_as(&kit.interlock, user, unique("act")).await;
            assert!(matches!(again, Enqueued::Added(_)));
        }
    });
}

#[test]
fn concurrent_jobs_with_one_unique_key_become_one() {
    jobs_test(async |kit| {
        let added = futures::future::join_all((0..8).map(|_| {
            let interlock = kit.interlock.clone();
            async move { enqueue(&interlock, || Job::new("act", 1).unique("key")).await }
        }));
        let added = added.await;
        let new = added.iter().filter(|it| matches!(it, Enqueued::Added(_)));
        assert_eq!(new.count(), 1);
        assert_eq!(live(&kit).await, 1);
    });
}

/// With ON CONFLICT DO NOTHING, the run that has read before would be the last one.
#[test]
fn job_that_is_enqueued_while_its_twin_runs_is_followed_by_a_run_that_sees_it() {
    jobs_test(async |kit| {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let is_held = Arc::new(AtomicBool::new(true));
        let handler = {
            let (reached, release) = (Arc::clone(&reached), Arc::clone(&release));
            move |_: RunningJob<i64>, mut tx: Tx| {
                let (reached, release, is_held) = (
                    Arc::clone(&reached),
                    Arc::clone(&release),
                    Arc::clone(&is_held),
                );
                async move {
                    let version: i64 =
                        sqlx::query_scalar("SELECT version FROM documents WHERE id = 1")
                            .fetch_one(&mut tx)
                            .await?;
                    if is_held.swap(false, Ordering::SeqCst) {
                        reached.notify_one();
                        release.notified().await;
                    }
                    sqlx::query("DELETE FROM effects").execute(&mut tx).await?;
                    add_effect(&mut tx, version).await?;
                    Ok::<_, Error>(())
                }
            }
        };
        enqueue(&kit.interlock, || Job::new("index", 1).unique("document 1")).await;
        let working = work_off(&kit, [worker(&kit.interlock).on("index", handler)]);
        let changing = async {
            reached.notified().await;
            let changed = kit
                .interlock
                .transaction()
                .principal("1")
                .run(async |mut tx: Tx| {
                    sqlx::query("UPDATE documents SET version = 8 WHERE id = 1")
                        .execute(&mut tx)
                        .await?;
                    Ok::<_, Error>(
                        tx.enqueue(Job::new("index", 1).unique("document 1"))
                            .await?,
                    )
                });
            assert!(matches!(changed.await.unwrap(), Enqueued::AlreadyQueued(_)));
            release.notify_one();
        };
        tokio::join!(working, changing);
        assert_eq!(effects(&kit).await, [8]);
    });
}

/// A run of a job with a unique key ends without success, and has not seen what the transaction has
/// written that enqueues the job again meanwhile.
async fn enqueue_again_while_a_run_fails(kit: &Kit, handler_of_first_run: Ending) -> Vec<JobEnd> {
    let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (reached, release) = (Arc::clone(&reached), Arc::clone(&release));
        move |job: RunningJob<i64>, mut tx: Tx| {
            let (reached, release) = (Arc::clone(&reached), Arc::clone(&release));
            async move {
                let checked = may_act(&mut tx, job.principal()?).await;
                if job.run() == 1 {
                    reached.notify_one();
                    release.notified().await;
                    return match handler_of_first_run {
                        Ending::Denied => checked,
                        Ending::Failed => Err(Error::not_found()),
                    };
                }
                checked?;
                add_effect(&mut tx, *job.payload()).await?;
                Ok(())
            }
        }
    };
    let unique = || Job::new("act", 1).unique("key");
    let recorder = Recorder::default();
    let observed = builder(kit).observe(recorder.clone()).build();
    write(kit, &["DELETE FROM grants"]).await;
    enqueue(&kit.interlock, unique).await;
    let one = worker(&observed).on("act", handler).max_runs(1);
    let working = work_off(kit, [one]);
    let again = async {
        reached.notified().await;
        let again = kit.interlock.transaction().principal("1");
        let again = again.run(async |mut tx: Tx| {
            let grant = sqlx::query("INSERT INTO grants VALUES (1, 1)");
            grant.execute(&mut tx).await?;
            Ok::<_, Error>(tx.enqueue(unique()).await?)
        });
        assert!(matches!(again.await.unwrap(), Enqueued::AlreadyQueued(_)));
        release.notify_one();
    };
    tokio::join!(working, again);
    assert_eq!(effects(kit).await, [1]);
    assert_eq!(ended(kit).await, []);
    recorder
        .take_ends()
        .into_iter()
        .map(|(end, _)| end)
        .collect()
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Denied,
    Failed,
}

/// The denial is older than the transaction that was told that its job is queued already.
#[test]
fn job_that_is_enqueued_again_while_it_is_denied_runs_again() {
    jobs_test(async |kit| {
        let ends = enqueue_again_while_a_run_fails(&kit, Ending::Denied).await;
        assert_eq!(ends, [JobEnd::Failed, JobEnd::Done]);
    });
}

#[test]
fn job_that_is_enqueued_again_in_its_last_run_has_as_many_runs_as_a_new_one() {
    jobs_test(async |kit| {
        let ends = enqueue_again_while_a_run_fails(&kit, Ending::Failed).await;
        assert_eq!(ends, [JobEnd::Failed, JobEnd::Done]);
    });
}

#[test]
fn job_enqueues_its_own_successor_with_the_same_key() {
    jobs_test(async |kit| {
        let handler = async |job: RunningJob<i64>, mut tx: Tx| {
            let round = *job.payload();
            add_effect(&mut tx, round).await?;
            if round < 3 {
                let next = Job::new("round", round + 1).unique("rounds");
                assert!(matches!(tx.enqueue(next).await?, Enqueued::Added(_)));
            }
            Ok::<_, Error>(())
        };
        enqueue(&kit.interlock, || Job::new("round", 1).unique("rounds")).await;
        work_off(&kit, [worker(&kit.interlock).on("round", handler)]).await;
        assert_eq!(effects(&kit).await, [1, 2, 3]);
    });
}

#[test]
fn delayed_job_waits() {
    jobs_test(async |kit| {
        enqueue(&kit.interlock, || {
            Job::new("act", 1).after(Duration::from_secs(3600))
        })
        .await;
        enqueue(&kit.interlock, || {
            Job::new("act", 2).after(Duration::from_millis(300))
        })
        .await;
        enqueue(&kit.interlock, acting(3)).await;
        let stop = until(async || effects(&kit).await.len() >= 2);
        worker(&kit.interlock).run(stop).await.unwrap();
        assert_eq!(effects(&kit).await, [2, 3]);
        assert_eq!(live(&kit).await, 1);
    });
}

#[test]
fn longest_delay_is_stored() {
    jobs_test(async |kit| {
        enqueue(&kit.interlock, || Job::new("act", 1).after(Duration::MAX)).await;
        assert_eq!(live(&kit).await, 1);
    });
}

/// The worker would look again in an hour.
#[test]
fn worker_of_the_same_process_is_woken_up() {
    jobs_test(async |kit| {
        let idle = worker(&kit.interlock).poll_interval(Duration::from_secs(3600));
        let stop = until(async || effects(&kit).await == [1]);
        let enqueuing = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            enqueue(&kit.interlock, acting(1)).await;
        };
        let (ended, ()) = tokio::join!(idle.run(stop), enqueuing);
        ended.unwrap();
    });
}

/// The table belongs to the schema in which the first connection has found it: elsewhere, a job
/// would be found by no worker, and would not be done.
#[test]
fn work_that_changes_its_search_path_uses_the_same_queue() {
    const HIDE: &str = "SELECT set_config('search_path', 'tenant', true)";
    jobs_test(async |kit| {
        write(&kit, &["CREATE SCHEMA tenant"]).await;
        let copy = JOBS.replace("EXISTS interlock_jobs (", "EXISTS tenant.interlock_jobs (");
        let copy = copy.replace(" ON interlock_jobs ", " ON tenant.interlock_jobs ");
        let copy = sqlx::raw_sql(sqlx::AssertSqlSafe(copy));
        copy.execute(&kit.outside).await.unwrap();
        let enqueued = kit.interlock.transaction().principal("1");
        let enqueued = enqueued.run(async |mut tx: Tx| {
            sqlx::query(HIDE).execute(&mut tx).await?;
            Ok::<_, Error>(tx.enqueue(Job::new("hide", 1_i64)).await?)
        });
        assert!(matches!(enqueued.await.unwrap(), Enqueued::Added(_)));
        let handler = async |job: RunningJob<i64>, mut tx: Tx| {
            add_effect(&mut tx, *job.payload()).await?;
            sqlx::query(HIDE).execute(&mut tx).await?;
            Ok::<_, Error>(())
        };
        work_off(&kit, [worker(&kit.interlock).on("hide", handler)]).await;
        assert_eq!(effects(&kit).await, [1]);
    });
}

/// A worker that looks at the queue in a SERIALIZABLE transaction reads around the job that the
/// request has stored and not committed. The request has read what another one has changed since.
/// PostgreSQL takes the three for a circle, and aborts the request.
#[test]
fn look_at_the_queue_conflicts_with_no_request() {
    jobs_test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            eprintln!(
                "not tested: CockroachDB retries a request that has read what was changed since"
            );
            return;
        }
        let (attempts, stop) = (Arc::new(AtomicU32::new(0)), Notify::new());
        let requesting = kit.interlock.transact(|mut tx: Tx| {
            let (kit, attempts) = (kit.clone(), Arc::clone(&attempts));
            async move {
                let attempt = attempts.fetch_add(1, Ordering::SeqCst) + 1;
                sqlx::query("SELECT version FROM documents WHERE id = 1")
                    .execute(&mut tx)
                    .await?;
                write(
                    &kit,
                    &["UPDATE documents SET version = version + 1 WHERE id = 1"],
                )
                .await;
                tx.enqueue(Job::new("act", 0)).await?;
                // Once this one is done, the worker has looked.
                enqueue_outside(&kit, attempt.into()).await;
                while !effects(&kit).await.contains(&attempt.into()) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok::<_, Error>(())
            }
        });
        let requesting = async {
            requesting.await.unwrap();
            stop.notify_one();
        };
        let working = worker(&kit.interlock).run(stop.notified());
        let (ended, ()) = tokio::join!(working, requesting);
        ended.unwrap();
        assert_eq!(attempts.load(Ordering::SeqCst), 1);
    });
}

/// Enqueues a job for a handler of "act", outside of the interlock.
async fn enqueue_outside(kit: &Kit, item: i64) {
    let job = "INSERT INTO interlock_jobs (id, kind, principal, payload, run_at)
               VALUES (gen_random_uuid(), 'act', '1', to_json($1::INT8)::JSONB, now())";
    let job = sqlx::query(job).bind(item).execute(&kit.outside);
    job.await.unwrap();
}

/// A request that enqueues a job again holds its row until it ends.
#[test]
fn job_that_a_slow_request_enqueues_again_is_in_the_way_of_no_other_one() {
    for concurrency in [1, 4] {
        jobs_test(async |kit| {
            enqueue(&kit.interlock, || Job::new("act", 1).unique("key")).await;
            for item in 2..=4 {
                enqueue(&kit.interlock, acting(item)).await;
            }
            let (stored, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
            let requesting = kit.interlock.transaction().principal("1");
            let requesting = requesting.run(|mut tx: Tx| {
                let (stored, release) = (Arc::clone(&stored), Arc::clone(&release));
                async move {
                    tx.enqueue(Job::new("act", 1).unique("key")).await?;
                    stored.notify_one();
                    release.notified().await;
                    Ok::<_, Error>(())
                }
            });
            let working = async {
                stored.notified().await;
                let others = until(async || effects(&kit).await == [2, 3, 4]);
                let one = worker(&kit.interlock).concurrency(concurrency);
                one.run(others).await.unwrap();
                release.notify_one();
            };
            let (requested, ()) = tokio::join!(requesting, working);
            requested.unwrap();
            work_off(&kit, [worker(&kit.interlock)]).await;
            assert_eq!(effects(&kit).await, [1, 2, 3, 4]);
        });
    }
}
