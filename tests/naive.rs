//! Conventional implementations under the faults of `tests/it/faults.rs`. Each must break,
//! otherwise the fault would prove nothing.

#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and does by hand what the crate does for others"
)]

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    handler::Handler,
    http::{Request, StatusCode},
    routing::put,
};
use sqlx::{Executor as _, PgPool, Postgres, postgres::PgPoolOptions};
use support::{Database, Fault, Moment, Proxy, ServerError, test};
use tokio::time::timeout;
use tower::ServiceExt as _;

const EFFECTS: &str = "CREATE TABLE effects (id INT8 NOT NULL)";
const WRITE: &str = "INSERT INTO effects VALUES (1)";

/// axum-sqlx-tx breaks "success means committed".
#[test]
fn success_is_reported_and_nothing_is_stored() {
    async fn handler(mut tx: axum_sqlx_tx::Tx<Postgres>) -> &'static str {
        tx.execute(WRITE).await.unwrap();
        // A statement whose failure is ignored.
        drop(tx.execute("SELECT 1").await);
        "stored"
    }
    test(async |database| {
        let (proxy, pool) = through(&database).await;
        proxy.inject(Moment::Statement(2), Fault::Reject(ServerError::RESTART));
        let response = send(&peer(pool, handler)).await;
        assert_eq!(response, (StatusCode::OK, "stored".to_owned()));
        assert_eq!(rows(&database).await, 0);
    });
}

/// Two statements on a pool break "all or nothing".
#[test]
fn half_of_the_request_is_stored() {
    test(async |database| {
        let (proxy, pool) = through(&database).await;
        pool.execute(WRITE).await.unwrap();
        proxy.inject(Moment::Text("INSERT"), Fault::CutBefore);
        pool.execute(WRITE).await.unwrap_err();
        assert_eq!(rows(&database).await, 1);
    });
}

/// A loop that retries after every error breaks "once".
#[test]
fn effect_is_stored_twice() {
    async fn write(pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut transaction = pool
            .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
            .await?;
        transaction.execute(WRITE).await?;
        transaction.commit().await
    }
    test(async |database| {
        let (proxy, pool) = through(&database).await;
        proxy.inject(Moment::Commit, Fault::CutAfter);
        while write(&pool).await.is_err() {}
        assert_eq!(proxy.counts().commits, 2);
        assert_eq!(rows(&database).await, 2);
    });
}

/// sqlx breaks "nothing leaks" with the connection of a dropped BEGIN.
#[test]
fn pool_receives_an_open_transaction() {
    test(async |database| {
        let (proxy, pool) = through(&database).await;
        proxy.inject(Moment::Begin, Fault::Delay(Duration::from_millis(300)));
        let begun = timeout(Duration::from_millis(100), pool.begin()).await;
        assert!(begun.is_err());
        pool.execute("SAVEPOINT which_only_a_transaction_has")
            .await
            .unwrap();
    });
}

/// axum-sqlx-tx breaks "no database text reaches a client". It does not retry either.
#[test]
fn response_contains_server_error_text() {
    test(async |database| {
        let (proxy, pool) = through(&database).await;
        proxy.inject(Moment::Commit, Fault::Reject(ServerError::RESTART));
        let (status, body) = send(&peer(pool, write)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(body.contains("restart transaction"), "{body}");
        assert_eq!(proxy.counts().commits, 1);
        assert_eq!(rows(&database).await, 0);
    });
}

/// axum-sqlx-tx breaks "unknown outcomes are reported".
#[test]
fn stored_and_not_stored_get_the_same_response() {
    test(async |database| {
        let (proxy, pool) = through(&database).await;
        let app = peer(pool, write);
        let mut responses = Vec::new();
        for (fault, stored) in [(Fault::CutBefore, 0), (Fault::CutAfter, 1)] {
            proxy.inject(Moment::Commit, fault);
            responses.push(send(&app).await);
            assert_eq!(rows(&database).await, stored);
        }
        assert_eq!(responses[0], responses[1]);
        assert_eq!(responses[0].0, StatusCode::INTERNAL_SERVER_ERROR);
    });
}

/// A check that takes an error for a denial breaks "fail closed".
#[test]
fn outage_is_reported_as_denial() {
    async fn may(pool: &PgPool) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT true").fetch_one(pool).await
    }
    test(async |database| {
        let (proxy, pool) = through(&database).await;
        let handler = async move || match may(&pool).await.unwrap_or(false) {
            true => StatusCode::OK,
            false => StatusCode::FORBIDDEN,
        };
        let app = Router::new().route("/", put(handler));
        let outage = Fault::Terminate(ServerError::SHUTDOWN);
        proxy.inject(Moment::Text("SELECT true"), outage);
        assert_eq!(send(&app).await.0, StatusCode::FORBIDDEN);
        assert_eq!(send(&app).await.0, StatusCode::OK);
    });
}

async fn write(mut tx: axum_sqlx_tx::Tx<Postgres>) -> &'static str {
    tx.execute(WRITE).await.unwrap();
    "stored"
}

/// A service on axum-sqlx-tx.
fn peer<H, T>(pool: PgPool, handler: H) -> Router
where
    H: Handler<T, axum_sqlx_tx::State<Postgres>>,
    T: 'static,
{
    let (state, layer) = axum_sqlx_tx::Tx::<Postgres>::setup(pool);
    Router::new()
        .route("/", put(handler))
        .layer(layer)
        .with_state(state)
}

async fn send(app: &Router) -> (StatusCode, String) {
    let request = Request::put("/").body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// A table, and a pool of one connection through a proxy.
async fn through(database: &Database) -> (Proxy, PgPool) {
    database.run(EFFECTS).await;
    let proxy = Proxy::start(database);
    let options = PgPoolOptions::new().max_connections(1);
    let pool = options.connect_with(proxy.options()).await.unwrap();
    (proxy, pool)
}

/// The number of stored rows.
async fn rows(database: &Database) -> i64 {
    let count = sqlx::query_scalar("SELECT count(*) FROM effects");
    count.fetch_one(&database.pool(1).await).await.unwrap()
}
