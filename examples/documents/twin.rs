//! The bad twin of the service: the same tables, with a fault on each route. The audit finds each of
//! them, and nothing else.

use std::error::Error as StdError;

use axum::{
    Router,
    extract::{FromRef, Path, Request, State},
    http::{HeaderMap, Method, StatusCode},
    routing::{delete, get, patch, post, put},
};
use serde::Deserialize;
use sqlx::{ConnectOptions as _, PgPool, postgres::PgConnectOptions};
use support::Kind;
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};
use tower_interlock_audit::{Audit, Coverage, Document, Limits, Recorder};
use uuid::Uuid;

use crate::{
    auth::{self, TokenHash, User},
    handlers::{UPDATE, share, update_if_permitted},
    policies::{self, DocumentPath, HAS_ACCESS, Ownership},
    proof::{DOCUMENT, GRANT, ROWS, options, request, signed},
    schema,
};

#[derive(Clone)]
struct Twin {
    interlock: Interlock,
    pool: PgPool,
}

fn router(interlock: &Interlock, pool: &PgPool) -> Router {
    let pool = pool.clone();
    let interlock = interlock.clone();
    let signed_in = interlock.require(policies::signed_in).named("signed-in");
    let is_owner = interlock.require(policies::is_owner).named("documents.own");
    let on_pool = interlock.require_with_state(pool.clone(), is_owner_on_pool);
    let by_header = interlock.require(says_owner).named("documents.says-own");
    let conditional = interlock.conditional(&UPDATE);
    let versions = get(version).route_layer(is_owner.clone().read_only());

    let document = "/documents/{document}";
    let grant = "/documents/{document}/grants/{user}";
    Router::new()
        .route("/documents", post(create_unchecked))
        .route(document, get(read_and_count).route_layer(signed_in))
        .route(document, put(update_by_hand))
        .route(
            document,
            patch(update_if_permitted).route_layer(conditional),
        )
        .route(document, delete(remove_on_pool).route_layer(is_owner))
        .route(
            grant,
            put(share).route_layer(on_pool.named("documents.own-on-pool")),
        )
        .route(grant, delete(unshare).route_layer(by_header))
        .route("/documents/{document}/version", versions)
        .with_state(Twin { interlock, pool })
}

/// IL001, IL008 and IL015: nothing is checked.
async fn create_unchecked(State(pool): State<PgPool>, body: String) -> Result<StatusCode, Error> {
    sqlx::query("INSERT INTO documents (id, owner, body) VALUES ($1, 'alice', $2)")
        .bind(Uuid::new_v4())
        .bind(body)
        .execute(&pool)
        .await?;
    Ok(StatusCode::CREATED)
}

/// IL006: the policy knows the user, not the document. IL009: a GET writes.
async fn read_and_count(
    _: Authorized<User>,
    Path(DocumentPath { document }): Path<DocumentPath>,
    mut tx: Tx,
) -> Result<String, Error> {
    let count = "UPDATE documents SET version = version + 1 WHERE id = $1 RETURNING body";
    let body = sqlx::query_scalar(count).bind(document);
    Ok(body.fetch_one(&mut tx).await?)
}

/// IL002: the check is one transaction, and the write another one. IL010: it compares no version.
async fn update_by_hand(
    State(pool): State<PgPool>,
    TokenHash(token_hash): TokenHash,
    Path(DocumentPath { document }): Path<DocumentPath>,
    body: String,
) -> Result<StatusCode, Error> {
    let allowed: bool = sqlx::query_scalar(HAS_ACCESS)
        .bind(token_hash)
        .bind(document)
        .fetch_one(&pool)
        .await?;
    Denied::unless(allowed, "not shared")?;
    let update = "UPDATE documents SET body = $2, version = version + 1 WHERE id = $1";
    sqlx::query(update)
        .bind(document)
        .bind(body)
        .execute(&pool)
        .await?;
    Ok(StatusCode::OK)
}

