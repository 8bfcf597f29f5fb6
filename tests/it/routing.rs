//! Where the layer can be placed, and what may be around and inside of it.

use std::{
    fmt::Debug,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    BoxError, Json, Router,
    body::Body,
    error_handling::HandleErrorLayer,
    extract::{FromRef, FromRequestParts, Path, Query, Request, State},
    handler::Handler as _,
    http::{HeaderMap, Method, StatusCode, Uri, Version, header, request::Parts},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get as get_route, put as put_route},
};
use bytes::Bytes;
use futures::future::join_all;
use http_body_util::Full;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::mpsc;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};
use tower_interlock::{
    AuthorizeLayer, Authorized, Denied, Error, ErrorKind, Interlock, Outcome, Report, Savepoint,
    Tx,
    layer::{AuthorizeService, ResponseFuture},
};
use tower_test::mock;

use crate::kit::{
    CanEdit, Kit, anyone, can_edit, conflict_once, get, note, put, read, send, test,
    test_with_pool, update,
};

/// An interlock without a database. A request that succeeds has opened no transaction.
fn without_database() -> Interlock {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(1);
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(100));
    Interlock::new(pool.connect_lazy_with(options))
}

async fn noting_policy(mut tx: Tx) -> Result<(), Error> {
    Ok(note(&mut tx, 1).await?)
}

async fn noting_middleware(
    mut before: Tx,
    mut after: Tx,
    request: Request,
    next: Next,
) -> Result<Response, Error> {
    note(&mut before, 2).await?;
    drop(before);
    let response = next.run(request).await;
    note(&mut after, 4).await?;
    Ok(response)
}

async fn counting_handler(
    State(kit): State<Kit>,
    Path(status): Path<u16>,
    mut tx: Tx,
) -> Result<Response, Error> {
    note(&mut tx, 3).await?;
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
        .fetch_one(&mut tx)
        .await?;
    assert_eq!(seen, 3);
    assert!(kit.notes().await.is_empty());
    assert_eq!(kit.pool.size() as usize - kit.pool.num_idle(), 1);
    Ok(StatusCode::from_u16(status).unwrap().into_response())
}

#[test]
fn policy_middleware_and_handler_share_one_transaction() {
    test(async |kit| {
        let app = Router::new()
            .route("/{status}", put_route(counting_handler))
            .route_layer(from_fn(noting_middleware))
            .route_layer(kit.interlock.require(noting_policy))
            .with_state(kit.clone());

        let response = put(&app, "/409", "").await;
        assert_eq!(response.status, 409);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());

        // The response does not wait for the ROLLBACK.
        while kit.pool.num_idle() < kit.pool.size() as usize {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let response = put(&app, "/200", "").await;
        assert_eq!(response.status, 200);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1, 2, 3, 4]);
    });
}

#[test]
fn tx_may_be_any_argument() {
    async fn first(mut tx: Tx, Path(id): Path<i64>, _: String) -> Result<(), Error> {
        Ok(note(&mut tx, id).await?)
    }
    async fn middle(Path(id): Path<i64>, mut tx: Tx, _: Uri, _: String) -> Result<(), Error> {
        Ok(note(&mut tx, id).await?)
    }
    async fn last(_: Uri, Path(id): Path<i64>, mut tx: Tx) -> Result<(), Error> {
        Ok(note(&mut tx, id).await?)
    }
    async fn policy_first(mut tx: Tx, Path(id): Path<i64>) -> Result<(), Error> {
        Ok(note(&mut tx, -id).await?)
    }
    async fn policy_last(Path(id): Path<i64>, mut tx: Tx) -> Result<(), Error> {
        Ok(note(&mut tx, -id).await?)
    }
    test(async |kit| {
        let app = Router::new()
            .route("/first/{id}", put_route(first))
            .route("/middle/{id}", put_route(middle))
            .route_layer(kit.interlock.require(policy_first))
            .merge(
                Router::new()
                    .route("/last/{id}", put_route(last))
                    .route_layer(kit.interlock.require(policy_last)),
            );
        for path in ["/first/1", "/middle/2", "/last/3"] {
            let response = put(&app, path, "body").await;
            assert_eq!(response.status, 200, "{path}");
        }
        assert_eq!(kit.notes().await, [-3, -2, -1, 1, 2, 3]);
    });
}

