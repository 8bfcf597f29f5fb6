//! An OpenAPI document by utoipa that has the problem responses and the security of each route, and
//! the proof that the router keeps it.
//!
//! The routes of the document are sent through the router by `Coverage` of the audit crate: each
//! has to be protected by a policy, or marked as public.
//!
//! Run it with `cargo run -p with-openapi` in `ecosystem/`.

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, Path},
    http::{Request, StatusCode, header::AUTHORIZATION, request::Parts},
};
use axum_extra::{
    TypedHeader,
    headers::{Authorization, authorization::Bearer},
};
use serde::Serialize;
use tour::{Revocation, Tour};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};
use tower_interlock_audit::Coverage;
use utoipa::{
    IntoResponses, Modify, OpenApi, ToSchema,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE tokens (token TEXT PRIMARY KEY, user_name TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO tokens VALUES ('of ada', 'ada'), ('of mallory', 'mallory');
    INSERT INTO grants VALUES ('ada', 7);
";

/// The body of each error, by RFC 9457.
#[derive(ToSchema, Serialize)]
struct Problem {
    /// The URI of the documentation of the error.
    r#type: String,
    title: String,
    status: u16,
    /// The kind of the error, which is stable: `denied`, `retries-exhausted`, …
    code: String,
}

/// The responses of a route with a policy.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes responses")]
enum Rejection {
    /// No token, or one that is not valid.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(Problem),
    /// The caller has no permission. Nothing was changed.
    #[response(status = 403, content_type = "application/problem+json")]
    Denied(Problem),
    /// Too many conflicts, or no database. Nothing was changed. See `Retry-After`.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
    /// The check could not run, or, with the code `outcome-unknown`, the change may be made.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
}

#[derive(OpenApi)]
#[openapi(components(schemas(Problem)), modifiers(&Security))]
struct Api;

struct Security;

impl Modify for Security {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = api.components.get_or_insert_default();
        components.add_security_scheme("bearer", bearer);
    }
}

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

/// The token is looked up in the transaction, so it is valid when the update commits.
async fn can_edit(
    Token(token): Token,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants
                               WHERE user_name = tokens.user_name AND document_id = $2)
                FROM tokens WHERE token = $1";
    let allowed: Option<bool> =
        sqlx::query_scalar(rule).bind(token).bind(document).fetch_optional(&mut tx).await?;
    let allowed = allowed.ok_or_else(|| Error::unauthenticated("Bearer"))?;
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

struct Token(String);

impl<S: Send + Sync> FromRequestParts<S> for Token {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let token = TypedHeader::<Authorization<Bearer>>::from_request_parts(parts, state).await;
        let TypedHeader(token) = token.map_err(|_| Error::unauthenticated("Bearer"))?;
        Ok(Self(token.token().to_owned()))
    }
}

/// Updates a document.
#[utoipa::path(
    put, path = "/documents/{id}", params(("id" = i64, Path)), request_body = String,
    security(("bearer" = [])), responses((status = 204, description = "Updated"), Rejection),
)]
async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<StatusCode, Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(can.document)
        .bind(body)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says that the service is up.
#[utoipa::path(get, path = "/health", responses((status = 200, body = String)))]
async fn health() -> &'static str {
    "up"
}

fn app(interlock: &Interlock) -> (Router, utoipa::openapi::OpenApi) {
    let can_edit = interlock.require(can_edit).named("documents.edit");
    let health_checks = interlock.public("for the load balancer");
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(update).layer(can_edit))
        .routes(routes!(health).layer(health_checks))
        .split_for_parts()
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("openapi", SCHEMA, &["tokens", "grants"]).await?;
    let interlock = Interlock::connect_with(tour.options(), 4).build();
    let (app, api) = app(&interlock);

    println!("{}", api.to_pretty_json()?);
    println!("the routes of the document, and their protection:");
    let coverage = Coverage::of(app.clone()).document(&api)?.check().await?;
    print!("{coverage}");

    for (title, token, expected) in [
        ("no token", "", StatusCode::UNAUTHORIZED),
        ("mallory, without a grant", "of mallory", StatusCode::FORBIDDEN),
        ("ada, with a grant", "of ada", StatusCode::NO_CONTENT),
    ] {
        let response = tour::send(&app, title, by(token), expected).await?;
        let responses = &api.paths.paths["/documents/{id}"].put.as_ref();
        let responses = responses.map(|put| &put.responses.responses);
        let documented = responses.is_some_and(|it| it.contains_key(response.status().as_str()));
        assert!(documented, "{} is not in the document", response.status());
    }

    let revocation = Revocation {
        prepare: "INSERT INTO tokens VALUES ('of ada', 'ada') ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM tokens WHERE user_name = 'ada'",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, || by("of ada"), revocation).await?;

    interlock.drain().await;
    tour.end().await
}

fn by(token: &str) -> axum::http::Result<Request<Body>> {
    Request::put("/documents/7")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::from("second draft"))
}
