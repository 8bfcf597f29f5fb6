//! The events and fields that the crate logs, and those that it does not log.

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts as _, Request, State},
    http::{StatusCode, header},
    response::IntoResponse as _,
    routing::{MethodRouter, put as put_route},
};
use support::{Fault, Kind, Moment, Proxy, ServerError};
use tokio::sync::Notify;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_interlock::{Authorized, Denied, Error, ErrorKind, Interlock, Outcome, Tx};
use tracing::Level;

use crate::kit::{
    CanEdit, Event, Kit, Log, anyone, can_edit, conflict, logged_text, note, put, send, test,
    traced, write,
};

fn app(interlock: &Interlock, handler: MethodRouter<Kit>, kit: &Kit) -> Router {
    Router::new()
        .route("/{id}", handler.route_layer(interlock.require(can_edit)))
        .with_state(kit.clone())
}

async fn always_conflict(State(kit): State<Kit>, mut tx: Tx) -> Result<(), Error> {
    Ok(conflict(&mut tx, &kit.outside).await?)
}

async fn may_enter() -> Result<(), Error> {
    Ok(())
}

async fn handler(State(kit): State<Kit>, mut tx: Tx) -> Result<(), Error> {
    if tx.attempt() < 3 {
        conflict(&mut tx, &kit.outside).await?;
    }
    Ok(note(&mut tx, 1).await?)
}

#[test]
fn request_has_one_span_with_policies_and_attempt() {
    test(async |kit| {
        let inner = put_route(handler).route_layer(kit.interlock.require(may_enter));
        let app = app(&kit.interlock, inner, &kit);
        let (response, log) = traced(put(&app, "/1", "")).await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.notes().await, [1]);

        let [(name, fields)] = &*log.spans else {
            panic!("{:?}", log.spans);
        };
        assert_eq!(*name, "authorize");
        assert_eq!(
            fields["policies"],
            "it::kit::app::can_edit, it::trace::may_enter"
        );
        assert_eq!(fields["attempt"], "3");
        assert!(!log.events.is_empty());
        assert!(log.events.iter().all(|event| event.span == Some(0)));
    });
}

#[test]
fn request_without_transaction_has_span() {
    test(async |kit| {
        let layer = kit.interlock.require(anyone);
        let app = Router::new().route("/", put_route(async || "ok").route_layer(layer));
        let (response, log) = traced(put(&app, "/", "")).await;
        assert_eq!(response.outcome(), Outcome::NoTransaction);
        assert_eq!(log.spans[0].1["policies"], "it::kit::app::anyone");
        assert!(log.events.is_empty(), "{:?}", log.events);
    });
}