#[tokio::test]
async fn request_without_statement_opens_no_transaction() {
    async fn policy(_: Tx) -> Result<(), Error> {
        Ok(())
    }
    async fn handler(_: Tx) -> &'static str {
        "ok"
    }
    let interlock = without_database();
    let app = Router::new()
        .route("/", get_route(handler))
        .route_layer(interlock.require(policy));
    let response = get(&app, "/").await;
    assert_eq!(
        (response.status.as_u16(), response.body.as_str()),
        (200, "ok")
    );
    assert_eq!(response.outcome(), Outcome::NoTransaction);
}

#[tokio::test]
async fn request_with_statement_needs_the_database() {
    let app = Router::new()
        .route("/{id}", put_route(update))
        .route_layer(without_database().require(can_edit));
    let response = put(&app, "/1", "new").await;
    response.assert_problem(ErrorKind::Unavailable);
    assert_eq!(response.header(header::RETRY_AFTER), Some("1"));
}

struct Caller;

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        match parts.headers.get(header::AUTHORIZATION) {
            Some(_) => Ok(Self),
            None => Err((StatusCode::UNAUTHORIZED, "no credentials")),
        }
    }
}

async fn caller_policy(mut tx: Tx, _: Caller, Path(id): Path<i64>) -> Result<(), Error> {
    Ok(note(&mut tx, id).await?)
}

async fn json_handler(mut tx: Tx, Path(id): Path<i64>, Json(_): Json<i64>) -> Result<(), Error> {
    Ok(note(&mut tx, id + 1).await?)
}

fn authorized_put(path: &str) -> axum::http::request::Builder {
    Request::put(path).header(header::AUTHORIZATION, "Bearer x")
}

#[tokio::test]
async fn policy_extractor_rejection_opens_no_transaction() {
    let interlock = without_database();
    let app = Router::new()
        .route("/{id}", put_route(json_handler))
        .route_layer(interlock.require(caller_policy));
    let anonymous = put(&app, "/1", "").await;
    assert_eq!(anonymous.status, 401);
    assert_eq!(anonymous.body, "no credentials");
    assert_eq!(anonymous.outcome(), Outcome::NoTransaction);

    let malformed = send(&app, authorized_put("/x").body(Body::empty()).unwrap()).await;
    let bare = Router::new().route("/{id}", put_route(async |_: Path<i64>| {}));
    let axums = put(&bare, "/x", "").await;
    assert_eq!(
        (malformed.status, axums.status.as_u16()),
        (axums.status, 400)
    );
    assert_eq!(malformed.body, axums.body);
    assert_eq!(malformed.outcome(), Outcome::NoTransaction);
}

#[tokio::test]
async fn handler_extractor_rejection_opens_no_transaction() {
    let interlock = without_database();
    let app = Router::new()
        .route("/{id}", put_route(json_handler))
        .route_layer(interlock.require(anyone));
    for (path, status) in [("/1", 415), ("/x", 400)] {
        let response = put(&app, path, "1").await;
        assert_eq!(response.status, status);
        assert_eq!(response.outcome(), Outcome::NoTransaction);
    }
}

#[test]
fn handler_extractor_rejection_rolls_back_policy_writes() {
    test(async |kit| {
        let app = Router::new()
            .route("/{id}", put_route(json_handler))
            .route_layer(kit.interlock.require(caller_policy));
        let json = |body| {
            let request = authorized_put("/1").header(header::CONTENT_TYPE, "application/json");
            request.body(Body::from(body)).unwrap()
        };
        let response = send(&app, json("}")).await;
        assert_eq!(response.status, 400);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert!(kit.notes().await.is_empty());

        assert_eq!(send(&app, json("1")).await.status, 200);
        assert_eq!(kit.notes().await, [1, 2]);
    });
}

#[tokio::test]
async fn tx_without_layer_is_misconfigured() {
    async fn handler(_: Tx) {}
    let app = Router::new().route("/", get_route(handler));
    get(&app, "/")
        .await
        .assert_problem(ErrorKind::Misconfigured);
}

#[tokio::test]
async fn grant_without_layer_is_misconfigured() {
    async fn handler(_: Authorized<CanEdit>) {}
    let app = Router::new().route("/", get_route(handler));
    get(&app, "/")
        .await
        .assert_problem(ErrorKind::Misconfigured);
}