/// IL003: the write is beside the transaction that was checked.
async fn remove_on_pool(
    can: Authorized<Ownership>,
    State(pool): State<PgPool>,
) -> Result<StatusCode, Error> {
    sqlx::query("DELETE FROM documents WHERE id = $1")
        .bind(can.document)
        .execute(&pool)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// IL004: the policy reads beside the transaction.
async fn is_owner_on_pool(
    State(pool): State<PgPool>,
    TokenHash(token_hash): TokenHash,
    Path(DocumentPath { document }): Path<DocumentPath>,
) -> Result<Ownership, Error> {
    let owns = "SELECT EXISTS (SELECT 1 FROM documents JOIN tokens ON tokens.user_name = owner
                WHERE tokens.hash = $1 AND documents.id = $2)";
    let owns: bool = sqlx::query_scalar(owns)
        .bind(token_hash)
        .bind(document)
        .fetch_one(&pool)
        .await?;
    Denied::unless(owns, "not the owner")?;
    Ok(Ownership { document })
}

/// IL007: the policy trusts a header.
async fn says_owner(
    headers: HeaderMap,
    Path(DocumentPath { document }): Path<DocumentPath>,
) -> Result<Ownership, Error> {
    Denied::unless(headers.contains_key("authorization"), "no token")?;
    Ok(Ownership { document })
}

#[derive(Deserialize)]
struct GrantPath {
    user: String,
}

