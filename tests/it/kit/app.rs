//! Policies and handlers that many tests use.

use axum::{Router, extract::Path, handler::Handler, routing::any};
use tower_interlock::{AuthorizeLayer, Authorized, Denied, Error, Tx};

/// The grant of [`can_edit`].
#[derive(Debug, Clone)]
pub(crate) struct CanEdit {
    pub(crate) document: i64,
}

/// A policy: user 1 may edit the documents that it has a grant for.
pub(crate) async fn can_edit(Path(document): Path<i64>, mut tx: Tx) -> Result<CanEdit, Error> {
    let allowed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = 1 AND document_id = $1)",
    )
    .bind(document)
    .fetch_one(&mut tx)
    .await?;
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

/// A policy that grants everything without a statement.
pub(crate) async fn anyone() -> Result<(), Error> {
    Ok(())
}

/// Writes a note.
pub(crate) async fn note(tx: &mut Tx, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO notes VALUES ($1, '')")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Replaces the body of the document that [`can_edit`] granted, and returns it.
pub(crate) async fn update(
    can: Authorized<CanEdit>,
    mut tx: Tx,
    body: String,
) -> Result<String, Error> {
    sqlx::query("UPDATE documents SET body = $2, version = version + 1 WHERE id = $1")
        .bind(can.document)
        .bind(&body)
        .execute(&mut tx)
        .await?;
    Ok(body)
}

/// A handler that writes note 1 and succeeds.
pub(crate) async fn write(mut tx: Tx) -> Result<&'static str, Error> {
    note(&mut tx, 1).await?;
    Ok("ok")
}

/// A handler that must not run.
pub(crate) async fn never() {
    panic!("the handler ran");
}

/// A router that sends every path of one segment through `layer` to `handler`.
pub(crate) fn guarded<H, T>(layer: AuthorizeLayer, handler: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    Router::new()
        .route("/{id}", any(handler))
        .route_layer(layer)
}
