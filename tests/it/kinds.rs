//! Every response that the layer makes itself.
//!
//! `Aborted` and `Escaped` have many causes. Their tests are in settlement.rs, connection.rs and
//! escape.rs.

use std::{
    io,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, StatusCode, header},
    response::IntoResponse as _,
    routing::any,
};
use futures::{future::join_all, stream};
use sqlx::{PgPool, postgres::PgPoolOptions};
use support::{Kind, Proxy, Server};
use tower_interlock::{Authorized, Denied, Error, ErrorKind, Interlock, Outcome, Tx};

use crate::kit::{
    CanEdit, DEFERRED, TestResponse, anyone, can_edit, committing, conflict, conflict_once,
    guarded, never, note, pool, put, send, slow_commit, terminate, test, write,
};

/// A pool with a short acquire timeout.
fn impatient() -> PgPoolOptions {
    Interlock::pool_options()
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(300))
}

/// Writes through an interlock on `pool`.
async fn write_on(pool: &PgPool) -> TestResponse {
    let interlock = Interlock::new(pool.clone());
    let response = put(&guarded(interlock.require(anyone), write), "/1", "").await;
    interlock.drain().await;
    response
}

#[track_caller]
fn assert_try_later(response: &TestResponse, kind: ErrorKind) {
    response.assert_problem(kind);
    assert_eq!(response.status, 503);
    assert_eq!(response.header(header::RETRY_AFTER), Some("1"));
}

#[test]
fn denied_request_is_403_without_reason() {
    test(async |kit| {
        let response = put(&guarded(kit.interlock.require(can_edit), never), "/2", "").await;
        response.assert_problem(ErrorKind::Denied);
        assert_eq!(response.status, 403);
        assert!(!response.body.contains("no edit grant"));
    });
}

#[test]
fn hidden_denial_equals_missing_row_byte_for_byte() {
    test(async |kit| {
        async fn hidden() -> Result<(), Denied> {
            Err(Denied::new("a secret").hidden())
        }
        async fn missing(mut tx: Tx) -> Result<(), Error> {
            sqlx::query("SELECT 1 FROM documents WHERE id = 99")
                .fetch_one(&mut tx)
                .await?;
            Ok(())
        }
        let hidden = put(&guarded(kit.interlock.require(hidden), never), "/1", "").await;
        let missing = put(&guarded(kit.interlock.require(anyone), missing), "/1", "").await;
        missing.assert_problem(ErrorKind::NotFound);
        assert_eq!(hidden.status, 404);
        assert_eq!(hidden.status, missing.status);
        assert_eq!(hidden.headers(), missing.headers());
        assert_eq!(hidden.body, missing.body);
    });
}

#[test]
fn unreadable_body_opens_no_transaction() {
    test(async |kit| {
        let broken = || stream::iter([Ok(Bytes::from("half")), Err(io::Error::other("gone"))]);
        let interlock = kit
            .builder()
            .body_limit(4)
            .body_timeout(Duration::from_millis(50))
            .build();
        let app = guarded(interlock.require(can_edit), never);
        for (body, kind, status) in [
            (Body::from("12345"), ErrorKind::BodyTooLarge, 413),
            (
                Body::from_stream(stream::pending::<io::Result<Bytes>>()),
                ErrorKind::BodyTimeout,
                408,
            ),
            (Body::from_stream(broken()), ErrorKind::BodyUnreadable, 400),
        ] {
            let response = send(&app, Request::put("/1").body(body).unwrap()).await;
            response.assert_problem(kind);
            assert_eq!(response.status, status);
            assert_eq!(response.outcome(), Outcome::NoTransaction);
            assert_eq!(response.report().attempts(), 0);
        }
        assert_eq!(kit.pool.size(), 0);
    });
}

#[test]
fn repeated_conflict_exhausts_attempts() {
    test(async |kit| {
        for attempts in [1, 2] {
            let own = kit.clone();
            let handler = move |mut tx: Tx| async move {
                note(&mut tx, 1).await?;
                conflict(&mut tx, &own.outside).await?;
                Ok::<_, Error>("ok")
            };
            let interlock = kit.builder().max_attempts(attempts).build();
            let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
            assert_try_later(&response, ErrorKind::RetriesExhausted);
            assert_eq!(response.outcome(), Outcome::RolledBack);
            assert_eq!(response.report().attempts(), attempts);
            assert!(kit.notes().await.is_empty());
        }
    });
}

