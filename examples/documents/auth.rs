//! Authentication by bearer token.
//!
//! The database has only the hashes of tokens. A token is 122 random bits, so its hash needs no
//! salt.

use axum::{
    extract::FromRequestParts,
    http::{header, request::Parts},
};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use tower_interlock::{Error, Tx};
use uuid::Uuid;

/// Creates a token for a user and stores its hash.
pub(crate) async fn issue_token(pool: &PgPool, user: &str) -> Result<String, sqlx::Error> {
    let token = Uuid::new_v4().simple().to_string();
    sqlx::query("INSERT INTO tokens (hash, user_name) VALUES ($1, $2)")
        .bind(hash(&token))
        .bind(user)
        .execute(pool)
        .await?;
    Ok(token)
}

/// Who a request is recorded for: the owner of this token. It is not checked, so it authorizes
/// nothing.
pub(crate) fn principal(parts: &Parts) -> Option<String> {
    let hash = hash(bearer_token(parts)?);
    Some(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The hash of the token in the request. It is not checked: the token may be unknown.
pub(crate) struct TokenHash(pub(crate) [u8; 32]);

impl<S: Sync> FromRequestParts<S> for TokenHash {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let token = bearer_token(parts).ok_or_else(unauthenticated)?;
        Ok(Self(hash(token)))
    }
}

/// The user who sends the request.
///
/// The token is read through `Tx`, so a revoked token cannot be used to write either.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) token_hash: [u8; 32],
}

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Error> {
        let TokenHash(token_hash) = TokenHash::from_request_parts(parts, state).await?;
        let mut tx = Tx::from_request_parts(parts, state).await?;
        let name: Option<String> =
            sqlx::query_scalar("SELECT user_name FROM tokens WHERE hash = $1")
                .bind(token_hash)
                .fetch_optional(&mut tx)
                .await?;
        let name = name.ok_or_else(unauthenticated)?;
        Ok(Self { name, token_hash })
    }
}

fn unauthenticated() -> Error {
    Error::unauthenticated("Bearer")
}

fn bearer_token(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(header::AUTHORIZATION)?;
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
