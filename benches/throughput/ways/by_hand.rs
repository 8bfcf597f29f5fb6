//! A transaction in a retry loop, as a careful engineer writes it without this crate.
//!
//! It retries at once, at most as often as the layer does. A pause was measured on PostgreSQL: it
//! wins nothing, and the slowest requests take twice as long. sqlx rolls back a dropped transaction
//! in the background, and the response does not wait for it.

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
    routing::put,
};
use sqlx::PgPool;

use super::{Attempts, CHECK, PATH, READ, READ_ALL, UPDATE, User, failed};

pub(super) fn router(pool: PgPool) -> Router {
    Router::new()
        .route(PATH, put(update).post(read_all_and_update).get(read))
        .with_state(pool)
}

async fn update(
    Extension(user): Extension<User>,
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
    body: String,
) -> impl IntoResponse {
    retry(|| try_update(&pool, user, id, &body, None)).await
}

async fn read_all_and_update(
    Extension(user): Extension<User>,
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
    body: String,
) -> impl IntoResponse {
    retry(|| try_update(&pool, user, id, &body, Some(READ_ALL))).await
}

async fn read(
    Extension(user): Extension<User>,
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
) -> impl IntoResponse {
    retry(|| try_read(&pool, user, id)).await
}

async fn retry<T, F>(attempt: impl Fn() -> F) -> (Extension<Attempts>, Result<T, StatusCode>)
where
    F: Future<Output = Result<Option<T>, sqlx::Error>>,
{
    let mut attempts = 1;
    loop {
        match attempt().await {
            Err(error) if attempts < MAX_ATTEMPTS && is_retryable(&error) => attempts += 1,
            done => return respond(done, attempts),
        }
    }
}

async fn try_update(
    pool: &PgPool,
    User(user): User,
    id: i64,
    body: &str,
    first: Option<&'static str>,
) -> Result<Option<()>, sqlx::Error> {
    let mut tx = pool
        .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
        .await?;
    let check = sqlx::query_scalar(CHECK).bind(user).bind(id);
    let allowed: bool = check.fetch_one(&mut *tx).await?;
    if !allowed {
        return Ok(None);
    }
    if let Some(first) = first {
        sqlx::query(first).execute(&mut *tx).await?;
    }
    let update = sqlx::query(UPDATE).bind(id).bind(body);
    update.execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(Some(()))
}

async fn try_read(pool: &PgPool, User(user): User, id: i64) -> Result<Option<String>, sqlx::Error> {
    let mut tx = pool
        .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY")
        .await?;
    let check = sqlx::query_scalar(CHECK).bind(user).bind(id);
    let allowed: bool = check.fetch_one(&mut *tx).await?;
    if !allowed {
        return Ok(None);
    }
    let read = sqlx::query_scalar(READ).bind(id);
    let body = read.fetch_one(&mut *tx).await?;
    tx.commit().await?;
    Ok(Some(body))
}

fn is_retryable(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

fn respond<T>(
    done: Result<Option<T>, sqlx::Error>,
    attempts: u32,
) -> (Extension<Attempts>, Result<T, StatusCode>) {
    let allowed = done.map_err(failed);
    let response = allowed.and_then(|allowed| allowed.ok_or(StatusCode::FORBIDDEN));
    (Extension(Attempts(attempts)), response)
}

const MAX_ATTEMPTS: u32 = 100;
