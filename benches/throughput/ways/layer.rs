//! The layer, with its defaults.

use axum::{
    Extension, Router,
    extract::Path,
    routing::{get, post, put},
};
use tower_interlock::{AuthorizeLayer, Authorized, Denied, Error, Interlock, Tx};

use super::{CHECK, PATH, READ, READ_ALL, UPDATE, User};

pub(super) fn router(interlock: &Interlock) -> Router {
    routes(interlock, interlock.require(has_grant))
}

pub(super) fn idempotent_router(interlock: &Interlock) -> Router {
    routes(interlock, interlock.require(has_grant).idempotent())
}

fn routes(interlock: &Interlock, writes: AuthorizeLayer) -> Router {
    Router::new()
        .route(PATH, put(update).route_layer(writes.clone()))
        .route(PATH, post(read_all_and_update).route_layer(writes))
        .route(
            PATH,
            get(read).route_layer(interlock.require(has_grant).read_only()),
        )
        // As axum::serve does. Without it, each request clones its route.
        .with_state(())
}

/// Proof that the user has a grant for the document.
#[derive(Clone)]
struct HasGrant {
    document: i64,
}

async fn has_grant(
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<HasGrant, Error> {
    let check = sqlx::query_scalar(CHECK).bind(user).bind(document);
    let allowed: bool = check.fetch_one(&mut tx).await?;
    Denied::unless(allowed, "no grant")?;
    Ok(HasGrant { document })
}

async fn update(can: Authorized<HasGrant>, mut tx: Tx, body: String) -> Result<(), Error> {
    let update = sqlx::query(UPDATE).bind(can.document).bind(body);
    update.execute(&mut tx).await?;
    Ok(())
}

async fn read_all_and_update(
    can: Authorized<HasGrant>,
    mut tx: Tx,
    body: String,
) -> Result<(), Error> {
    sqlx::query(READ_ALL).execute(&mut tx).await?;
    update(can, tx, body).await
}

async fn read(can: Authorized<HasGrant>, mut tx: Tx) -> Result<String, Error> {
    let read = sqlx::query_scalar(READ).bind(can.document);
    Ok(read.fetch_one(&mut tx).await?)
}
