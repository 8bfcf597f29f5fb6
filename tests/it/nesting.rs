//! Nested layers. Those of one `Interlock` share a transaction, those of two are rejected.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
    routing::any,
};
use support::{Fault, Kind, Moment, Proxy, ServerError};
use tower_interlock::{
    AuthorizeLayer, Authorized, Denied, Error, ErrorKind, Interlock, Outcome, Tx,
};

use crate::kit::{Kit, anyone, conflict_once, guarded, never, note, put, send, test, write};

/// The notes as the transaction sees them.
async fn seen(tx: &mut Tx) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT id FROM notes ORDER BY id")
        .fetch_all(tx)
        .await
}

async fn outer(mut tx: Tx) -> Result<(), Error> {
    Ok(note(&mut tx, 1).await?)
}

async fn denies(mut tx: Tx) -> Result<(), Error> {
    note(&mut tx, 2).await?;
    Err(Denied::new("no").into())
}

/// Turns every inner response into a 200.
async fn whitewash(request: Request, next: Next) -> Response {
    next.run(request).await;
    "fine".into_response()
}

#[derive(Clone)]
struct First;

#[derive(Clone)]
struct Second(Vec<i64>);

async fn first(mut tx: Tx) -> Result<First, Error> {
    note(&mut tx, 1).await?;
    Ok(First)
}

async fn second(_: Authorized<First>, mut tx: Tx) -> Result<Second, Error> {
    let before = seen(&mut tx).await?;
    note(&mut tx, 2).await?;
    Ok(Second(before))
}

#[test]
fn policies_and_handler_share_one_transaction() {
    test(async |kit| {
        let own = kit.clone();
        let handler = move |_: Authorized<First>, grant: Authorized<Second>, mut tx: Tx| async move {
            assert_eq!(grant.0, [1]);
            assert_eq!(seen(&mut tx).await?, [1, 2]);
            note(&mut tx, 3).await?;
            // One BEGIN on one connection, and no COMMIT yet.
            assert_eq!(own.pool.size() as usize - own.pool.num_idle(), 1);
            assert!(own.notes().await.is_empty());
            Ok::<_, Error>("ok")
        };
        let app = guarded(kit.interlock.require(second), handler);
        let app = app.route_layer(kit.interlock.require(first));
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(response.report().attempts(), 1);
        let [one, other] = response.report().policies() else {
            panic!("{:?}", response.report());
        };
        assert!(one.ends_with("::first") && other.ends_with("::second"));
        assert_eq!(kit.notes().await, [1, 2, 3]);
    });
}

#[test]
fn nested_layers_share_one_transaction_id() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            eprintln!("not tested: only PostgreSQL numbers its transactions");
            return;
        }
        async fn number(tx: &mut Tx) -> Result<i64, sqlx::Error> {
            sqlx::query_scalar("SELECT txid_current()")
                .fetch_one(tx)
                .await
        }
        #[derive(Clone)]
        struct Outer(i64);
        #[derive(Clone)]
        struct Inner(i64);
        let outer = async |mut tx: Tx| Ok::<_, Error>(Outer(number(&mut tx).await?));
        let inner = async |mut tx: Tx| Ok::<_, Error>(Inner(number(&mut tx).await?));
        let handler = async |outer: Authorized<Outer>, inner: Authorized<Inner>, mut tx: Tx| {
            let own = number(&mut tx).await?;
            assert_eq!((outer.0, inner.0), (own, own));
            Ok::<_, Error>("ok")
        };
        let app = guarded(kit.interlock.require(inner), handler);
        let app = app.route_layer(kit.interlock.require(outer));
        assert_eq!(put(&app, "/1", "").await.status, 200);
    });
}

#[test]
fn conflict_inside_retries_whole_request() {
    test(async |kit| {
        let own = kit.clone();
        let inner = move |mut tx: Tx| async move {
            let attempt = tx.attempt();
            note(&mut tx, 10 + i64::from(attempt)).await?;
            conflict_once(&mut tx, &own.outside).await?;
            Ok::<_, Error>(())
        };
        // The settings of the outermost layer apply. This one allows one attempt.
        let inner = kit.interlock.require(inner).max_attempts(1);
        let app = guarded(inner, async || "ok").route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.report().attempts(), 2);
        assert_eq!(response.report().policies().len(), 2);
        assert_eq!(kit.notes().await, [1, 12]);
    });
}

