//! Services that write in different ways.
//!
//! `PUT /{user}/{request}` checks the grant of the user and stores the two halves of the request.
//! The table has no key, so a request that is stored twice is visible.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    routing::{MethodRouter, put},
};
use sqlx::PgPool;
use tower_interlock::{Condition, ConditionalWrite, Denied, Error, Interlock, Tx};

pub(super) const SCHEMA: &str = "
    CREATE TABLE grants (user_id INT8 PRIMARY KEY);
    CREATE TABLE halves (request INT8 NOT NULL, half INT8 NOT NULL);
    INSERT INTO grants VALUES (1);
";

const PATH: &str = "/{user}/{request}";
const CHECK: &str = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1)";
const WRITE: &str = "INSERT INTO halves VALUES ($1, $2)";

/// The requests whose hooks ran.
pub(super) type Hooks = Arc<Mutex<Vec<i64>>>;

pub(super) fn layer(interlock: &Interlock, hooks: &Hooks) -> Router {
    async fn may_write(Path((user, _)): Path<(i64, i64)>, mut tx: Tx) -> Result<(), Error> {
        let check = sqlx::query_scalar(CHECK).bind(user);
        let allowed: bool = check.fetch_one(&mut tx).await?;
        Denied::unless(allowed, "no grant")?;
        Ok(())
    }
    let hooks = Arc::clone(hooks);
    let handler = async move |Path((_, request)): Path<(i64, i64)>, mut tx: Tx| {
        for half in [0, 1_i64] {
            let write = sqlx::query(WRITE).bind(request).bind(half);
            write.execute(&mut tx).await?;
        }
        let hooks = Arc::clone(&hooks);
        tx.after_commit(async move { hooks.lock().unwrap().push(request) });
        Ok::<_, Error>(())
    };
    route(put(handler).route_layer(interlock.require(may_write)))
}

pub(super) fn conditional(interlock: &Interlock) -> Router {
    static WRITE: ConditionalWrite = ConditionalWrite::new(
        "INSERT INTO halves SELECT $2::INT8, number FROM (VALUES (0), (1)) AS half (number) WHERE {conditions}",
        &[Condition::permitted(
            "EXISTS (SELECT 1 FROM grants WHERE user_id = $1)",
        )],
    );
    let interlock = interlock.clone();
    let handler = async move |Path((user, request)): Path<(i64, i64)>| {
        WRITE.bind(user).bind(request).execute(&interlock).await?;
        Ok::<_, Error>(())
    };
    route(put(handler))
}

/// A hand-written transaction.
pub(super) fn by_hand(pool: PgPool) -> Router {
    let handler =
        async move |Path((user, request))| status_of(&attempt(&pool, user, request).await);
    route(put(handler))
}

/// A hand-written transaction that is retried whenever the connection is lost.
pub(super) fn by_hand_with_retry(pool: PgPool) -> Router {
    let handler = async move |Path((user, request))| {
        loop {
            match attempt(&pool, user, request).await {
                Err(sqlx::Error::Io(_)) => {}
                attempted => break status_of(&attempted),
            }
        }
    };
    route(put(handler))
}

fn status_of(attempted: &Result<bool, sqlx::Error>) -> StatusCode {
    match attempted {
        Ok(true) => StatusCode::OK,
        Ok(false) => StatusCode::FORBIDDEN,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn attempt(pool: &PgPool, user: i64, request: i64) -> Result<bool, sqlx::Error> {
    let mut tx = pool
        .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
        .await?;
    let check = sqlx::query_scalar(CHECK).bind(user);
    let allowed = check.fetch_one(&mut *tx).await?;
    if allowed {
        for half in [0, 1_i64] {
            let write = sqlx::query(WRITE).bind(request).bind(half);
            write.execute(&mut *tx).await?;
        }
    }
    tx.commit().await?;
    Ok(allowed)
}

fn route(method: MethodRouter) -> Router {
    Router::new().route(PATH, method)
}
