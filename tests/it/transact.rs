//! `transact`: the promises outside of requests.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{extract::State, routing::put as put_route};
use futures::{FutureExt as _, StreamExt as _, stream};
use sqlx::Executor as _;
use support::{Fault, Kind, Moment, Proxy, drop_after};
use tokio::sync::Notify;
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Tx};

use crate::kit::{DEFERRED, Kit, anyone, conflict_once, note, put, test, test_with_pool};

/// An error type of a user.
#[derive(Debug)]
enum Failed {
    Interlock(Error),
    Sqlx(sqlx::Error),
    Full,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Interlock(error)
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlx(error)
    }
}

impl Failed {
    #[track_caller]
    fn kind(self) -> ErrorKind {
        match self {
            Self::Interlock(error) => error.kind(),
            Self::Sqlx(error) => panic!("not an error of the crate: {error}"),
            Self::Full => panic!("not an error of the crate"),
        }
    }
}

#[test]
fn ok_commits_and_returns_the_value() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let value = interlock
            .transact(async |mut tx: Tx| {
                note(&mut tx, 1).await?;
                Ok::<_, Failed>(7)
            })
            .await;
        assert_eq!(value.unwrap(), 7);
        assert_eq!(recorder.last(), Some((Outcome::Committed, 1)));
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn err_rolls_back_and_is_returned() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let result = interlock
            .transact(async |mut tx: Tx| {
                note(&mut tx, 1).await?;
                Err::<(), _>(Failed::Full)
            })
            .await;
        assert!(matches!(result, Err(Failed::Full)));
        assert_eq!(recorder.last(), Some((Outcome::RolledBack, 1)));
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn closure_without_statement_opens_no_transaction() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let result = interlock.transact(async |_: Tx| Ok::<_, Failed>(())).await;
        result.unwrap();
        assert_eq!(recorder.last(), Some((Outcome::NoTransaction, 1)));
    });
}

#[test]
fn conflict_in_a_statement_is_retried() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let result = interlock
            .transact(async |mut tx: Tx| {
                let attempt = tx.attempt();
                note(&mut tx, i64::from(attempt)).await?;
                conflict_once(&mut tx, &kit.outside).await?;
                Ok::<_, Failed>(attempt)
            })
            .await;
        assert_eq!(result.unwrap(), 2);
        assert_eq!(recorder.last(), Some((Outcome::Committed, 2)));
        assert_eq!(kit.notes().await, [2]);
    });
}

#[test]
fn conflict_that_the_closure_ignores_is_retried() {
    test(async |kit| {
        let result = kit
            .interlock
            .transact(async |mut tx: Tx| {
                let attempt = tx.attempt();
                let _ = conflict_once(&mut tx, &kit.outside).await;
                Ok::<_, Failed>(attempt)
            })
            .await;
        assert_eq!(result.unwrap(), 2);
    });
}

#[test]
fn conflict_on_the_raw_connection_is_retried_if_it_is_returned() {
    test(async |kit| {
        let result = kit
            .interlock
            .transact(async |mut tx: Tx| {
                let attempt = tx.attempt();
                if attempt == 1 {
                    crate::kit::conflict(tx.connection().await?, &kit.outside).await?;
                }
                Ok::<_, Error>(attempt)
            })
            .await;
        assert_eq!(result.unwrap(), 2);
    });
}

