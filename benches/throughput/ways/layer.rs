//! The layer, with its defaults.

use axum::{
    Extension, Router,
    extract::Path,
    routing::{get, put},
};
use tower_interlock::{AuthorizeLayer, Authorized, Denied, Error, Interlock, Tx};

use super::{CHECK, PATH, READ, UPDATE, User};

pub(super) fn router(interlock: &Interlock) -> Router {
    routes(interlock, interlock.require(has_grant))
}

pub(super) fn idempotent_router(interlock: &Interlock) -> Router {
    routes(interlock, interlock.require(has_grant).idempotent())
}

fn routes(interlock: &Interlock, writes: AuthorizeLayer) -> Router {
    Router::new()
        .route(PATH, put(update).route_layer(writes))
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

async fn read(can: Authorized<HasGrant>, mut tx: Tx) -> Result<String, Error> {
    let read = sqlx::query_scalar(READ).bind(can.document);
    Ok(read.fetch_one(&mut tx).await?)
}