#[test]
fn grant_without_its_policy_is_misconfigured() {
    async fn other(mut tx: Tx) -> Result<(), Error> {
        Ok(note(&mut tx, 1).await?)
    }
    test(async |kit| {
        let app = Router::new()
            .route("/{id}", put_route(update))
            .route_layer(kit.interlock.require(other));
        let response = put(&app, "/1", "new").await;
        response.assert_problem(ErrorKind::Misconfigured);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_eq!(kit.body(1).await, "old");
        assert!(kit.notes().await.is_empty());
    });
}

/// Asserts that at `path` document 1 may be edited and document 2 may not.
fn guards(path: &'static str, app: impl FnOnce(AuthorizeLayer) -> Router) {
    test(async |kit| {
        let app = app(kit.interlock.require(can_edit));
        let edited = put(&app, &path.replace("{}", "1"), "new").await;
        assert_eq!((edited.status, &*edited.body), (StatusCode::OK, "new"));
        assert_eq!(edited.outcome(), Outcome::Committed);
        assert_eq!(kit.body(1).await, "new");

        let denied = put(&app, &path.replace("{}", "2"), "new").await;
        denied.assert_problem(ErrorKind::Denied);
        assert_eq!(denied.outcome(), Outcome::RolledBack);
        assert_eq!(kit.body(2).await, "old");
    });
}

fn update_router() -> Router {
    Router::new().route("/{id}", put_route(update))
}

#[test]
fn layer_works_as_router_route_layer() {
    guards("/{}", |layer| update_router().route_layer(layer));
}

#[test]
fn layer_works_as_router_layer() {
    guards("/{}", |layer| update_router().layer(layer));
}

#[test]
fn layer_works_as_method_router_route_layer() {
    guards("/{}", |layer| {
        Router::new().route("/{id}", put_route(update).route_layer(layer))
    });
}

#[test]
fn layer_works_as_method_router_layer() {
    guards("/{}", |layer| {
        Router::new().route("/{id}", put_route(update).layer(layer))
    });
}

#[test]
fn layer_works_as_handler_layer() {
    guards("/{}", |layer| {
        Router::new().route("/{id}", put_route(update.layer(layer)))
    });
}

#[test]
fn layer_works_in_nested_router() {
    guards("/api/{}", |layer| {
        Router::new().nest("/api", update_router().route_layer(layer))
    });
}

#[test]
fn layer_works_around_nested_router() {
    guards("/documents/{}/body", |layer| {
        let nested = Router::new().route("/body", put_route(update));
        Router::new()
            .nest("/documents/{id}", nested)
            .route_layer(layer)
    });
}

#[test]
fn layer_works_on_nested_service() {
    guards("/documents/{}/body", |layer| {
        let nested = Router::new().route("/body", put_route(update));
        Router::new().nest_service("/documents/{id}", layer.layer(nested))
    });
}

#[test]
fn layer_works_in_service_builder() {
    async fn pass(request: Request, next: Next) -> Response {
        next.run(request).await
    }
    guards("/{}", |layer| {
        let stack = ServiceBuilder::new()
            .layer(HandleErrorLayer::new(async |error: BoxError| {
                (StatusCode::IM_A_TEAPOT, error.to_string())
            }))
            .load_shed()
            .timeout(Duration::from_secs(60))
            .layer(from_fn(pass))
            .layer(layer)
            .layer(from_fn(pass))
            .concurrency_limit(1);
        update_router().route_layer(stack)
    });
}

async fn deny() -> Result<(), Denied> {
    Err(Denied::new("always denied"))
}

fn here_router() -> Router {
    Router::new().route("/here", get_route(async || "here"))
}

#[tokio::test]
async fn layer_runs_for_unknown_paths() {
    let app = here_router().layer(without_database().require(deny));
    assert_eq!(get(&app, "/nowhere").await.status, 403);
    assert_eq!(get(&app, "/here").await.status, 403);
}

#[tokio::test]
async fn route_layer_runs_for_known_paths_only() {
    let app = here_router().route_layer(without_database().require(deny));
    assert_eq!(get(&app, "/nowhere").await.status, 404);
    assert_eq!(get(&app, "/here").await.status, 403);
}