#[test]
fn inner_denial_rolls_back_everything() {
    test(async |kit| {
        let app = guarded(kit.interlock.require(denies), never);
        let app = app.route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::Denied);
        assert_eq!(response.report().policies().len(), 2);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn outer_denial_comes_first() {
    test(async |kit| {
        let inner = async || -> Result<(), Error> { panic!("the inner policy ran") };
        let app = guarded(kit.interlock.require(inner), never);
        let app = app.route_layer(kit.interlock.require(denies));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::Denied);
        assert_eq!(response.report().policies().len(), 1);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn inner_layer_with_other_settings_joins() {
    test(async |kit| {
        let inner = kit.interlock.clone().require(anyone);
        let inner = inner.deadline(Duration::ZERO).body_limit(0);
        let app = guarded(inner, write);
        let app = app.route_layer(kit.interlock.require(anyone));
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn layer_of_another_interlock_is_rejected() {
    test(async |kit| {
        let other = Interlock::new(kit.pool.clone());
        let app = guarded(other.require(anyone), never);
        let app = app.route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::Misconfigured);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn rejected_foreign_layer_cannot_become_success() {
    test(async |kit| {
        let other = Interlock::new(kit.pool.clone());
        let app = guarded(other.require(anyone), never)
            .route_layer(from_fn(whitewash))
            .route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

// READ ONLY

/// A policy that reads, so that the transaction begins before the inner layer narrows it.
async fn reads(mut tx: Tx) -> Result<(), Error> {
    seen(&mut tx).await?;
    Ok(())
}

/// A handler that cannot write, behind `inner` and a policy that has written.
async fn assert_narrowed(kit: &Kit, inner: AuthorizeLayer, outer: AuthorizeLayer) {
    async fn handler(mut tx: Tx) -> &'static str {
        let rejected = Error::from(note(&mut tx, 2).await.unwrap_err());
        assert_eq!(rejected.sqlstate(), Some("25006"));
        "ok"
    }
    let response = put(&guarded(inner, handler).route_layer(outer), "/1", "").await;
    response.assert_problem(ErrorKind::TransactionAborted);
    assert!(kit.notes().await.is_empty());
}

#[test]
fn inner_read_only_narrows_transaction() {
    test(async |kit| {
        let inner = kit.interlock.require(anyone).read_only();
        assert_narrowed(&kit, inner, kit.interlock.require(outer)).await;
        let inner = kit.interlock.require(reads).read_only();
        assert_narrowed(&kit, inner, kit.interlock.require(anyone)).await;
        let inner = kit.interlock.require(reads).read_only();
        let outer = kit.interlock.require(reads).read_only();
        assert_narrowed(&kit, inner, outer).await;
    });
}

#[test]
fn inner_read_only_keeps_outer_writes() {
    test(async |kit| {
        let handler = async |mut tx: Tx| {
            assert_eq!(seen(&mut tx).await?, [1]);
            Ok::<_, Error>("ok")
        };
        let app = guarded(kit.interlock.require(reads).read_only(), handler);
        let app = app.route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

/// The next attempt begins in place of the transaction that was narrowed.
#[test]
fn inner_read_only_narrows_no_further_attempt() {
    test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options().max_connections(1);
        let interlock = Interlock::new(pool.connect_lazy_with(proxy.options()));
        let read = Moment::Text("FROM documents");
        proxy.inject(read, Fault::Reject(ServerError::RESTART));
        let handler = async |mut tx: Tx| {
            sqlx::query("SELECT id FROM documents")
                .fetch_all(&mut tx)
                .await?;
            Ok::<_, Error>("ok")
        };
        let app = guarded(interlock.require(reads).read_only(), handler);
        let app = app.route_layer(interlock.require(outer));
        let response = put(&app, "/1", "").await;
        let seen = (response.status.as_u16(), response.report().attempts());
        assert_eq!(seen, (200, 2), "{:?}", response.error());
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn inner_read_only_narrows_after_dropped_savepoint() {
    async fn outer(mut tx: Tx) -> Result<(), Error> {
        let mut savepoint = tx.savepoint().await?;
        let insert = sqlx::query("INSERT INTO notes VALUES (1, '')");
        insert.execute(&mut savepoint).await?;
        Ok(())
    }
    test(async |kit| {
        let inner = kit.interlock.require(anyone).read_only();
        assert_narrowed(&kit, inner, kit.interlock.require(outer)).await;
    });
}

#[test]
fn writer_inside_read_only_layer_is_rejected() {
    test(async |kit| {
        for opened in [true, false] {
            let outer = if opened {
                kit.interlock.require(reads)
            } else {
                kit.interlock.require(anyone)
            };
            let app = guarded(kit.interlock.require(anyone), never);
            let app = app.route_layer(outer.read_only());
            let response = put(&app, "/1", "").await;
            response.assert_problem(ErrorKind::Misconfigured);
        }
    });
}

// Middleware between the layers

#[test]
fn middleware_between_layers_shares_transaction() {
    async fn middleware(mut tx: Tx, request: Request, next: Next) -> Result<Response, Error> {
        assert_eq!(seen(&mut tx).await?, [1]);
        note(&mut tx, 2).await?;
        drop(tx);
        Ok(next.run(request).await)
    }
    async fn inner(mut tx: Tx) -> Result<(), Error> {
        assert_eq!(seen(&mut tx).await?, [1, 2]);
        Ok(note(&mut tx, 3).await?)
    }
    test(async |kit| {
        for (status, notes) in [(404, vec![]), (200, vec![1, 2, 3])] {
            let status = StatusCode::from_u16(status).unwrap();
            let app = guarded(kit.interlock.require(inner), async move || status)
                .route_layer(from_fn(middleware))
                .route_layer(kit.interlock.require(outer));
            assert_eq!(put(&app, "/1", "").await.status, status);
            assert_eq!(kit.notes().await, notes);
        }
    });
}

#[test]
fn denial_rebuilt_into_200_is_not_committed() {
    test(async |kit| {
        let app = guarded(kit.interlock.require(denies), never)
            .route_layer(from_fn(whitewash))
            .route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn denial_may_be_rebuilt_into_another_4xx() {
    async fn hide(request: Request, next: Next) -> Response {
        next.run(request).await;
        (StatusCode::NOT_FOUND, "nothing here").into_response()
    }
    test(async |kit| {
        let app = guarded(kit.interlock.require(denies), never)
            .route_layer(from_fn(hide))
            .route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 404);
        assert_eq!(response.body, "nothing here");
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn failed_policy_cannot_be_rebuilt_into_denial() {
    async fn fails() -> Result<(), StatusCode> {
        Err(StatusCode::BAD_GATEWAY)
    }
    async fn deny(request: Request, next: Next) -> StatusCode {
        next.run(request).await;
        StatusCode::FORBIDDEN
    }
    test(async |kit| {
        let app = guarded(kit.interlock.require(fails), never)
            .route_layer(from_fn(deny))
            .route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn handler_error_rebuilt_into_200_is_not_committed() {
    test(async |kit| {
        for status in [400, 404, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            let handler = move |tx: Tx| async move {
                write(tx).await?;
                Ok::<_, Error>(status)
            };
            let app = guarded(kit.interlock.require(anyone), handler)
                .route_layer(from_fn(whitewash))
                .route_layer(kit.interlock.require(anyone));
            let response = put(&app, "/1", "").await;
            response.assert_problem(ErrorKind::TransactionAborted);
            assert!(kit.notes().await.is_empty());
        }
    });
}

#[test]
fn cancelled_inner_layer_fails_request() {
    /// Drops the inner service before it has ended.
    async fn impatient(request: Request, next: Next) -> &'static str {
        let mut inside = Box::pin(next.run(request));
        while !RAN.load(Ordering::SeqCst) {
            assert!(futures::poll!(&mut inside).is_pending());
            tokio::task::yield_now().await;
        }
        "enough"
    }
    static RAN: AtomicBool = AtomicBool::new(false);
    test(async |kit| {
        let handler = async |mut tx: Tx| {
            note(&mut tx, 2).await.unwrap();
            drop(tx);
            RAN.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        };
        let app = guarded(kit.interlock.require(anyone), handler)
            .route_layer(from_fn(impatient))
            .route_layer(kit.interlock.require(outer));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn panicked_inner_layer_fails_request() {
    async fn catch(request: Request, next: Next) -> &'static str {
        let inside = tokio::spawn(next.run(request));
        assert!(inside.await.unwrap_err().is_panic());
        "caught"
    }
    test(async |kit| {
        let handler = async |tx: Tx| {
            write(tx).await.unwrap();
            never().await;
        };
        let app = guarded(kit.interlock.require(anyone), handler)
            .route_layer(from_fn(catch))
            .route_layer(kit.interlock.require(anyone));
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn requests_side_by_side_use_separate_transactions() {
    test(async |kit| {
        let ran = Arc::new(AtomicBool::new(false));
        let set_ran = Arc::clone(&ran);
        let inner = guarded(kit.interlock.require(anyone), write);
        // A separate request that a task of its own sends meanwhile has a separate transaction.
        let handler = move |mut tx: Tx| async move {
            note(&mut tx, 2).await?;
            let sent = tokio::spawn(async move { put(&inner, "/1", "").await });
            assert_eq!(sent.await.unwrap().status, 200);
            set_ran.store(true, Ordering::SeqCst);
            Err::<(), _>(Error::not_found())
        };
        let app = Router::new()
            .route("/{id}", any(handler))
            .route_layer(kit.interlock.require(anyone));
        assert_eq!(put(&app, "/1", "").await.status, 404);
        assert!(ran.load(Ordering::SeqCst));
        assert_eq!(kit.notes().await, [1]);
    });
}

/// A request with the extensions of a finished request has a transaction of its own.
#[test]
fn finished_request_is_not_joined() {
    test(async |kit| {
        let kept = Arc::new(std::sync::Mutex::new(None));
        let keep = Arc::clone(&kept);
        let handler = move |mut tx: Tx, request: Request| async move {
            *keep.lock().unwrap() = Some(request.extensions().clone());
            note(&mut tx, 2).await.map_err(Error::from)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        let app = guarded(kit.interlock.require(anyone), write);
        let mut request = Request::put("/1").body(axum::body::Body::empty()).unwrap();
        *request.extensions_mut() = kept.lock().unwrap().take().unwrap();
        let response = send(&app, request).await;
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}