#[test]
fn commit_is_logged_at_debug() {
    async fn handler(mut tx: Tx) -> Result<(), Error> {
        Ok(note(&mut tx, 1).await?)
    }
    test(async |kit| {
        let app = app(&kit.interlock, put_route(handler), &kit);
        let (response, log) = traced(put(&app, "/1", "")).await;
        assert_eq!(response.status, 200);
        let [commit] = *log.find("COMMIT") else {
            panic!("{log:?}");
        };
        assert_eq!(commit.level, Level::DEBUG);
        assert_eq!(commit.get("outcome"), Some("committed"));
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn each_retry_is_logged_at_debug() {
    async fn handler(State(kit): State<Kit>, mut tx: Tx) -> Result<(), Error> {
        if tx.attempt() < 3 {
            conflict(&mut tx, &kit.outside).await?;
        }
        Ok(note(&mut tx, 1).await?)
    }
    test(async |kit| {
        let app = app(&kit.interlock, put_route(handler), &kit);
        let (response, log) = traced(put(&app, "/1", "")).await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.notes().await, [1]);
        let retries = log.find("retrying");
        let attempts: Vec<_> = retries.iter().map(|retry| retry.get("attempt")).collect();
        assert_eq!(attempts, [Some("1"), Some("2")]);
        for retry in retries {
            assert_eq!(retry.level, Level::DEBUG);
            assert_eq!(retry.get("sqlstate"), Some("40001"));
        }
    });
}

#[test]
fn each_rollback_is_logged_at_debug() {
    async fn refuse(mut tx: Tx) -> StatusCode {
        note(&mut tx, 1).await.unwrap();
        StatusCode::CONFLICT
    }
    async fn fail(mut tx: Tx) -> StatusCode {
        note(&mut tx, 1).await.unwrap();
        note(&mut tx, 1).await.unwrap_err();
        StatusCode::BAD_GATEWAY
    }
    test(async |kit| {
        for (handler, status, sqlstate) in [
            (put_route(refuse), "409", None),
            (put_route(fail), "502", Some("23505")),
        ] {
            let app = app(&kit.interlock, handler, &kit);
            let (response, log) = traced(put(&app, "/1", "")).await;
            assert_eq!(response.status.as_str(), status);
            let [rollback] = *log.find("rolled back") else {
                panic!("{log:?}");
            };
            assert_eq!(rollback.level, Level::DEBUG);
            assert_eq!(rollback.get("status"), Some(status));
            assert_eq!(rollback.get("sqlstate"), sqlstate);
            assert!(kit.notes().await.is_empty());
        }
    });
}

#[test]
fn rollback_of_cancelled_request_is_logged_at_debug() {
    async fn handler(State(started): State<&'static Notify>, mut tx: Tx) {
        note(&mut tx, 1).await.unwrap();
        started.notify_one();
        std::future::pending::<()>().await;
    }
    static STARTED: Notify = Notify::const_new();
    test(async |kit| {
        let app = Router::new()
            .route("/", put_route(handler))
            .route_layer(kit.interlock.require(anyone))
            .with_state(&STARTED);
        let cancelled = async {
            tokio::select! {
                _ = put(&app, "/", "") => panic!("a response arrived"),
                () = STARTED.notified() => {}
            }
            kit.interlock.drain().await;
        };
        let ((), log) = traced(cancelled).await;
        assert!(kit.notes().await.is_empty());
        assert_rolled_back(&log);
    });
}

#[test]
fn rollback_of_failed_service_is_logged_at_debug() {
    test(async |kit| {
        let failing = service_fn(async |request: Request| {
            let (mut parts, _) = request.into_parts();
            let mut tx = Tx::from_request_parts(&mut parts, &()).await.unwrap();
            note(&mut tx, 1).await.unwrap();
            Err::<axum::response::Response, _>("broken")
        });
        let service = kit.interlock.require(anyone).layer(failing);
        let failed = async {
            let response = service.oneshot(Request::<Body>::default()).await;
            kit.interlock.drain().await;
            response.unwrap_err()
        };
        let (error, log) = traced(failed).await;
        assert_eq!(error, "broken");
        assert!(kit.notes().await.is_empty());
        assert_rolled_back(&log);
    });
}

#[track_caller]
fn assert_rolled_back(log: &Log) {
    let told = log
        .events
        .iter()
        .any(|event| event.level == Level::DEBUG && event.message().contains("roll"));
    assert!(told, "{log:?}");
}

/// The only event above DEBUG of a failed request.
async fn failure(app: &Router, kind: ErrorKind) -> Event {
    let (response, log) = traced(put(app, "/1", "")).await;
    response.assert_problem(kind);
    let [event] = *log.above_debug() else {
        panic!("{log:?}");
    };
    assert_eq!(event.get("kind"), Some(&*format!("{kind:?}")));
    event.clone()
}

#[test]
fn denial_is_logged_with_reason() {
    async fn denied() -> Result<(), Denied> {
        Err(Denied::new("on a Sunday"))
    }
    async fn hidden() -> Result<(), Denied> {
        Err(Denied::new("a stranger").hidden())
    }
    test(async |kit| {
        for (layer, status, reason) in [
            (kit.interlock.require(denied), 403, "on a Sunday"),
            (kit.interlock.require(hidden), 404, "a stranger"),
        ] {
            let app = Router::new().route("/", put_route(async || {}).route_layer(layer));
            let (response, log) = traced(put(&app, "/", "")).await;
            assert_eq!(response.status, status);
            let [event] = *log.above_debug() else {
                panic!("{log:?}");
            };
            assert_eq!(event.level, Level::INFO);
            assert_eq!(event.get("kind"), Some("Denied"));
            assert_eq!(event.get("cause"), Some(reason));
        }
    });
}

#[test]
fn exhausted_retries_are_logged_as_warning() {
    test(async |kit| {
        let interlock = kit.builder().max_attempts(2).build();
        let app = app(&interlock, put_route(always_conflict), &kit);
        let event = failure(&app, ErrorKind::RetriesExhausted).await;
        assert_eq!(event.level, Level::WARN);
        assert_eq!(event.get("sqlstate"), Some("40001"));
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn unavailable_database_is_logged_as_warning() {
    test(async |kit| {
        let app = app(&kit.interlock, put_route(async || {}), &kit);
        kit.pool.close().await;
        let event = failure(&app, ErrorKind::Unavailable).await;
        assert_eq!(event.level, Level::WARN);
    });
}

#[test]
fn exceeded_deadline_is_logged_as_warning() {
    async fn handler(mut tx: Tx) {
        note(&mut tx, 1).await.unwrap();
        std::future::pending::<()>().await;
    }
    test(async |kit| {
        let interlock = kit.builder().deadline(Duration::from_millis(300)).build();
        let app = app(&interlock, put_route(handler), &kit);
        let event = failure(&app, ErrorKind::DeadlineExceeded).await;
        assert_eq!(event.level, Level::WARN);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn swallowed_error_is_logged_as_error() {
    async fn handler(mut tx: Tx) {
        note(&mut tx, 1).await.unwrap();
        note(&mut tx, 1).await.unwrap_err();
    }
    test(async |kit| {
        let app = app(&kit.interlock, put_route(handler), &kit);
        let event = failure(&app, ErrorKind::TransactionAborted).await;
        assert_eq!(event.level, Level::ERROR);
        assert_eq!(event.get("sqlstate"), Some("23505"));
        assert!(event.get("cause").is_some());
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn escaped_tx_is_logged_as_error() {
    async fn handler(mut tx: Tx) {
        note(&mut tx, 1).await.unwrap();
        std::mem::forget(tx);
    }
    test(async |kit| {
        let app = app(&kit.interlock, put_route(handler), &kit);
        let event = failure(&app, ErrorKind::TxEscaped).await;
        assert_eq!(event.level, Level::ERROR);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn grant_without_policy_is_logged_as_error() {
    async fn handler(_: Authorized<u8>) {}
    test(async |kit| {
        let app = app(&kit.interlock, put_route(handler), &kit);
        let event = failure(&app, ErrorKind::Misconfigured).await;
        assert_eq!(event.level, Level::ERROR);
        let cause = event.get("cause").unwrap();
        assert!(cause.starts_with("no policy of this route grants u8: "));
    });
}

#[test]
fn second_lease_is_logged_as_error() {
    async fn handler(mut one: Tx, mut two: Tx) -> Result<(), Error> {
        note(&mut one, 1).await?;
        Ok(note(&mut two, 2).await?)
    }
    test(async |kit| {
        let app = app(&kit.interlock, put_route(handler), &kit);
        let event = failure(&app, ErrorKind::TxInUse).await;
        assert_eq!(event.level, Level::ERROR);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn database_error_is_logged_as_error() {
    async fn handler(mut tx: Tx) -> Result<(), Error> {
        note(&mut tx, 1).await?;
        sqlx::query("SELECT 1 / (version - version) FROM documents")
            .execute(&mut tx)
            .await?;
        Ok(())
    }
    test(async |kit| {
        let app = app(&kit.interlock, put_route(handler), &kit);
        let event = failure(&app, ErrorKind::Database).await;
        assert_eq!(event.level, Level::ERROR);
        assert_eq!(event.get("sqlstate"), Some("22012"));
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn constraint_violation_at_commit_is_logged_at_info() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            println!("skipped: CockroachDB has no deferred constraints");
            return;
        }
        kit.database
            .run(
                "ALTER TABLE notes ADD CONSTRAINT one UNIQUE (note) DEFERRABLE INITIALLY DEFERRED;
                 INSERT INTO notes VALUES (7, '')",
            )
            .await;
        let app = app(&kit.interlock, put_route(write), &kit);
        let event = failure(&app, ErrorKind::ConstraintViolation).await;
        assert_eq!(event.level, Level::INFO);
        assert_eq!(event.get("sqlstate"), Some("23505"));
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn unknown_outcome_is_logged_as_error() {
    test(async |kit| {
        // A pooler says it like this, and it proves nothing.
        let proxy = Proxy::start(&kit.database);
        proxy.inject(Moment::Commit, Fault::Terminate(ServerError::SHUTDOWN));
        let interlock = Interlock::new(sqlx::PgPool::connect_lazy_with(proxy.options()));
        let app = app(&interlock, put_route(write), &kit);
        let (response, log) = traced(put(&app, "/1", "")).await;
        response.assert_problem(ErrorKind::OutcomeUnknown);
        assert_eq!(response.outcome(), Outcome::Unknown);
        let [commit] = *log.find("COMMIT") else {
            panic!("{log:?}");
        };
        assert_eq!(commit.level, Level::ERROR);
        assert_eq!(commit.get("outcome"), Some("unknown"));
        let [failure] = *log.find("request failed") else {
            panic!("{log:?}");
        };
        assert_eq!(failure.level, Level::ERROR);
        assert_eq!(failure.get("kind"), Some("OutcomeUnknown"));
        assert_eq!(failure.get("sqlstate"), Some("57P01"));
        assert!(kit.notes().await.is_empty());
    });
}

const TOKEN: &str = "token-5f1c02d9";
const BODY: &str = "body-83ae77b1";
const BOUND: &str = "bound-c90d4e26";
const CAST: &str = "cast-19fe77a0";
const SECRETS: [&str; 3] = [TOKEN, BODY, BOUND];

async fn policy(headers: axum::http::HeaderMap, mut tx: Tx) -> Result<CanEdit, Error> {
    let token = headers[header::AUTHORIZATION].to_str().unwrap();
    let known: bool = sqlx::query_scalar("SELECT $1 <> 'unknown'")
        .bind(token)
        .fetch_one(&mut tx)
        .await?;
    Denied::unless(known && !token.ends_with('!'), "the wrong token")?;
    Ok(CanEdit { document: 1 })
}

async fn bind(tx: &mut Tx) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO notes VALUES (1, $1)")
        .bind(BOUND)
        .execute(tx)
        .await?;
    Ok(())
}

async fn store(_: Authorized<CanEdit>, mut tx: Tx, _: String) -> Result<(), Error> {
    bind(&mut tx).await?;
    tx.after_commit(async { panic!("a hook") });
    Ok(())
}

async fn store_twice(mut tx: Tx, body: String) -> Result<String, Error> {
    bind(&mut tx).await?;
    let _ = bind(&mut tx).await;
    Ok(body)
}

async fn fail(mut tx: Tx, _: String) -> Result<(), Error> {
    sqlx::query("SELECT length($1) / 0")
        .bind(BOUND)
        .execute(&mut tx)
        .await?;
    Ok(())
}

async fn conflicting(State(kit): State<Kit>, mut tx: Tx, _: String) -> Result<(), Error> {
    bind(&mut tx).await?;
    Ok(conflict(&mut tx, &kit.outside).await?)
}

async fn refuse(mut tx: Tx, body: String) -> Result<(), axum::response::Response> {
    bind(&mut tx).await.unwrap();
    Err((StatusCode::CONFLICT, body).into_response())
}

/// The error of the server contains the value that it cannot parse.
async fn cast(mut tx: Tx, _: String) -> Result<(), Error> {
    sqlx::query("SELECT $1::TEXT::INT8")
        .bind(CAST)
        .execute(&mut tx)
        .await?;
    Ok(())
}

/// Sends the secrets to `handler`, and asserts that none was logged.
async fn assert_keeps(secrets: [&str; 3], kit: &Kit, handler: MethodRouter<Kit>, status: u16) {
    let interlock = kit.builder().max_attempts(3).build();
    let app = Router::new()
        .route("/", handler.route_layer(interlock.require(policy)))
        .with_state(kit.clone());
    for (token, status) in [(TOKEN, status), ("token-5f1c02d9!", 403)] {
        let request = Request::put("/").header(header::AUTHORIZATION, format!("Bearer {token}"));
        let request = request.body(Body::from(BODY)).unwrap();
        let (response, log) = traced(send(&app, request)).await;
        assert_eq!(response.status, status, "{}", response.body);
        assert!(!log.events.is_empty());
    }
    kit.interlock.drain().await;
    let text = logged_text();
    assert!(text.contains("the wrong token"));
    for secret in secrets {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

#[test]
fn success_logs_no_secret() {
    test(async |kit| assert_keeps(SECRETS, &kit, put_route(store), 200).await);
}

#[test]
fn swallowed_error_logs_no_secret() {
    test(async |kit| assert_keeps(SECRETS, &kit, put_route(store_twice), 500).await);
}

#[test]
fn database_error_logs_no_secret() {
    test(async |kit| assert_keeps(SECRETS, &kit, put_route(fail), 500).await);
}

#[test]
fn conflict_logs_no_secret() {
    test(async |kit| assert_keeps(SECRETS, &kit, put_route(conflicting), 503).await);
}

#[test]
fn error_response_logs_no_secret() {
    test(async |kit| assert_keeps(SECRETS, &kit, put_route(refuse), 409).await);
}

#[test]
fn value_repeated_by_database_error_is_not_logged() {
    test(async |kit| assert_keeps([TOKEN, BODY, CAST], &kit, put_route(cast), 500).await);
}
