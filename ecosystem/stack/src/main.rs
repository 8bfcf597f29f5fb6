//! The usual middleware of tower-http around the interlock, and the reason for the place of each.
//!
//! The tour sends a preflight, a denial, a panic and a handler that hangs through the whole stack,
//! and looks at the headers and the database.
//!
//! Run it with `cargo run -p with-stack` in `ecosystem/`.

use std::time::Duration;

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{HeaderValue, Method, Request, StatusCode, header},
    routing::put,
};
use tour::{Revocation, Tour};
use tower::ServiceBuilder;
use tower_http::{
    ServiceBuilderExt as _, catch_panic::CatchPanicLayer, compression::CompressionLayer,
    cors::CorsLayer, request_id::MakeRequestUuid, timeout::TimeoutLayer, trace::TraceLayer,
};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};
use tracing::Span;

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO grants VALUES ('ada', 7);
";

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

async fn can_edit(
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";
    let allowed: bool =
        sqlx::query_scalar(rule).bind(user).bind(document).fetch_one(&mut tx).await?;
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<String, Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(can.document)
        .bind(&body)
        .execute(&mut tx)
        .await?;
    match body.as_str() {
        "a draft that hangs" => std::future::pending().await,
        draft => assert_ne!(draft, "a draft with a bug"),
    }
    Ok(body)
}

fn app(interlock: &Interlock, origin: HeaderValue) -> Router {
    let can_edit = interlock.require(can_edit).named("documents.edit");
    Router::new().route("/documents/{id}", put(update).route_layer(can_edit)).layer(
        // From the outside in.
        ServiceBuilder::new()
            // First, so that everything below has the id, also the span of the interlock.
            .set_x_request_id(MakeRequestUuid)
            .layer(TraceLayer::new_for_http().make_span_with(span))
            .propagate_x_request_id()
            // Answers preflights, which carry no credentials, before authentication. Outside of
            // whatever responds with an error, so that the browser may read that as well.
            .layer(
                CorsLayer::new()
                    .allow_origin(origin)
                    .allow_methods([Method::PUT])
                    .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE]),
            )
            // A net for what hangs outside of the interlock. It cannot tell whether a COMMIT is
            // under way, so it is longer than deadline and grace together.
            .layer(TimeoutLayer::with_status_code(
                StatusCode::GATEWAY_TIMEOUT,
                DEADLINE + GRACE + Duration::from_secs(5),
            ))
            // Outside of the interlock, which rolls back on a panic and lets it continue.
            .layer(CatchPanicLayer::new())
            // Compresses what is sent, once, not the response of each attempt.
            .layer(CompressionLayer::new())
            // Authentication comes last, here by the tour: what it responds with has all of the
            // above. The interlock is on the route, inside of it.
            .into_inner(),
    )
}

fn span(request: &Request<Body>) -> Span {
    let id = request.headers().get("x-request-id");
    let id = id.and_then(|id| id.to_str().ok());
    tracing::info_span!("request", method = %request.method(), id)
}

const DEADLINE: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> tour::Result {
    tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false).init();
    let tour = Tour::start("stack", SCHEMA, &["grants"]).await?;
    let interlock =
        Interlock::connect_with(tour.options(), 4).deadline(DEADLINE).grace(GRACE).build();
    let app = app(&interlock, HeaderValue::from_static(ORIGIN));

    let preflight = Request::options("/documents/7")
        .header(header::ORIGIN, ORIGIN)
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "PUT");
    tour::send(&app, "a preflight", preflight.body(Body::empty()), StatusCode::OK).await?;

    let draft = "a draft that is long enough to be compressed";
    for (title, user, draft, expected) in [
        ("a denial", "mallory", draft, StatusCode::FORBIDDEN),
        ("a panic", "ada", "a draft with a bug", StatusCode::INTERNAL_SERVER_ERROR),
        ("a handler that hangs", "ada", "a draft that hangs", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let response = tour::send(&app, title, by(user, draft), expected).await?;
        assert!(response.headers().contains_key("x-request-id"));
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], ORIGIN);
        let body: String = tour.read("SELECT body FROM documents").await?;
        assert_eq!(body, "first draft", "{title} has written");
    }
    let mut update = by("ada", draft)?;
    let gzip = HeaderValue::from_static("gzip");
    update.headers_mut().insert(header::ACCEPT_ENCODING, gzip);
    let response = tour::send(&app, "an update", Ok(update), StatusCode::OK).await?;
    assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");

    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM grants",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, move || by("ada", draft), revocation).await?;

    interlock.drain().await;
    tour.end().await
}

const ORIGIN: &str = "https://app.example";

fn by(user: &'static str, draft: &'static str) -> axum::http::Result<Request<Body>> {
    Request::put("/documents/7")
        .extension(User(user))
        .header(header::ORIGIN, ORIGIN)
        .body(Body::from(draft))
}
