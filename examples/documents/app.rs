//! The service: its tables, its principals, its policies and its handlers.

use axum::{
    Json, Router,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use serde::{Deserialize, Serialize};
use tower_interlock::{
    Authorized, Condition, ConditionalWrite, Denied, ETag, Error, IfMatch, IfNoneMatch, Interlock,
    Tx,
};
use uuid::Uuid;

/// The routes, each with what it requires.
pub(crate) fn router(interlock: &Interlock) -> Router {
    let may_create = interlock.require(signed_in);
    let may_read = interlock.require(can_read).read_only();
    let is_owner = interlock.require(owns);

    let document = "/documents/{document}";
    let grant = "/documents/{document}/grants/{user}";
    Router::new()
        .route("/documents", post(create).route_layer(may_create))
        .route(document, get(read).route_layer(may_read))
        // One statement is enough here: it checks by itself.
        .route(document, put(update))
        .route(document, delete(remove).route_layer(is_owner.clone()))
        .route(grant, put(share).delete(revoke).route_layer(is_owner))
        .with_state(interlock.clone())
}

pub(crate) const SCHEMA: &str = "
    CREATE TABLE users (name TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE);
    CREATE TABLE documents (
        id UUID PRIMARY KEY,
        owner TEXT NOT NULL REFERENCES users,
        body TEXT NOT NULL,
        version INT8 NOT NULL DEFAULT 1
    );
    CREATE TABLE grants (
        document_id UUID NOT NULL REFERENCES documents ON DELETE CASCADE,
        user_name TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
        can_edit BOOL NOT NULL,
        PRIMARY KEY (document_id, user_name)
    );
    INSERT INTO users VALUES ('alice', 'alice'), ('bob', 'bob');
";

/// On PostgreSQL, what policies read is changed by SERIALIZABLE transactions only.
pub(crate) const GUARDED_TABLES: &str = "
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
        ON users FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
        ON documents FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
        ON grants FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
";

// Principals

/// Who makes the request, by bearer token.
///
/// An ordinary extractor. That it reads through `Tx` puts the token, too, under the transaction.
#[derive(Clone)]
struct User {
    name: String,
}

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let Token(token) = Token::from_request_parts(parts, state).await?;
        let mut tx = Tx::from_request_parts(parts, state)
            .await
            .map_err(IntoResponse::into_response)?;
        let name: Option<String> = sqlx::query_scalar("SELECT name FROM users WHERE token = $1")
            .bind(token)
            .fetch_optional(&mut tx)
            .await
            .map_err(|error| Error::from(error).into_response())?;
        let name = name.ok_or_else(unauthorized)?;
        Ok(Self { name })
    }
}

/// What the caller presents to prove who it is.
struct Token(String);

impl<S: Sync> FromRequestParts<S> for Token {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let header = parts.headers.get(header::AUTHORIZATION);
        let token = header.and_then(|header| header.to_str().ok()?.strip_prefix("Bearer "));
        Ok(Self(token.ok_or_else(unauthorized)?.to_owned()))
    }
}

fn unauthorized() -> Response {
    let headers = [
        (header::WWW_AUTHENTICATE, "Bearer"),
        (header::CONTENT_TYPE, "application/problem+json"),
    ];
    let problem = r#"{"type":"about:blank","title":"Unauthorized","status":401}"#;
    (StatusCode::UNAUTHORIZED, headers, problem).into_response()
}

// Policies

async fn signed_in(user: User) -> Result<User, Error> {
    Ok(user)
}

/// The part of the path that policies need; other parameters may follow it.
#[derive(Deserialize)]
struct DocumentPath {
    document: Uuid,
}

/// Proof that the caller may read the document. Only its policy makes one.
#[derive(Clone)]
struct CanRead {
    document: Uuid,
}

async fn can_read(
    user: User,
    Path(DocumentPath { document }): Path<DocumentPath>,
    mut tx: Tx,
) -> Result<CanRead, Error> {
    let allowed: Option<bool> = sqlx::query_scalar(
        "SELECT owner = $2 OR EXISTS (SELECT 1 FROM grants WHERE document_id = $1 AND user_name = $2)
         FROM documents WHERE id = $1",
    )
    .bind(document)
    .bind(user.name)
    .fetch_optional(&mut tx)
    .await?;
    // To a stranger it is as if the document did not exist.
    Denied::unless(allowed, "not shared").map_err(Denied::hidden)?;
    Ok(CanRead { document })
}

/// Proof that the document is the caller's.
#[derive(Clone)]
struct Owns {
    document: Uuid,
}

