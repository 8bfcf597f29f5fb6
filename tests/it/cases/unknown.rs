//! Work with an unknown outcome is never repeated, whatever error or response contains it.

use std::{convert::Infallible, error::Error as StdError, fmt};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use sqlx::PgPool;
use support::{Fault, Moment, Proxy};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_interlock::{Condition, ConditionalWrite, Error, ErrorKind, Interlock, Outcome, Tx};

use super::cause;
use crate::kit::{Kit, anyone, conflict, guarded, note, put, read, test};

/// No other statement of these tests contains `body = 'counted'`.
const COUNT: &str = "UPDATE documents SET version = version + 1, body = 'counted' WHERE id = 1";

static WRITE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET version = version + 1, body = 'counted' WHERE id = 1 AND {conditions} RETURNING version",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
    )],
);

async fn write(interlock: &Interlock) -> Result<(), Error> {
    WRITE.unbound().execute(interlock).await?;
    Ok(())
}

/// An interlock on a pool of its own. Its next such statement is executed, and the response is
/// lost.
fn other(kit: &Kit) -> (Proxy, PgPool, Interlock) {
    let proxy = Proxy::start(&kit.database);
    let pool = Interlock::pool_options()
        .max_connections(2)
        .connect_lazy_with(proxy.options());
    proxy.inject(Moment::Text("body = 'counted'"), Fault::CutAfter);
    (proxy, pool.clone(), Interlock::new(pool))
}

/// The write was made once, and the response says that the outcome is unknown.
async fn assert_unknown_once(kit: &Kit, app: &Router) {
    let response = put(app, "/1", "").await;
    let stored = (kit.version(1).await, kit.notes().await);
    assert_eq!(
        stored,
        (1, vec![]),
        "{} {}",
        response.status,
        cause(&response)
    );
    assert_eq!(response.report().attempts(), 1);
    response.assert_problem(ErrorKind::OutcomeUnknown);
}

#[test]
fn unknown_write_on_the_same_interlock_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, interlock) = other(&kit);
        let own = interlock.clone();
        let handler = async move || write(&own).await;
        let app = guarded(interlock.require(anyone), handler);
        assert_unknown_once(&kit, &app).await;
    });
}

#[test]
fn unknown_write_on_another_interlock_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&other).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_unknown_once(&kit, &app).await;
    });
}

#[test]
fn unknown_write_in_a_policy_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let policy = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&other).await
        };
        let app = guarded(kit.interlock.require(policy), async || ());
        assert_unknown_once(&kit, &app).await;
    });
}

#[test]
fn unknown_write_in_a_joined_layer_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let inner = async move || write(&other).await;
        let app = Router::new()
            .route("/{id}", axum::routing::put(async || ()))
            .route_layer(kit.interlock.require(inner))
            .route_layer(kit.interlock.require(anyone));
        assert_unknown_once(&kit, &app).await;
    });
}

/// The error type of a service, which makes the response.
#[derive(Debug)]
struct AppError(Error);

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("application error")
    }
}

impl StdError for AppError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

impl From<Error> for AppError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<sqlx::Error> for AppError {
    fn from(error: sqlx::Error) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for AppError {
    fn into_response(self) -> Response {
        ([("x-app", "1")], self.0).into_response()
    }
}

#[test]
fn unknown_write_in_an_error_of_the_users_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&other).await?;
            Ok::<_, AppError>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_unknown_once(&kit, &app).await;
    });
}

/// A repository layer returns errors of sqlx.
#[test]
fn unknown_write_in_an_sqlx_error_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let written = write(&other).await;
            written.map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_unknown_once(&kit, &app).await;
    });
}

#[test]
fn unknown_write_in_an_sqlx_error_with_the_users_around_it_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let written = write(&other).await;
            written.map_err(|error| sqlx::Error::Configuration(Box::new(AppError(error))))?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 500);
        assert_eq!(response.report().attempts(), 1);
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![]));
    });
}

/// The handler replaces the status. The response still contains the error.
#[test]
fn unknown_write_with_another_status_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let written = write(&other).await;
            written.map_err(|error| (StatusCode::BAD_GATEWAY, error).into_response())?;
            Ok::<_, AppResponse>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        assert_eq!(response.report().attempts(), 1);
        assert_eq!(response.status, 502);
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![]));
    });
}

struct AppResponse(Response);

impl From<Response> for AppResponse {
    fn from(response: Response) -> Self {
        Self(response)
    }
}

impl From<sqlx::Error> for AppResponse {
    fn from(error: sqlx::Error) -> Self {
        Self(Error::from(error).into_response())
    }
}

impl IntoResponse for AppResponse {
    fn into_response(self) -> Response {
        self.0
    }
}

/// Both occur in one attempt. A retry would make the write a second time.
#[test]
fn unknown_write_beside_a_conflict_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let own = kit.clone();
        let handler = async move |mut tx: Tx| {
            if tx.attempt() == 1 {
                let _ = conflict(&mut tx, &own.outside).await;
            }
            write(&other).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_unknown_once(&kit, &app).await;
    });
}