#[test]
fn exhausted_pool_is_unavailable() {
    test(async |kit| {
        let pool = impatient().connect_lazy_with(kit.database.options());
        let taken = pool.acquire().await.unwrap();
        assert_try_later(&write_on(&pool).await, ErrorKind::Unavailable);
        assert!(kit.notes().await.is_empty());

        drop(taken);
        assert_eq!(write_on(&pool).await.status, 200);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn unreachable_server_is_unavailable() {
    test(async |kit| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let options = kit.database.options().host("127.0.0.1").port(port);
        let pool = impatient().connect_lazy_with(options);
        assert_try_later(&write_on(&pool).await, ErrorKind::Unavailable);
    });
}

#[test]
fn closed_pool_is_unavailable() {
    test(async |kit| {
        let pool = impatient().connect_lazy_with(kit.database.options());
        pool.close().await;
        assert_try_later(&write_on(&pool).await, ErrorKind::Unavailable);
    });
}

#[test]
fn draining_interlock_is_unavailable() {
    test(async |kit| {
        kit.interlock.drain().await;
        let response = put(&guarded(kit.interlock.require(anyone), never), "/1", "").await;
        assert_try_later(&response, ErrorKind::Unavailable);
        assert_eq!(response.outcome(), Outcome::NoTransaction);
        assert_eq!(response.report().attempts(), 0);
    });
}

#[test]
fn standby_server_is_unavailable() {
    test(async |kit| {
        let standby = tokio::task::spawn_blocking(|| Server::shared().standby());
        let Some(standby) = standby.await.unwrap() else {
            eprintln!("not tested: it takes a PostgreSQL started here");
            return;
        };
        let options = standby.options().database(kit.database.name());
        let pool = impatient()
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(options);
        let response = write_on(&pool).await;
        assert_try_later(&response, ErrorKind::Unavailable);
        assert_eq!(response.report().attempts(), 1);
        pool.close().await;
        tokio::task::spawn_blocking(|| drop(standby)).await.unwrap();
    });
}

#[test]
fn dead_connections_are_replaced() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            eprintln!("not tested: only PostgreSQL ends a session on demand");
            return;
        }
        let size = kit.pool.options().get_max_connections();
        let connections = join_all((0..size).map(|_| kit.pool.acquire())).await;
        let mut pids = Vec::new();
        for connection in connections {
            let query = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()");
            pids.push(query.fetch_one(&mut *connection.unwrap()).await.unwrap());
        }
        while kit.pool.num_idle() < size as usize {
            tokio::task::yield_now().await;
        }
        for pid in pids {
            terminate(&kit, pid).await;
        }

        let response = put(&guarded(kit.interlock.require(anyone), write), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.report().attempts(), 1);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn slow_handler_exceeds_deadline() {
    test(async |kit| {
        async fn handler(tx: Tx) -> Result<(), Error> {
            write(tx).await?;
            std::future::pending().await
        }
        let interlock = kit.builder().deadline(Duration::from_millis(300)).build();
        let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(response.status, 503);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        interlock.drain().await;
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn server_statement_timeout_exceeds_deadline() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<&'static str, Error> {
            note(&mut tx, 1).await?;
            sqlx::query("SELECT pg_sleep(30)").execute(&mut tx).await?;
            Ok("ok")
        }
        let options = PgPoolOptions::new().after_connect(|connection, _| {
            Box::pin(async move {
                let set = sqlx::query("SET statement_timeout = '200ms'");
                set.execute(connection).await.map(drop)
            })
        });
        let pool = options.connect_lazy_with(kit.database.options());
        let interlock = Interlock::new(pool);
        let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        interlock.drain().await;
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn constraint_violation_at_commit_is_409() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            eprintln!("not tested: only PostgreSQL has deferred constraints");
            return;
        }
        kit.database.run(DEFERRED).await;
        let response = put(&guarded(kit.interlock.require(anyone), write), "/1", "").await;
        response.assert_problem(ErrorKind::ConstraintViolation);
        assert_eq!(response.status, 409);
        assert!(!response.body.contains("fkey"));
        assert_eq!(response.outcome(), Outcome::RolledBack);
        // R7
        assert_eq!(response.report().attempts(), 2);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn tx_without_layer_is_misconfigured() {
    test(async |_| {
        let app = Router::new().route("/{id}", any(write));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::Misconfigured);
        assert_eq!(response.status, 500);
    });
}

#[test]
fn grant_without_policy_is_misconfigured() {
    test(async |kit| {
        async fn handler(_: Authorized<CanEdit>) {
            never().await;
        }
        let app = guarded(kit.interlock.require(anyone), handler);
        put(&app, "/1", "")
            .await
            .assert_problem(ErrorKind::Misconfigured);
        let app = Router::new().route("/{id}", any(handler));
        put(&app, "/1", "")
            .await
            .assert_problem(ErrorKind::Misconfigured);
    });
}

#[test]
fn transaction_control_is_misconfigured() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<&'static str, Error> {
            note(&mut tx, 1).await?;
            sqlx::query("COMMIT").execute(&mut tx).await?;
            Ok("ok")
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::Misconfigured);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn second_tx_while_first_is_leased_fails() {
    test(async |kit| {
        async fn handler(mut one: Tx, mut other: Tx) -> Result<&'static str, Error> {
            note(&mut one, 1).await?;
            note(&mut other, 2).await?;
            Ok("ok")
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::TxInUse);
        assert_eq!(response.status, 500);
        assert!(kit.notes().await.is_empty());

        async fn swallows(mut one: Tx, mut other: Tx) -> Result<&'static str, Error> {
            note(&mut one, 1).await?;
            let _ = note(&mut other, 2).await;
            Ok("ok")
        }
        let response = put(&guarded(kit.interlock.require(anyone), swallows), "/1", "").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn second_tx_after_first_is_dropped_succeeds() {
    test(async |kit| {
        async fn handler(mut one: Tx, mut other: Tx) -> Result<&'static str, Error> {
            note(&mut one, 1).await?;
            drop(one);
            note(&mut other, 2).await?;
            Ok("ok")
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}

#[test]
fn statement_error_is_database_error() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<&'static str, Error> {
            note(&mut tx, 1).await?;
            sqlx::query("SELECT 1 / (version - version) FROM documents")
                .execute(&mut tx)
                .await?;
            Ok("ok")
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::Database);
        assert_eq!(response.status, 500);
        let error: &Error = response.error().unwrap();
        assert_eq!(error.sqlstate(), Some("22012"));
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn duplicate_in_a_statement_is_constraint_violation() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> Result<&'static str, Error> {
            note(&mut tx, 1).await?;
            note(&mut tx, 1).await?;
            Ok("ok")
        }
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::ConstraintViolation);
        assert_eq!(response.status, 409);
        let error: &Error = response.error().unwrap();
        assert_eq!(error.sqlstate(), Some("23505"));
        assert!(kit.notes().await.is_empty());
    });
}

