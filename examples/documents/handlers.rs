//! The handlers.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use serde::{Deserialize, Serialize};
use tower_interlock::{
    Authorized, Condition, ConditionalWrite, Error, Interlock, Tx,
    precondition::{ETag, IfMatch, IfNoneMatch},
};
use uuid::Uuid;

use crate::{
    auth::{TokenHash, User},
    policies::{Access, DocumentPath, HAS_ACCESS, Ownership},
};

#[derive(Serialize, sqlx::FromRow)]
pub(crate) struct Document {
    id: Uuid,
    owner: String,
    body: String,
    version: i64,
}

#[derive(Deserialize)]
pub(crate) struct Draft {
    body: String,
}

pub(crate) async fn create(
    user: Authorized<User>,
    mut tx: Tx,
    Json(draft): Json<Draft>,
) -> Result<(StatusCode, ETag, Json<Document>), Error> {
    let document: Document = sqlx::query_as(
        "INSERT INTO documents (id, owner, body) VALUES ($1, $2, $3)
         RETURNING id, owner, body, version",
    )
    .bind(Uuid::new_v4())
    .bind(&user.name)
    .bind(draft.body)
    .fetch_one(&mut tx)
    .await?;
    let etag = ETag::new(document.version);
    Ok((StatusCode::CREATED, etag, Json(document)))
}

pub(crate) async fn read(
    can: Authorized<Access>,
    known: IfNoneMatch,
    mut tx: Tx,
) -> Result<Response, Error> {
    let document: Document =
        sqlx::query_as("SELECT id, owner, body, version FROM documents WHERE id = $1")
            .bind(can.document)
            .fetch_one(&mut tx)
            .await?;
    Ok(known.not_modified_or(document.version, || Json(document)))
}

/// Checks and writes in one statement. The first condition that is not true makes the response.
pub(crate) static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = $3, version = version + 1 WHERE id = $2 AND {conditions}
     RETURNING id, owner, body, version",
    &[
        Condition::authenticated("EXISTS (SELECT 1 FROM tokens WHERE hash = $1)", "Bearer"),
        Condition::permitted(HAS_ACCESS).hidden(),
        Condition::current("(SELECT version FROM documents WHERE id = $2) = $4"),
    ],
);

/// Needs no policy: [`UPDATE`] has the conditions.
pub(crate) async fn update_if_permitted(
    State(interlock): State<Interlock>,
    TokenHash(token_hash): TokenHash,
    Path(DocumentPath { document }): Path<DocumentPath>,
    expected: IfMatch,
    Json(draft): Json<Draft>,
) -> Result<(ETag, Json<Document>), Error> {
    let document: Document = UPDATE
        .bind(token_hash)
        .bind(document)
        .bind(draft.body)
        .bind(expected.single()?)
        .fetch_one(&interlock)
        .await?;
    Ok((ETag::new(document.version), Json(document)))
}

pub(crate) async fn remove(can: Authorized<Ownership>, mut tx: Tx) -> Result<StatusCode, Error> {
    sqlx::query("DELETE FROM documents WHERE id = $1")
        .bind(can.document)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(crate) struct GrantPath {
    user: String,
}

pub(crate) async fn share(
    can: Authorized<Ownership>,
    Path(GrantPath { user }): Path<GrantPath>,
    mut tx: Tx,
) -> Result<StatusCode, Error> {
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM users WHERE name = $1)")
        .bind(&user)
        .fetch_one(&mut tx)
        .await?;
    if !exists {
        return Err(Error::not_found());
    }
    let inserted = sqlx::query("INSERT INTO grants VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(can.document)
        .bind(&user)
        .execute(&mut tx)
        .await?;
    if inserted.rows_affected() == 1 {
        // Runs after COMMIT, and only once, even if the request was retried.
        let document = can.document;
        tx.after_commit(async move {
            tracing::info!(%document, user, "would send a mail");
        });
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn unshare(
    can: Authorized<Ownership>,
    Path(GrantPath { user }): Path<GrantPath>,
    mut tx: Tx,
) -> Result<StatusCode, Error> {
    let deleted = sqlx::query("DELETE FROM grants WHERE document_id = $1 AND user_name = $2")
        .bind(can.document)
        .bind(user)
        .execute(&mut tx)
        .await?;
    if deleted.rows_affected() == 0 {
        return Err(Error::not_found());
    }
    Ok(StatusCode::NO_CONTENT)
}