#[tokio::test]
async fn method_router_route_layer_runs_for_known_methods_only() {
    let layer = without_database().require(deny);
    let app = Router::new().route("/", get_route(async || "here").route_layer(layer));
    assert_eq!(put(&app, "/", "").await.status, 405);
    assert_eq!(get(&app, "/").await.status, 403);
}

#[derive(Clone)]
struct App {
    user: User,
}

#[derive(Clone)]
struct User(i64);

impl FromRef<App> for User {
    fn from_ref(app: &App) -> Self {
        app.user.clone()
    }
}

async fn may_edit(
    State(User(user)): State<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let allowed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)",
    )
    .bind(user)
    .bind(document)
    .fetch_one(&mut tx)
    .await?;
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

#[test]
fn policy_has_state_and_path_parameters() {
    test(async |kit| {
        let app = |user| {
            let state = App { user: User(user) };
            let layer = kit.interlock.require_with_state(state, may_edit);
            // The router has a state of its own.
            Router::new()
                .route("/{id}", put_route(update).route_layer(layer))
                .with_state("state")
        };
        let response = put(&app(2), "/1", "new").await;
        response.assert_problem(ErrorKind::Denied);
        assert_eq!(kit.body(1).await, "old");
        assert_eq!(put(&app(1), "/1", "new").await.status, 200);
        assert_eq!(kit.body(1).await, "new");
    });
}

