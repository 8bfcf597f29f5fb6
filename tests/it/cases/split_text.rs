//! A text that commits in its middle is detected, but its COMMIT cannot be undone.

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::http::StatusCode;
use sqlx::Executor as _;
use support::{Fault, Kind, Moment, Proxy};
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Tx};

use super::cause;
use crate::kit::{Kit, TestResponse, anyone, guarded, put, test};

async fn run(kit: &Kit, text: &'static str) -> TestResponse {
    let app = guarded(kit.interlock.require(anyone), async move |mut tx: Tx| {
        sqlx::query("UPDATE documents SET version = version + 1 WHERE id = 1")
            .execute(&mut tx)
            .await?;
        sqlx::raw_sql(text).execute(&mut tx).await?;
        Ok::<_, Error>(())
    });
    put(&app, "/1", "").await
}

/// An outcome of `RolledBack` would say that nothing is stored.
#[track_caller]
fn assert_unknown(response: &TestResponse) {
    response.assert_problem(ErrorKind::TransactionAborted);
    assert_eq!(response.report().attempts(), 1, "{}", cause(response));
    assert_eq!(response.outcome(), Outcome::Unknown);
}

#[test]
fn text_that_commits_in_its_middle_is_unknown() {
    test(async |kit| {
        let text = "INSERT INTO notes VALUES (1, ''); COMMIT; INSERT INTO notes VALUES (2, '')";
        let response = run(&kit, text).await;
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![1, 2]));
        assert_unknown(&response);
    });
}

#[test]
fn text_that_commits_and_begins_anew_is_unknown() {
    test(async |kit| {
        let text =
            "INSERT INTO notes VALUES (1, ''); COMMIT; BEGIN; INSERT INTO notes VALUES (2, '')";
        let response = run(&kit, text).await;
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![1]));
        assert_unknown(&response);
    });
}

#[test]
fn text_that_commits_and_then_fails_is_unknown() {
    test(async |kit| {
        let response = run(&kit, "SELECT 1; COMMIT; SELECT * FROM missing").await;
        assert_eq!(kit.version(1).await, 1);
        assert_unknown(&response);
    });
}

/// A retry would repeat the work that is committed already.
#[test]
fn text_that_commits_and_then_meets_a_conflict_is_not_run_again() {
    test(async |kit| {
        let text = match kit.database.kind() {
            Kind::PostgreSql => {
                "SELECT 1; COMMIT; DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$"
            }
            Kind::CockroachDb => {
                "SELECT 1; COMMIT; SELECT crdb_internal.force_error('40001', 'conflict')"
            }
        };
        let response = run(&kit.with_attempts(3), text).await;
        assert_eq!(
            kit.version(1).await,
            1,
            "{} attempts",
            response.report().attempts()
        );
        assert_unknown(&response);
    });
}

/// The reply is lost, and with it the proof that nothing was committed before.
#[test]
fn text_that_commits_and_loses_its_connection_is_unknown() {
    test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        proxy.inject(Moment::Text("pg_typeof"), Fault::CutAfter);
        let kit = kit.through(&proxy);
        let response = run(&kit, "SELECT 1; COMMIT; SELECT pg_typeof(1)").await;
        assert_eq!(kit.version(1).await, 1);
        assert_unknown(&response);
        kit.interlock.drain().await;
    });
}

/// A text that cannot end the transaction is rolled back with its connection.
#[test]
fn text_of_several_statements_that_loses_its_connection_is_run_again() {
    test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        proxy.inject(Moment::Text("pg_typeof"), Fault::CutAfter);
        let kit = kit.through(&proxy);
        let response = run(&kit, "SELECT 1; SELECT pg_typeof(1)").await;
        assert_eq!(response.status, 200, "{}", cause(&response));
        assert_eq!((response.report().attempts(), kit.version(1).await), (2, 1));
        kit.interlock.drain().await;
    });
}

