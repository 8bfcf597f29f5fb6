//! The usual way: nothing keeps the permission until the write.

use axum::{
    Extension, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::put,
};
use sqlx::PgPool;

use super::{CHECK, PATH, READ, UPDATE, User, failed};

pub(super) fn router(pool: PgPool) -> Router {
    Router::new()
        .route(PATH, put(update).get(read))
        .with_state(pool)
}

async fn update(
    Extension(user): Extension<User>,
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
    body: String,
) -> Result<(), StatusCode> {
    check(&pool, user, id).await?;
    let update = sqlx::query(UPDATE).bind(id).bind(body);
    update.execute(&pool).await.map_err(failed)?;
    Ok(())
}

async fn read(
    Extension(user): Extension<User>,
    State(pool): State<PgPool>,
    Path(id): Path<i64>,
) -> Result<String, StatusCode> {
    check(&pool, user, id).await?;
    let read = sqlx::query_scalar(READ).bind(id);
    read.fetch_one(&pool).await.map_err(failed)
}

async fn check(pool: &PgPool, User(user): User, id: i64) -> Result<(), StatusCode> {
    let check = sqlx::query_scalar(CHECK).bind(user).bind(id);
    let allowed: bool = check.fetch_one(pool).await.map_err(failed)?;
    if allowed {
        Ok(())
    } else {
        Err(StatusCode::FORBIDDEN)
    }
}
