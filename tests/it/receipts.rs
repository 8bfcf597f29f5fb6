//! Receipts: unknown outcomes are decided, repeated requests have one effect, writes are audited.

mod audit;
mod concurrent;
mod cost;
mod faults;
mod idempotency;
mod outcome;
mod table;
mod transaction;

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{HeaderValue, Request, StatusCode},
    response::IntoResponse,
    routing::post,
};
use support::Kind;
use tower_interlock::{AuthorizeLayer, Error, Interlock, InterlockBuilder, Receipts, Tx, schema};

use crate::kit::{self, Kit, TestResponse};

/// Makes the tables: that of the receipts, and one in which nothing keeps an effect from being there
/// twice.
async fn make_tables(kit: &Kit) {
    kit.database.run(schema::RECEIPTS).await;
    kit.database.run(EFFECTS).await;
}

const EFFECTS: &str = "CREATE TABLE effects (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(), request INT8 NOT NULL
)";

const EXPIRE: &str = "UPDATE interlock_receipts SET expires_at = now() - INTERVAL '1 second'";

/// The settings of an interlock with receipts, whose principal is in a header.
fn with_receipts(builder: InterlockBuilder) -> InterlockBuilder {
    builder.receipts(Receipts::new()).principal(|parts| {
        let user = parts.headers.get("x-user")?;
        Some(user.to_str().ok()?.to_owned())
    })
}

/// An interlock with receipts on the kit's pool, and its tables.
async fn prepare(kit: &Kit) -> Interlock {
    make_tables(kit).await;
    with_receipts(kit.builder()).build()
}

/// A router with one idempotent route that has an effect.
fn idempotent(interlock: &Interlock) -> Router {
    effects(interlock.require(kit::anyone).named("anyone").idempotent())
}

/// A router whose handler has an effect for the number in the path.
fn effects(layer: AuthorizeLayer) -> Router {
    Router::new().route("/effects/{request}", post(effect).route_layer(layer))
}

async fn effect(Path(request): Path<i64>, mut tx: Tx) -> Result<impl IntoResponse, Error> {
    add_effect(&mut tx, request).await?;
    Ok((
        StatusCode::CREATED,
        [("location", format!("/effects/{request}"))],
        format!("effect {request}"),
    ))
}

async fn add_effect(tx: &mut Tx, request: i64) -> Result<(), sqlx::Error> {
    let effect = "INSERT INTO effects (request) VALUES ($1)";
    sqlx::query(effect).bind(request).execute(tx).await?;
    Ok(())
}

/// A request of user 1 with an idempotency key.
fn keyed(request: i64, key: &str) -> Request<Body> {
    keyed_of("1", request, key)
}

fn keyed_of(user: &str, request: i64, key: &str) -> Request<Body> {
    Request::post(format!("/effects/{request}"))
        .header("x-user", user)
        .header("idempotency-key", key)
        .body(Body::from("body"))
        .unwrap()
}

/// Asserts that it is the response to the first copy of `request`.
#[track_caller]
fn assert_created(response: &TestResponse, request: i64) {
    assert_eq!(response.status, 201, "{}", response.body);
    assert_eq!(response.body, format!("effect {request}"));
    let location = response.headers().get("location");
    assert_eq!(location.unwrap(), &format!("/effects/{request}"));
}

fn is_replayed(response: &TestResponse) -> bool {
    response.headers().get("idempotent-replayed") == Some(&HeaderValue::from_static("true"))
}

/// How often `request` has had its effect. To be called when it is over.
async fn count_effects(kit: &Kit, request: i64) -> i64 {
    let count = "SELECT count(*) FROM effects WHERE request = $1";
    let count = sqlx::query_scalar(count).bind(request);
    count.fetch_one(&kit.outside).await.unwrap()
}

/// How many receipts have a status, and how many are void.
async fn count_receipts(kit: &Kit) -> (i64, i64) {
    let count = "SELECT count(CASE WHEN status <> 0 THEN 1 END), count(CASE WHEN status = 0 THEN 1 END) \
                 FROM interlock_receipts";
    sqlx::query_as(count).fetch_one(&kit.outside).await.unwrap()
}

/// Waits until a statement whose text is like `pattern` waits for a lock.
async fn until_blocked(kit: &Kit, pattern: &str) {
    if kit.database.kind() == Kind::CockroachDb {
        // It does not show who waits.
        return tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let blocked = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity \
                   WHERE datname = current_database() AND wait_event_type = 'Lock' \
                   AND query LIKE $1)";
    let blocked = || sqlx::query_scalar::<_, bool>(blocked).bind(pattern);
    let waiting = async {
        while !blocked().fetch_one(&kit.outside).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waiting = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    waiting.expect("no such statement waits");
}