/// The handler sends a request through a layer of another interlock, whose COMMIT is lost.
#[test]
fn unknown_commit_of_a_request_inside_is_not_repeated() {
    test(async |kit| {
        let (proxy, _, other) = other(&kit);
        proxy.relent();
        proxy.inject(Moment::Commit, Fault::CutAfter);
        let inner = guarded(other.require(anyone), async |mut tx: Tx| {
            sqlx::query(COUNT).execute(&mut tx).await?;
            Ok::<_, Error>(())
        });
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let request = Request::put("/1").body(Body::empty()).unwrap();
            Ok::<_, Error>(inner.oneshot(request).await.unwrap())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        let stored = (kit.version(1).await, kit.notes().await);
        assert_eq!(
            stored,
            (1, vec![]),
            "{} {}",
            response.status,
            cause(&response)
        );
        response.assert_problem(ErrorKind::OutcomeUnknown);
        assert_eq!(response.report().attempts(), 1);
    });
}

/// The service returns an error, and not a response.
#[test]
fn unknown_write_as_the_error_of_a_service_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let own = kit.clone();
        let service = service_fn(move |mut request: Request| {
            let (other, kit) = (other.clone(), own.clone());
            async move {
                use axum::extract::FromRequestParts as _;
                let (mut parts, _) = std::mem::take(&mut request).into_parts();
                let mut tx = Tx::from_request_parts(&mut parts, &()).await?;
                if tx.attempt() == 1 {
                    let _ = conflict(&mut tx, &kit.outside).await;
                }
                write(&other).await?;
                Ok::<_, Error>(Response::new(Body::empty()))
            }
        });
        let service = kit.interlock.require(anyone).layer(service);
        let request = Request::put("/1").body(Body::empty()).unwrap();
        let response = service.oneshot(request).await;
        assert_eq!(kit.version(1).await, 1);
        let error = match response {
            Ok(response) => response.extensions().get::<Error>().cloned().unwrap(),
            Err(error) => error,
        };
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error:?}");
    });
}

/// The statement runs on a pool of the user and not on the `Tx`, so the crate does not know it.
#[test]
fn lost_statement_on_a_pool_of_the_users_is_not_repeated() {
    test(async |kit| {
        let (_proxy, pool, _) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            sqlx::query(COUNT).execute(&pool).await?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        let stored = (kit.version(1).await, kit.notes().await);
        assert_eq!(
            stored,
            (1, vec![]),
            "{} {}",
            response.status,
            cause(&response)
        );
        assert!(response.status.is_server_error());
        assert_eq!(response.report().attempts(), 1);
        assert!(
            !response.body.contains("nothing was changed"),
            "{}",
            response.body
        );
    });
}

/// The handler has handled the error, so the request commits.
#[test]
fn unknown_write_that_is_swallowed_is_left_to_the_handler() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let unknown = write(&other).await.unwrap_err();
            assert_eq!(unknown.kind(), ErrorKind::OutcomeUnknown);
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        assert_eq!(
            (response.status.as_u16(), response.outcome()),
            (200, Outcome::Committed)
        );
        assert_eq!((kit.version(1).await, kit.notes().await), (1, vec![1]));
    });
}

/// A connection that is lost before COMMIT is retried: its transaction is rolled back.
#[test]
fn lost_connection_of_the_requests_own_is_still_overcome() {
    test(async |kit| {
        let (_proxy, _, interlock) = other(&kit);
        let app = guarded(interlock.require(anyone), async |mut tx: Tx| {
            sqlx::query(COUNT).execute(&mut tx).await?;
            Ok::<_, Error>(())
        });
        let response = put(&app, "/1", "").await;
        assert_eq!(
            (response.status.as_u16(), response.report().attempts()),
            (200, 2)
        );
        assert_eq!(kit.version(1).await, 1);
    });
}

/// The middleware makes a new response, with the same extensions.
#[test]
fn unknown_write_through_middleware_that_reads_the_response_is_not_repeated() {
    test(async |kit| {
        let (_proxy, _, other) = other(&kit);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            write(&other).await
        };
        let rewrite = axum::middleware::map_response(async |response: Response| {
            let response = read(response).await;
            let (mut parts, body) = response.into_parts();
            parts.headers.remove("content-length");
            Ok::<_, Infallible>(Response::from_parts(parts, Body::from(body)))
        });
        let app = Router::new()
            .route("/{id}", axum::routing::put(handler))
            .route_layer(rewrite)
            .route_layer(kit.interlock.require(anyone));
        assert_unknown_once(&kit, &app).await;
    });
}

/// A read-only transaction has written nothing, so its outcome is known.
#[test]
fn lost_commit_of_a_read_only_request_runs_again() {
    test(async |kit| {
        for fault in [Fault::CutBefore, Fault::CutSent, Fault::CutAfter] {
            let (proxy, _, interlock) = other(&kit);
            proxy.relent();
            proxy.inject(Moment::Commit, fault.clone());
            let handler = async |mut tx: Tx| {
                let body = sqlx::query_scalar("SELECT body FROM documents WHERE id = 1");
                Ok::<String, Error>(body.fetch_one(&mut tx).await?)
            };
            let app = guarded(interlock.require(anyone).read_only(), handler);
            let response = put(&app, "/1", "").await;
            let seen = (response.status.as_u16(), &*response.body);
            assert_eq!(seen, (200, "old"), "{fault:?}: {}", cause(&response));
            assert_eq!(response.report().attempts(), 2);
        }
    });
}