/// Two transactions read what the other one writes. COMMIT of one of them fails, or a statement.
#[test]
fn conflict_at_commit_is_retried() {
    test(async |kit| {
        let attempts = AtomicU32::new(0);
        let barrier = tokio::sync::Barrier::new(2);
        let skew = async |read: i64, write: i64| {
            let attempts = &attempts;
            let barrier = &barrier;
            kit.interlock
                .transact(async |mut tx: Tx| {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    let version: i64 =
                        sqlx::query_scalar("SELECT version FROM documents WHERE id = $1")
                            .bind(read)
                            .fetch_one(&mut tx)
                            .await?;
                    if tx.attempt() == 1 {
                        barrier.wait().await;
                    }
                    sqlx::query("UPDATE documents SET version = $2 WHERE id = $1")
                        .bind(write)
                        .bind(version + 1)
                        .execute(&mut tx)
                        .await?;
                    Ok::<_, Error>(())
                })
                .await
        };
        let (first, second) = tokio::join!(skew(1, 2), skew(2, 1));
        first.unwrap();
        second.unwrap();
        assert!(attempts.load(Ordering::SeqCst) > 2);
        let versions: Vec<i64> =
            sqlx::query_scalar("SELECT version FROM documents ORDER BY version")
                .fetch_all(&kit.outside)
                .await
                .unwrap();
        // One after the other: the second one sees the first one's write.
        assert_eq!(versions, [1, 2]);
    });
}

#[test]
fn retries_end_at_max_attempts() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let result = interlock
            .transaction()
            .max_attempts(3)
            .run(async |mut tx: Tx| {
                crate::kit::conflict(&mut tx, &kit.outside).await?;
                Ok::<_, Failed>(())
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::RetriesExhausted);
        assert_eq!(recorder.last(), Some((Outcome::RolledBack, 3)));
    });
}

