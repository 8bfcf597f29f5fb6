//! axum-sqlx-tx, with the check in the handler. It does not retry.

use axum::{Extension, Router, extract::Path, http::StatusCode, routing::put};
use sqlx::{PgPool, Postgres};

use super::{CHECK, PATH, READ, UPDATE, User, failed};

type Tx = axum_sqlx_tx::Tx<Postgres>;

pub(super) fn router(pool: PgPool) -> Router {
    let (state, layer) = Tx::setup(pool);
    Router::new()
        .route(PATH, put(update).get(read))
        .layer(layer)
        .with_state(state)
}

async fn update(
    Extension(user): Extension<User>,
    Path(id): Path<i64>,
    mut tx: Tx,
    body: String,
) -> Result<(), StatusCode> {
    check(&mut tx, user, id).await?;
    let update = sqlx::query(UPDATE).bind(id).bind(body);
    update.execute(&mut tx).await.map_err(failed)?;
    Ok(())
}

async fn read(
    Extension(user): Extension<User>,
    Path(id): Path<i64>,
    mut tx: Tx,
) -> Result<String, StatusCode> {
    check(&mut tx, user, id).await?;
    let read = sqlx::query_scalar(READ).bind(id);
    read.fetch_one(&mut tx).await.map_err(failed)
}

async fn check(tx: &mut Tx, User(user): User, id: i64) -> Result<(), StatusCode> {
    let check = sqlx::query_scalar(CHECK).bind(user).bind(id);
    let allowed: bool = check.fetch_one(tx).await.map_err(failed)?;
    if allowed {
        Ok(())
    } else {
        Err(StatusCode::FORBIDDEN)
    }
}