/// P7: a check that could not run is a 5xx.
#[test]
fn duplicate_in_a_policy_is_no_denial() {
    async fn passed_on(mut tx: Tx) -> Result<(), Error> {
        note(&mut tx, 1).await?;
        Ok(note(&mut tx, 1).await?)
    }
    async fn swallowed(mut tx: Tx) -> Result<(), Error> {
        note(&mut tx, 1).await?;
        let _ = note(&mut tx, 1).await;
        Ok(())
    }
    async fn denied(mut tx: Tx) -> Result<(), Error> {
        note(&mut tx, 1).await?;
        let _ = note(&mut tx, 1).await;
        Ok(Denied::unless(false, "no")?)
    }
    test(async |kit| {
        for layer in [
            kit.interlock.require(passed_on),
            kit.interlock.require(swallowed),
            kit.interlock.require(denied),
        ] {
            let response = put(&guarded(layer, async || "ok"), "/1", "").await;
            response.assert_problem(ErrorKind::Database);
            assert_eq!(response.outcome(), Outcome::RolledBack);
            assert!(kit.notes().await.is_empty());
        }
    });
}

/// A write whose hook sets the flag.
fn with_hook(interlock: &Interlock) -> (Router, Arc<AtomicBool>) {
    let hook_ran = Arc::new(AtomicBool::new(false));
    let ran = Arc::clone(&hook_ran);
    let handler = move |mut tx: Tx| async move {
        note(&mut tx, 1).await?;
        tx.after_commit(async move { ran.store(true, Ordering::SeqCst) });
        Ok::<_, Error>("ok")
    };
    (guarded(interlock.require(anyone), handler), hook_ran)
}

#[test]
fn connection_lost_in_commit_is_outcome_unknown() {
    test(async |kit| {
        let Some(_held) = slow_commit(&kit).await else {
            return;
        };
        let proxy = Proxy::start(&kit.database);
        let interlock = Interlock::new(PgPool::connect_lazy_with(proxy.options()));
        let (app, hook_ran) = with_hook(&interlock);
        let request = tokio::spawn(async move { put(&app, "/1", "").await });
        let session = committing(&kit).await;
        proxy.cut();
        let response = request.await.unwrap();
        response.assert_problem(ErrorKind::OutcomeUnknown);
        assert_unknown(&response);
        terminate(&kit, session).await;
        interlock.drain().await;
        assert!(!hook_ran.load(Ordering::SeqCst));
        assert!(kit.notes().await.is_empty());
    });
}