#[test]
fn ok_over_a_failed_statement_is_aborted() {
    test(async |kit| {
        let result = kit
            .interlock
            .transact(async |mut tx: Tx| {
                note(&mut tx, 1).await?;
                let _ = (&mut tx).execute("SELECT 1 FROM missing").await;
                Ok::<_, Failed>(())
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn savepoint_undoes_a_part() {
    test(async |kit| {
        let result = kit.interlock.transact(async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            let _ = (&mut savepoint).execute("SELECT 1 FROM missing").await;
            savepoint.rollback().await?;
            note(&mut tx, 2).await?;
            Ok::<_, Failed>(())
        });
        result.await.unwrap();
        assert_eq!(kit.notes().await, [1, 2]);
    });
}

#[test]
fn constraint_that_rejects_commit_is_a_violation() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            return eprintln!("not tested: only PostgreSQL has deferred constraints");
        }
        kit.database.run(DEFERRED).await;
        for interlock in [kit.interlock.clone(), kit.builder().dry_run(true).build()] {
            let result = interlock
                .transact(async |mut tx: Tx| Ok::<_, Failed>(note(&mut tx, 1).await?))
                .await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::ConstraintViolation);
        }
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn dry_run_keeps_nothing() {
    test(async |kit| {
        let interlock = kit.builder().dry_run(true).build();
        let result = interlock
            .transact(async |mut tx: Tx| Ok::<_, Failed>(note(&mut tx, 1).await?))
            .await;
        result.unwrap();
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn read_only_transaction_rejects_writes() {
    test(async |kit| {
        let result = kit
            .interlock
            .transaction()
            .read_only()
            .run(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 1).await?))
            .await;
        let error = result.unwrap_err();
        assert_eq!(error.sqlstate(), Some("25006"), "{error:?}");
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn escaped_tx_is_rolled_back_and_not_retried() {
    test(async |kit| {
        let escaped = Mutex::new(Vec::new());
        let result = kit
            .interlock
            .transact(async |mut tx: Tx| {
                note(&mut tx, 1).await?;
                escaped.lock().unwrap().push(tx);
                Ok::<_, Failed>(())
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TxEscaped);
        let mut escaped = escaped.into_inner().unwrap();
        assert_eq!(escaped.len(), 1);
        let late = Error::from(note(&mut escaped[0], 2).await.unwrap_err());
        assert_eq!(late.kind(), ErrorKind::TxEscaped);
        drop(escaped);
        kit.interlock.drain().await;
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn panic_rolls_back_and_resumes() {
    test(async |kit| {
        let panicking = kit.interlock.transact(async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            std::panic::resume_unwind(Box::new("as written"));
            #[allow(unreachable_code, reason = "it gives the closure its type")]
            Ok::<(), Failed>(())
        });
        let caught = std::panic::AssertUnwindSafe(panicking).catch_unwind().await;
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"as written"));
        kit.interlock.drain().await;
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn transaction_dropped_at_any_poll_is_whole_or_absent() {
    const POLLS: i64 = 40;
    const TIMES: i64 = 400;
    test_with_pool(2, async |kit: Kit| {
        let hooks = Arc::new(Mutex::new(Vec::new()));
        let run = |id: i64| {
            let (interlock, hooks) = (kit.interlock.clone(), Arc::clone(&hooks));
            async move {
                let hooks = &hooks;
                let run = interlock.transact(async |mut tx: Tx| {
                    note(&mut tx, 2 * id).await?;
                    note(&mut tx, 2 * id + 1).await?;
                    let hooks = Arc::clone(hooks);
                    tx.after_commit(async move { hooks.lock().unwrap().push(id) });
                    Ok::<_, Error>(())
                });
                run.await.unwrap();
                id
            }
        };
        let finished: Vec<i64> = stream::iter(0..TIMES)
            .map(|id| drop_after(id % POLLS, run(id)))
            .buffer_unordered(3)
            .filter_map(async |finished| finished)
            .collect()
            .await;
        kit.interlock.drain().await;
        let notes = kit.notes().await;
        println!(
            "{} finished, {} stored, of {TIMES}",
            finished.len(),
            notes.len() / 2
        );
        let stored: Vec<i64> = notes.iter().map(|note| note / 2).step_by(2).collect();
        let whole = notes
            .chunks(2)
            .all(|pair| pair[0] % 2 == 0 && pair[1] == pair[0] + 1);
        assert!(whole, "{notes:?}");
        assert!(finished.iter().all(|id| stored.contains(id)));
        assert!(!finished.is_empty() && finished.len() < TIMES as usize);
        let mut hooks = hooks.lock().unwrap().clone();
        hooks.sort_unstable();
        assert_eq!(hooks, stored);
    });
}

#[test]
fn slow_closure_exceeds_deadline() {
    test(async |kit| {
        let result = kit
            .interlock
            .transaction()
            .deadline(Duration::from_millis(300))
            .run(async |mut tx: Tx| {
                note(&mut tx, 1).await?;
                std::future::pending::<Result<(), Failed>>().await
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
        kit.interlock.drain().await;
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn lost_commit_is_unknown_and_not_retried() {
    test(async |kit| {
        for (fault, stored) in [(Fault::CutAfter, true), (Fault::CutBefore, false)] {
            let proxy = Proxy::start(&kit.database);
            let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
            let interlock = Interlock::new(pool);
            proxy.inject_times(1, Moment::Commit, fault);
            let attempts = AtomicU32::new(0);
            let result = interlock
                .transact(async |mut tx: Tx| {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Failed>(note(&mut tx, 1).await?)
                })
                .await;
            assert_eq!(result.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
            assert_eq!(attempts.load(Ordering::SeqCst), 1);
            interlock.drain().await;
            assert_eq!(kit.notes().await.len(), usize::from(stored));
            (&kit.outside).execute("DELETE FROM notes").await.unwrap();
        }
    });
}

#[test]
fn connection_lost_before_commit_is_retried_once() {
    test(async |kit| {
        for (times, expected) in [(1, None), (2, Some(ErrorKind::Unavailable))] {
            let proxy = Proxy::start(&kit.database);
            let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
            let interlock = Interlock::new(pool);
            proxy.inject_times(times, Moment::Statement(1), Fault::CutBefore);
            let result = interlock
                .transact(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, times as i64).await?))
                .await;
            assert_eq!(result.err().map(|error| error.kind()), expected);
            interlock.drain().await;
        }
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn hooks_run_after_commit_only() {
    test(async |kit| {
        let ran = Arc::new(AtomicU32::new(0));
        for (fails, expected) in [(true, 0), (false, 1)] {
            let interlock = kit.builder().build();
            let _ = interlock
                .transact(async |mut tx: Tx| {
                    conflict_once(&mut tx, &kit.outside).await?;
                    let ran = Arc::clone(&ran);
                    tx.after_commit(async move {
                        ran.fetch_add(1, Ordering::SeqCst);
                    });
                    if fails { Err(Failed::Full) } else { Ok(()) }
                })
                .await;
            interlock.drain().await;
            assert_eq!(ran.load(Ordering::SeqCst), expected);
        }
    });
}

#[test]
fn drain_waits_for_transactions_and_rejects_new_ones() {
    test(async |kit| {
        let (running, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (interlock, started) = (kit.interlock.clone(), Arc::clone(&running));
        let released = Arc::clone(&release);
        let transaction = tokio::spawn(async move {
            let (started, released) = (&started, &released);
            let held = interlock.transact(async |mut tx: Tx| {
                note(&mut tx, 1).await?;
                started.notify_one();
                released.notified().await;
                Ok::<_, Error>(())
            });
            held.await
        });
        running.notified().await;
        let mut draining = Box::pin(kit.interlock.drain());
        assert!(futures::poll!(&mut draining).is_pending());
        let rejected = kit
            .interlock
            .transact(async |_: Tx| Ok::<_, Error>(()))
            .await;
        assert_eq!(rejected.unwrap_err().kind(), ErrorKind::Unavailable);
        release.notify_one();
        draining.await;
        transaction.await.unwrap().unwrap();
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn transaction_inside_of_a_request_is_rejected_while_its_tx_is_open() {
    async fn handler(State(interlock): State<Interlock>, mut tx: Tx) -> Result<(), Error> {
        note(&mut tx, 1).await?;
        interlock
            .transact(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 2).await?))
            .await
    }
    test(async |kit| {
        let layer = kit.interlock.require(anyone);
        let app = axum::Router::new()
            .route("/", put_route(handler).route_layer(layer))
            .with_state(kit.interlock.clone());
        let response = put(&app, "/", "").await;
        response.assert_problem(ErrorKind::Misconfigured);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn transaction_before_the_first_statement_of_a_request_commits_on_its_own() {
    async fn handler(State(interlock): State<Interlock>, mut tx: Tx) -> Result<(), Error> {
        interlock
            .transact(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 2).await?))
            .await?;
        note(&mut tx, 1).await?;
        Err(Error::not_found())
    }
    test(async |kit| {
        let layer = kit.interlock.require(anyone);
        let app = axum::Router::new()
            .route("/", put_route(handler).route_layer(layer))
            .with_state(kit.interlock.clone());
        put(&app, "/", "").await.assert_problem(ErrorKind::NotFound);
        assert_eq!(kit.notes().await, [2]);
    });
}

#[test]
fn transaction_inside_of_a_transaction_is_rejected() {
    test(async |kit| {
        let interlock = &kit.interlock;
        let result = interlock
            .transact(async |mut tx: Tx| {
                note(&mut tx, 1).await?;
                interlock
                    .transact(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 2).await?))
                    .await
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Misconfigured);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn future_is_send_with_async_closures_and_with_blocks() {
    test(async |kit| {
        let interlock = kit.interlock.clone();
        let closure = tokio::spawn(async move {
            let id = 1;
            interlock
                .transact(async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, id).await?))
                .await
        });
        closure.await.unwrap().unwrap();
        let interlock = kit.interlock.clone();
        let block = tokio::spawn(async move {
            let body = "text".to_owned();
            interlock
                .transact(|mut tx: Tx| {
                    let body = body.clone();
                    async move {
                        let insert = sqlx::query("INSERT INTO notes VALUES (2, $1)").bind(body);
                        insert.execute(&mut tx).await?;
                        Ok::<_, Error>(())
                    }
                })
                .await
        });
        block.await.unwrap().unwrap();
        assert_eq!(kit.notes().await, [1, 2]);
    });
}