/// The status of the handler says nothing about the COMMIT before it.
#[test]
fn raw_commit_under_any_reply_is_unknown() {
    test(async |kit| {
        for status in [200, 302, 400, 404, 500, 503] {
            let status = StatusCode::from_u16(status).unwrap();
            let handler = async move |mut tx: Tx| {
                tx.connection().await?.execute("COMMIT").await?;
                Ok::<_, Error>(status)
            };
            let app = guarded(kit.interlock.require(anyone), handler);
            assert_unknown(&put(&app, "/1", "").await);
        }
    });
}

/// An error of another connection does not say that this one is lost.
#[test]
fn raw_commit_under_a_lost_connection_of_another_pool_is_unknown() {
    test(async |kit| {
        let handler = async move |mut tx: Tx| {
            let text = "INSERT INTO notes VALUES (1, ''); COMMIT";
            tx.connection().await?.execute(text).await?;
            let lost = io::Error::from(io::ErrorKind::ConnectionReset);
            Err::<(), _>(Error::from(sqlx::Error::Io(lost)))
        };
        let interlock = kit.with_attempts(3).interlock;
        let app = guarded(interlock.require(anyone), handler);
        assert_unknown(&put(&app, "/1", "").await);
        assert_eq!(kit.notes().await, [1]);
    });
}

/// The statement after the text has failed, and its `Tx` keeps the transaction.
#[test]
fn text_that_commits_under_a_tx_that_escaped_is_unknown() {
    test(async |kit| {
        let escaped = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&escaped);
        let handler = async move |mut tx: Tx| {
            let text = "INSERT INTO notes VALUES (1, ''); COMMIT";
            sqlx::raw_sql(text).execute(&mut tx).await?;
            let behind = sqlx::query("SELECT 1").execute(&mut tx).await;
            assert!(behind.is_err());
            *kept.lock().unwrap() = Some(tx);
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_unknown(&put(&app, "/1", "").await);
        assert_eq!(kit.notes().await, [1]);
        drop(escaped);
    });
}

/// An error on the raw connection does not end the transaction.
#[test]
fn raw_connection_under_an_error_is_rolled_back() {
    test(async |kit| {
        for text in ["SELECT missing", "INSERT INTO notes VALUES (1, '')"] {
            let handler = async move |mut tx: Tx| {
                let _ = tx.connection().await?.execute(text).await;
                Err::<(), _>(Error::not_found())
            };
            let app = guarded(kit.interlock.require(anyone), handler);
            let response = put(&app, "/1", "").await;
            assert_eq!(
                (response.status.as_u16(), response.outcome()),
                (404, Outcome::RolledBack)
            );
            assert_eq!(kit.notes().await, [0_i64; 0]);
        }
    });
}

#[test]
fn error_of_transact_with_a_text_that_commits_says_that_the_outcome_is_unknown() {
    test(async |kit| {
        let work = async |mut tx: Tx| {
            sqlx::raw_sql("INSERT INTO notes VALUES (1, ''); COMMIT")
                .execute(&mut tx)
                .await?;
            Ok::<_, Error>(())
        };
        let error = kit.interlock.transact(work).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.outcome()),
            (ErrorKind::TransactionAborted, Outcome::Unknown)
        );
        assert_eq!(kit.notes().await, [1]);
    });
}

/// The text has stored nothing, and the response may say so.
#[test]
fn text_that_rolls_back_in_its_middle_keeps_nothing_before_it() {
    test(async |kit| {
        let response = run(&kit, "SELECT 1; ROLLBACK; BEGIN").await;
        assert_eq!(response.status, 500);
        assert_eq!((kit.version(1).await, kit.notes().await), (0, vec![]));
    });
}

impl Kit {
    /// The kit with a limit of attempts, in case the request is retried again and again.
    fn with_attempts(&self, attempts: u32) -> Self {
        let mut kit = self.clone();
        kit.interlock = kit.builder().max_attempts(attempts).build();
        kit
    }

    /// The kit with an interlock whose connections lead through `proxy`.
    fn through(&self, proxy: &Proxy) -> Self {
        let mut kit = self.clone();
        let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
        kit.interlock = Interlock::new(pool);
        kit
    }
}