async fn owns(
    user: User,
    Path(DocumentPath { document }): Path<DocumentPath>,
    mut tx: Tx,
) -> Result<Owns, Error> {
    let allowed: Option<bool> =
        sqlx::query_scalar("SELECT owner = $2 FROM documents WHERE id = $1")
            .bind(document)
            .bind(user.name)
            .fetch_optional(&mut tx)
            .await?;
    Denied::unless(allowed, "not the owner")?;
    Ok(Owns { document })
}

// Handlers

#[derive(Serialize, sqlx::FromRow)]
struct Document {
    id: Uuid,
    owner: String,
    body: String,
    version: i64,
}

#[derive(Deserialize)]
struct Draft {
    body: String,
}

async fn create(
    Authorized(user): Authorized<User>,
    mut tx: Tx,
    Json(draft): Json<Draft>,
) -> Result<(StatusCode, Json<Document>), Error> {
    let document = sqlx::query_as(
        "INSERT INTO documents (id, owner, body) VALUES ($1, $2, $3) RETURNING id, owner, body, version",
    )
    .bind(Uuid::new_v4())
    .bind(user.name)
    .bind(draft.body)
    .fetch_one(&mut tx)
    .await?;
    Ok((StatusCode::CREATED, Json(document)))
}

async fn read(
    Authorized(can): Authorized<CanRead>,
    known: IfNoneMatch,
    mut tx: Tx,
) -> Result<Response, Error> {
    let document: Document =
        sqlx::query_as("SELECT id, owner, body, version FROM documents WHERE id = $1")
            .bind(can.document)
            .fetch_one(&mut tx)
            .await?;
    Ok(known.unless_current(document.version, || Json(document)))
}

/// Check and write in one statement. The first condition that is not true is the answer.
static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = $3, version = version + 1 WHERE id = $2 AND {conditions}
     RETURNING id, owner, body, version",
    &[
        Condition::other(StatusCode::UNAUTHORIZED, "EXISTS (SELECT 1 FROM users WHERE token = $1)"),
        Condition::exists("EXISTS (SELECT 1 FROM documents WHERE id = $2)"),
        Condition::permitted(
            "EXISTS (SELECT 1 FROM documents JOIN users ON name = owner WHERE id = $2 AND token = $1)
             OR EXISTS (SELECT 1 FROM grants JOIN users ON name = user_name WHERE document_id = $2 AND token = $1 AND can_edit)",
        ),
        Condition::current("(SELECT version FROM documents WHERE id = $2) = $4"),
    ],
);

async fn update(
    State(interlock): State<Interlock>,
    Token(token): Token,
    Path(DocumentPath { document }): Path<DocumentPath>,
    expected: IfMatch,
    Json(draft): Json<Draft>,
) -> Result<(ETag, Json<Document>), Error> {
    let update = UPDATE.bind(token).bind(document).bind(draft.body);
    let document: Document = update
        .bind(expected.single()?)
        .fetch_one(&interlock)
        .await?;
    Ok((ETag::of(document.version), Json(document)))
}

async fn remove(Authorized(owns): Authorized<Owns>, mut tx: Tx) -> Result<StatusCode, Error> {
    sqlx::query("DELETE FROM documents WHERE id = $1")
        .bind(owns.document)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct GrantPath {
    user: String,
}

#[derive(Deserialize)]
struct Grant {
    can_edit: bool,
}

async fn share(
    Authorized(owns): Authorized<Owns>,
    Path(GrantPath { user }): Path<GrantPath>,
    mut tx: Tx,
    Json(grant): Json<Grant>,
) -> Result<StatusCode, Error> {
    let shared = sqlx::query(
        "INSERT INTO grants (document_id, user_name, can_edit) SELECT $1, name, $3 FROM users WHERE name = $2
         ON CONFLICT (document_id, user_name) DO UPDATE SET can_edit = excluded.can_edit",
    )
    .bind(owns.document)
    .bind(&user)
    .bind(grant.can_edit)
    .execute(&mut tx)
    .await?;
    if shared.rows_affected() == 0 {
        return Err(Error::not_found());
    }
    // Not before it is true, and once, however often the request is run again.
    tx.after_commit(async move {
        tracing::info!(document = %owns.document, user, "here a mail would be sent");
    });
    Ok(StatusCode::NO_CONTENT)
}

async fn revoke(
    Authorized(owns): Authorized<Owns>,
    Path(GrantPath { user }): Path<GrantPath>,
    mut tx: Tx,
) -> Result<StatusCode, Error> {
    let revoked = sqlx::query("DELETE FROM grants WHERE document_id = $1 AND user_name = $2")
        .bind(owns.document)
        .bind(user)
        .execute(&mut tx)
        .await?;
    if revoked.rows_affected() == 0 {
        return Err(Error::not_found());
    }
    Ok(StatusCode::NO_CONTENT)
}