/// PostgreSQL does not say so of a COMMIT that it has done (C4).
#[test]
fn session_terminated_in_commit_is_retried() {
    test(async |kit| {
        let Some(held) = slow_commit(&kit).await else {
            return;
        };
        let (app, hook_ran) = with_hook(&kit.interlock);
        let request = tokio::spawn(async move { put(&app, "/1", "").await });
        terminate(&kit, committing(&kit).await).await;
        drop(held);
        let response = request.await.unwrap();
        let seen = (response.status.as_u16(), response.report().attempts());
        assert_eq!(seen, (200, 2), "{:?}", response.error());
        assert_eq!(response.outcome(), Outcome::Committed);
        kit.interlock.drain().await;
        assert!(hook_ran.load(Ordering::SeqCst));
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn commit_past_deadline_and_grace_is_outcome_unknown() {
    test(async |kit| {
        let Some(held) = slow_commit(&kit).await else {
            return;
        };
        let interlock = kit
            .builder()
            .deadline(Duration::from_millis(300))
            .grace(Duration::from_millis(300))
            .build();
        let (app, hook_ran) = with_hook(&interlock);
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::OutcomeUnknown);
        assert_unknown(&response);

        // COMMIT continues, and here it succeeds.
        drop(held);
        interlock.drain().await;
        assert!(hook_ran.load(Ordering::SeqCst));
        assert_eq!(kit.notes().await, [1]);
    });
}

#[track_caller]
fn assert_unknown(response: &TestResponse) {
    assert_eq!(response.status, 500);
    assert_eq!(response.outcome(), Outcome::Unknown);
    assert_eq!(response.report().attempts(), 1);
    let problem: serde_json::Value = serde_json::from_str(&response.body).unwrap();
    assert!(problem["type"].as_str().unwrap().contains("OutcomeUnknown"));
}

#[test]
fn error_response_renders_every_error() {
    test(async |kit| {
        let builder = kit.builder().body_limit(4).max_attempts(1);
        let builder = builder.error_response(|error| {
            let text = format!("{:?} {}", error.kind(), error.status().as_u16());
            (StatusCode::IM_A_TEAPOT, text).into_response()
        });
        let interlock = builder.build();
        let own = kit.clone();
        let missing = async || Err::<(), _>(Error::not_found());
        let hidden = async || Err::<(), _>(Denied::new("a secret").hidden());
        let conflicts = move |mut tx: Tx| async move {
            conflict_once(&mut tx, &own.outside).await?;
            Ok::<_, Error>("ok")
        };
        let swallows = async |mut tx: Tx| {
            let _ = sqlx::query("SELECT 1 FROM missing").execute(&mut tx).await;
            "ok"
        };
        for (app, body, expected) in [
            (
                guarded(interlock.require(can_edit), never),
                "12345",
                "BodyTooLarge 413",
            ),
            (
                guarded(interlock.require(can_edit), never),
                "",
                "Denied 403",
            ),
            (guarded(interlock.require(hidden), never), "", "Denied 404"),
            (
                guarded(interlock.require(anyone), missing),
                "",
                "NotFound 404",
            ),
            (guarded(interlock.require(anyone), hidden), "", "Denied 404"),
            (
                guarded(interlock.require(anyone), conflicts),
                "",
                "RetriesExhausted 503",
            ),
            (
                guarded(interlock.require(anyone), swallows),
                "",
                "TransactionAborted 500",
            ),
        ] {
            let response = put(&app, "/2", body).await;
            assert_eq!(
                (response.status.as_u16(), response.body.as_str()),
                (418, expected)
            );
            assert!(response.error().is_some());
        }
    });
}

#[test]
fn own_error_response_is_unchanged() {
    test(async |kit| {
        let builder = kit.builder();
        let interlock = builder.error_response(|_| panic!("not an Error")).build();
        let own = async || (StatusCode::CONFLICT, "mine");
        let response = put(&guarded(interlock.require(anyone), own), "/1", "").await;
        assert_eq!(
            (response.status.as_u16(), response.body.as_str()),
            (409, "mine")
        );
    });
}

#[test]
fn pool_with_any_options_works() {
    test(async |kit| {
        let plain = PgPoolOptions::new().connect_lazy_with(kit.database.options());
        for pool in [plain, pool(&kit.database, 1)] {
            assert_eq!(write_on(&pool).await.outcome(), Outcome::Committed);
            sqlx::query("DELETE FROM notes")
                .execute(&kit.outside)
                .await
                .unwrap();
        }
    });
}

/// C5 applies to CockroachDB only. On PostgreSQL this SQLSTATE is an error like any other (C4).
#[test]
fn xxa00_on_postgresql_is_rolled_back() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            return eprintln!("not tested: CockroachDB has no deferred trigger");
        }
        kit.database.run(FAILS_AT_COMMIT).await;
        let response = put(&guarded(kit.interlock.require(anyone), write), "/1", "").await;
        response.assert_problem(ErrorKind::Database);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());
    });
}

const FAILS_AT_COMMIT: &str = "
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING ERRCODE = 'XXA00'; END $$;
    CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail();
";