#[test]
fn policy_takes_8_extractors() {
    #[expect(clippy::too_many_arguments, reason = "as many as there may be")]
    async fn all(
        method: Method,
        uri: Uri,
        version: Version,
        headers: HeaderMap,
        Path(id): Path<i64>,
        Query(query): Query<Vec<(String, i64)>>,
        State(state): State<&'static str>,
        mut tx: Tx,
    ) -> Result<String, Error> {
        note(&mut tx, id).await?;
        let host = headers.get(header::HOST).unwrap().to_str().unwrap();
        Ok(format!(
            "{method} {uri} {version:?} {host} {query:?} {state}"
        ))
    }
    async fn handler(seen: Authorized<String>) -> String {
        seen.into_inner()
    }
    test(async |kit| {
        let layer = kit.interlock.require_with_state("state", all);
        let app = Router::new().route("/{id}", get_route(handler).route_layer(layer));
        let request = Request::get("/7?a=1").header(header::HOST, "h");
        let response = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.body, r#"GET /7?a=1 HTTP/1.1 h [("a", 1)] state"#);
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn policy_may_take_no_extractor() {
    async fn nothing() -> Result<CanEdit, Error> {
        Ok(CanEdit { document: 1 })
    }
    test(async |kit| {
        let layer = kit.interlock.require(nothing);
        let app = Router::new().route("/", put_route(update).route_layer(layer));
        assert_eq!(put(&app, "/", "new").await.status, 200);
        assert_eq!(kit.body(1).await, "new");
    });
}

#[test]
fn policy_may_be_a_closure() {
    test(async |kit| {
        let owned = String::from("1");
        let policy = async move |Path(document): Path<String>, mut tx: Tx| {
            note(&mut tx, 1).await?;
            Denied::unless(document == owned, "not the owner")?;
            Ok::<_, Error>(CanEdit { document: 1 })
        };
        let plain = || async { Ok::<_, Denied>("plain") };
        let app = Router::new().route(
            "/{id}",
            put_route(update)
                .route_layer(kit.interlock.require(plain))
                .route_layer(kit.interlock.require(policy)),
        );
        let response = put(&app, "/2", "new").await;
        response.assert_problem(ErrorKind::Denied);
        assert!(kit.notes().await.is_empty());
        assert_eq!(put(&app, "/1", "new").await.status, 200);
        assert_eq!(kit.body(1).await, "new");
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn policy_denies_with_its_own_response() {
    async fn teapot(mut tx: Tx) -> Result<(), (StatusCode, &'static str)> {
        note(&mut tx, 1).await.unwrap();
        Err((StatusCode::IM_A_TEAPOT, "short and stout"))
    }
    test(async |kit| {
        let app = Router::new()
            .route("/{id}", put_route(update))
            .route_layer(kit.interlock.require(teapot));
        let response = put(&app, "/1", "new").await;
        assert_eq!(response.status, 418);
        assert_eq!(response.body, "short and stout");
        assert_eq!(kit.body(1).await, "old");
        assert!(kit.notes().await.is_empty());
    });
}

/// Not an `std::error::Error`, and not `Sync`.
#[derive(Debug, PartialEq)]
struct Broken(std::cell::Cell<u8>);

async fn plain(request: Request<Body>) -> Result<axum::http::Response<Full<Bytes>>, Broken> {
    let (mut parts, _) = request.into_parts();
    let mut tx = Tx::from_request_parts(&mut parts, &()).await.unwrap();
    note(&mut tx, 1).await.unwrap();
    match parts.uri.path() {
        "/ok" => Ok(axum::http::Response::new(Full::from("plain"))),
        _ => Err(Broken(7.into())),
    }
}

#[test]
fn plain_service_may_have_any_body_type() {
    test(async |kit| {
        let service = kit.interlock.require(anyone).layer(service_fn(plain));
        let request = Request::get("/ok").body(Full::new(Bytes::from("body")));
        let response = read(service.oneshot(request.unwrap()).await.unwrap()).await;
        assert_eq!((response.status.as_u16(), &*response.body), (200, "plain"));
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn plain_service_error_is_returned_and_rolled_back() {
    test(async |kit| {
        let service = kit.interlock.require(anyone).layer(service_fn(plain));
        let request = Request::get("/").body(Body::empty()).unwrap();
        let error = service.oneshot(request).await.unwrap_err();
        assert_eq!(error, Broken(7.into()));
        kit.interlock.drain().await;
        assert!(kit.notes().await.is_empty());
    });
}

type Inner = mock::Mock<Request<Body>, Response>;

/// Reports when the inner service is not ready.
#[derive(Clone)]
struct Watched {
    inner: Inner,
    pending: mpsc::UnboundedSender<()>,
}

impl Service<Request<Body>> for Watched {
    type Response = Response;
    type Error = BoxError;
    type Future = <Inner as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let ready = self.inner.poll_ready(cx);
        if ready.is_pending() {
            self.pending.send(()).unwrap();
        }
        ready
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.inner.call(request)
    }
}

#[tokio::test]
async fn layer_is_ready_when_inner_service_is() {
    let layer = without_database().require(anyone);
    let (mut service, mut inner) = mock::spawn_layer::<Request<Body>, Response, _>(layer);
    inner.allow(0);
    assert!(service.poll_ready::<Request<Body>>().is_pending());
    inner.allow(1);
    assert!(service.is_woken());
    assert!(service.poll_ready::<Request<Body>>().is_ready());

    // The mock panics if the called service is not the one that was polled ready.
    let response = tokio::spawn(service.call(Request::<Body>::default()));
    let (_, reply) = inner.next_request().await.unwrap();
    reply.send_response("ok".into_response());
    assert_eq!(read(response.await.unwrap().unwrap()).await.body, "ok");
    assert!(service.poll_ready::<Request<Body>>().is_pending());
}

#[tokio::test]
async fn readiness_error_of_inner_service_is_returned() {
    let layer = without_database().require(anyone);
    let (mut service, mut inner) = mock::spawn_layer::<Request<Body>, Response, _>(layer);
    inner.send_error("broken");
    let Poll::Ready(Err(error)) = service.poll_ready::<Request<Body>>() else {
        panic!("no error");
    };
    assert_eq!(error.to_string(), "broken");
}

#[test]
fn inner_service_is_polled_ready_before_retry() {
    test(async |kit| {
        let (inner, mut requests) = mock::pair();
        let (pending, mut waits) = mpsc::unbounded_channel();
        let service = kit
            .interlock
            .require(anyone)
            .layer(Watched { inner, pending });
        requests.allow(1);
        let response = tokio::spawn(service.oneshot(Request::<Body>::default()));

        for attempt in 1..=2 {
            let (request, reply) = requests.next_request().await.unwrap();
            let (mut parts, _) = request.into_parts();
            let mut tx = Tx::from_request_parts(&mut parts, &()).await.unwrap();
            assert_eq!(tx.attempt(), attempt);
            note(&mut tx, i64::from(attempt)).await.unwrap();
            let _ = conflict_once(&mut tx, &kit.outside).await;
            drop((parts, tx));
            reply.send_response(attempt.to_string().into_response());
            if attempt == 1 {
                waits.recv().await.unwrap();
                requests.allow(1);
            }
        }
        let response = read(response.await.unwrap().unwrap()).await;
        assert_eq!(response.body, "2");
        assert_eq!(response.report().attempts(), 2);
        assert_eq!(kit.notes().await, [2]);
    });
}

#[test]
fn readiness_error_before_retry_is_returned() {
    test(async |kit| {
        let (inner, mut requests) = mock::pair::<Request<Body>, Response>();
        let service = kit.interlock.require(anyone).layer(inner);
        requests.allow(1);
        let response = tokio::spawn(service.oneshot(Request::<Body>::default()));

        let (request, reply) = requests.next_request().await.unwrap();
        let (mut parts, _) = request.into_parts();
        let mut tx = Tx::from_request_parts(&mut parts, &()).await.unwrap();
        note(&mut tx, 1).await.unwrap();
        let _ = conflict_once(&mut tx, &kit.outside).await;
        drop((parts, tx));
        requests.send_error("broken");
        reply.send_response("ok".into_response());

        let error = response.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "broken");
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn retry_works_within_concurrency_limit() {
    test(async |kit| limited(&kit, 4).await);
}

/// A request that waits for the limit must not hold a connection.
#[test]
fn concurrency_limit_as_large_as_pool_does_not_deadlock() {
    test_with_pool(1, async |kit| limited(&kit, 2).await);
}

/// Sends requests that need two attempts each through a concurrency limit of 1.
async fn limited(kit: &Kit, requests: i64) {
    async fn handler(State(kit): State<Kit>, Path(id): Path<i64>, mut tx: Tx) -> Result<(), Error> {
        note(&mut tx, id).await?;
        Ok(conflict_once(&mut tx, &kit.outside).await?)
    }
    let stack = ServiceBuilder::new()
        .layer(kit.interlock.require(anyone))
        .concurrency_limit(1);
    let app = Router::new()
        .route("/{id}", get_route(handler))
        .route_layer(stack)
        .with_state(kit.clone());
    let responses = (0..requests).map(|id| {
        let app = app.clone();
        async move { get(&app, &format!("/{id}")).await }
    });
    for response in join_all(responses).await {
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.report().attempts(), 2);
    }
    assert_eq!(kit.notes().await, (0..requests).collect::<Vec<_>>());
}

/// The traits that services, handler futures and spawned tasks need. The compiler checks them.
#[test]
fn public_types_have_their_auto_traits() {
    fn shared<T: Send + Sync + Unpin + 'static>() {}
    fn sent<T: Send + Unpin>() {}
    fn cloned<T: Clone + Debug>() {}

    struct NotSync(#[expect(dead_code, reason = "only its type matters")] std::cell::Cell<u8>);

    shared::<Interlock>();
    shared::<AuthorizeLayer>();
    shared::<AuthorizeService<()>>();
    shared::<Authorized<()>>();
    shared::<Error>();
    shared::<Denied>();
    shared::<Report>();
    shared::<Tx>();
    sent::<Savepoint<'_>>();
    sent::<AuthorizeService<NotSync>>();
    sent::<ResponseFuture<NotSync>>();
    sent::<ResponseFuture<*const u8>>();

    cloned::<Interlock>();
    cloned::<AuthorizeLayer>();
    cloned::<AuthorizeService<()>>();
    cloned::<Authorized<()>>();
    cloned::<Error>();
    cloned::<Denied>();
    cloned::<Report>();
}

/// A serialization failure takes precedence over the error of the service.
#[test]
fn service_error_caused_by_conflict_is_retried() {
    test(async |kit| {
        let outside = kit.outside.clone();
        let service = service_fn(move |request: Request| {
            let outside = outside.clone();
            async move {
                let (mut parts, _) = request.into_parts();
                let mut tx = Tx::from_request_parts(&mut parts, &()).await.unwrap();
                note(&mut tx, 1).await?;
                conflict_once(&mut tx, &outside).await?;
                Ok::<_, sqlx::Error>(Response::new(Body::empty()))
            }
        });
        let service = kit.interlock.require(anyone).layer(service);
        let response = service.oneshot(Request::<Body>::default()).await.unwrap();
        let response = crate::kit::read(response).await;
        assert_eq!(
            (response.status.as_u16(), response.report().attempts()),
            (200, 2)
        );
        assert_eq!(kit.notes().await, [1]);
    });
}