/// IL017: the statement is on the raw connection.
async fn unshare(
    can: Authorized<Ownership>,
    Path(GrantPath { user }): Path<GrantPath>,
    mut tx: Tx,
) -> Result<StatusCode, Error> {
    sqlx::query("DELETE FROM grants WHERE document_id = $1 AND user_name = $2")
        .bind(can.document)
        .bind(user)
        .execute(tx.connection().await?)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// IL013: the document does not have the route.
async fn version(can: Authorized<Ownership>, mut tx: Tx) -> Result<String, Error> {
    let version = sqlx::query_scalar("SELECT version FROM documents WHERE id = $1");
    let version: i64 = version.bind(can.document).fetch_one(&mut tx).await?;
    Ok(version.to_string())
}

impl FromRef<Twin> for Interlock {
    fn from_ref(twin: &Twin) -> Self {
        twin.interlock.clone()
    }
}

impl FromRef<Twin> for PgPool {
    fn from_ref(twin: &Twin) -> Self {
        twin.pool.clone()
    }
}

/// The planted faults. IL010 to IL016 and IL019 are in the document, and IL018 is a pool that does
/// not log.
const PLANTED: &[(&str, &str)] = &[
    ("IL001", "POST /documents"),
    ("IL002", "PUT /documents/{document}"),
    ("IL003", "DELETE /documents/{document}"),
    ("IL004", "PUT /documents/{document}/grants/{user}"),
    ("IL005", ""),
    ("IL006", "GET /documents/{document}"),
    ("IL007", "DELETE /documents/{document}/grants/{user}"),
    ("IL008", "POST /documents"),
    ("IL008", "PUT /documents/{document}"),
    ("IL009", "GET /documents/{document}"),
    // Its policy is not `.read_only()`.
    ("IL009", "GET /documents/{document}"),
    ("IL010", "DELETE /documents/{document}"),
    ("IL010", "PUT /documents/{document}"),
    ("IL011", "PATCH /documents/{document}"),
    ("IL012", "DELETE /documents/{document}"),
    ("IL013", "GET /documents/{document}/version"),
    ("IL014", "DELETE /documents/{document}"),
    // It is neither in the lock file nor in the trace.
    ("IL015", "GET /documents"),
    ("IL015", "GET /documents"),
    ("IL015", "POST /documents"),
    ("IL015", "PUT /documents/{document}"),
    ("IL016", ""),
    ("IL017", "DELETE /documents/{document}/grants/{user}"),
    ("IL018", "GET /documents/{document}/version"),
    ("IL019", "DELETE /documents/{document}/grants/{user}"),
];

#[tokio::test]
async fn faults_are_uncovered_as_locked() -> Result<(), Box<dyn StdError>> {
    let nowhere = Interlock::pool_options().acquire_timeout(std::time::Duration::from_millis(50));
    let nowhere = nowhere.connect_lazy("postgres://localhost:1/nowhere")?;
    let routes = [
        ("POST", "/documents"),
        ("GET", "/documents/{document}"),
        ("PUT", "/documents/{document}"),
        ("PATCH", "/documents/{document}"),
        ("DELETE", "/documents/{document}"),
        ("PUT", "/documents/{document}/grants/{user}"),
        ("DELETE", "/documents/{document}/grants/{user}"),
        ("GET", "/documents/{document}/version"),
    ];
    Coverage::of(router(&Interlock::new(nowhere.clone()), &nowhere))
        .routes(routes)
        .lock(LOCK)
        .check()
        .await?;
    Ok(())
}

#[test]
fn each_planted_fault_is_found_and_nothing_else() {
    support::test(async |database| {
        let recorder = Recorder::new();
        let app = service(options(&database), &recorder).await;
        let token = token(&options(&database)).await;
        for (method, path, status) in [
            (Method::PATCH, DOCUMENT, 200),
            (Method::POST, "/documents", 201),
            (Method::GET, DOCUMENT, 200),
            (Method::PUT, DOCUMENT, 200),
            (Method::DELETE, GRANT, 204),
            (Method::PUT, GRANT, 204),
            (Method::GET, &format!("{DOCUMENT}/version"), 200),
            (Method::DELETE, DOCUMENT, 204),
        ] {
            let sent = send(
                &recorder,
                &app,
                signed(request(method.clone(), path), &token),
            )
            .await;
            assert_eq!(sent, status, "{method} {path}");
        }
        let silent = options(&database).disable_statement_logging();
        let silent = service(silent, &recorder).await;
        let version = request(Method::GET, &format!("{DOCUMENT}/version"));
        assert_eq!(send(&recorder, &silent, signed(version, &token)).await, 200);

        let document = Document::read(DOCUMENTED, &Limits::default()).unwrap();
        let audit = Audit::new().document(document).lock(LOCK).unwrap();
        let mut connection = options(&database).connect().await.unwrap();
        if database.kind() == Kind::PostgreSql {
            let drop = "DROP TRIGGER interlock_guard ON grants";
            sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
        }
        let audit = audit.trace(recorder.trace()).guards(&mut connection).await;
        let findings = audit.unwrap().run();
        let mut found: Vec<_> = findings
            .findings
            .iter()
            .map(|it| (it.rule.id(), it.operation.as_deref().unwrap_or_default()))
            .collect();
        found.sort_unstable();
        let mut planted = PLANTED.to_vec();
        // CockroachDB needs no guard.
        planted.retain(|(rule, _)| *rule != "IL005" || database.kind() == Kind::PostgreSql);
        assert_eq!(found, planted, "{findings}");
    });
}

/// The twin, with its tables and rows.
async fn service(options: PgConnectOptions, recorder: &Recorder) -> Router {
    let pool = Interlock::pool_options().max_connections(4);
    let pool = pool.connect_with(options).await.unwrap();
    schema::apply(&pool).await.unwrap();
    sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
    let interlock = Interlock::builder(pool.clone())
        .observe(recorder.clone())
        .build();
    router(&interlock, &pool).layer(recorder.layer())
}

async fn token(options: &PgConnectOptions) -> String {
    let pool = Interlock::pool_options().connect_with(options.clone());
    auth::issue_token(&pool.await.unwrap(), "alice")
        .await
        .unwrap()
}

async fn send(recorder: &Recorder, app: &Router, request: Request) -> u16 {
    let (response, _) = recorder.send(app, request).await;
    response.status().as_u16()
}

const LOCK: &str = "examples/documents/twin.lock";
const DOCUMENTED: &str = "examples/documents/twin.yaml";
