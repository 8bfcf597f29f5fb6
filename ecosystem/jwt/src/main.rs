//! Bearer tokens (JWT) whose revocation list is a part of the permission.
//!
//! The signature and the expiry are checked by an extractor, without the database. The list of
//! revoked tokens is read by the policy, through its `Tx`: a token that is revoked before COMMIT
//! writes nothing.
//!
//! Run it with `cargo run -p with-jwt` in `ecosystem/`.

use std::time::{Duration, SystemTime};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, Path},
    http::{Request, StatusCode, header::AUTHORIZATION, request::Parts},
    routing::put,
};
use axum_extra::{
    TypedHeader,
    headers::{Authorization, authorization::Bearer},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tour::{Revocation, Tour};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    CREATE TABLE revoked_tokens (id TEXT PRIMARY KEY);
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO grants VALUES ('ada', 7);
";

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: String,
    jti: String,
    exp: u64,
}

const INVALID: &str = r#"Bearer error="invalid_token""#;

/// The state of the policy's extractors is the key.
impl FromRequestParts<DecodingKey> for Claims {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, key: &DecodingKey) -> Result<Self, Error> {
        let TypedHeader(Authorization(token)) =
            TypedHeader::<Authorization<Bearer>>::from_request_parts(parts, key)
                .await
                .map_err(|_| Error::unauthenticated("Bearer"))?;
        let validation = Validation::new(Algorithm::HS256);
        let token = jsonwebtoken::decode(token.token(), key, &validation);
        Ok(token.map_err(|_| Error::unauthenticated(INVALID))?.claims)
    }
}

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

async fn can_edit(claims: Claims, Path(document): Path<i64>, mut tx: Tx) -> Result<CanEdit, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM revoked_tokens WHERE id = $1),
                       EXISTS (SELECT 1 FROM grants WHERE user_name = $2 AND document_id = $3)";
    let (revoked, granted): (bool, bool) = sqlx::query_as(rule)
        .bind(claims.jti)
        .bind(claims.sub)
        .bind(document)
        .fetch_one(&mut tx)
        .await?;
    if revoked {
        return Err(Error::unauthenticated(INVALID));
    }
    Denied::unless(granted, "no edit grant")?;
    Ok(CanEdit { document })
}

async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<StatusCode, Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(can.document)
        .bind(body)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn app(interlock: &Interlock, key: DecodingKey) -> Router {
    let can_edit = interlock.require_with_state(key, can_edit);
    Router::new().route("/documents/{id}", put(update).route_layer(can_edit))
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("jwt", SCHEMA, &["grants", "revoked_tokens"]).await?;
    let interlock = Interlock::connect_with(tour.options(), 4).build();
    let secret = b"a secret of 256 bits, of the environment";
    let app = app(&interlock, DecodingKey::from_secret(secret));

    let issue = |user: &str, id: &str, expiry: SystemTime| {
        let exp = expiry.duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let (sub, jti) = (user.to_owned(), id.to_owned());
        let claims = Claims { sub, jti, exp };
        let key = EncodingKey::from_secret(secret);
        tour::Result::Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
    };
    let hour = Duration::from_secs(3600);
    let (earlier, later) = (SystemTime::now() - hour, SystemTime::now() + hour);
    let token = issue("ada", "1", later)?;

    for (title, token, expected) in [
        ("no token", "", StatusCode::UNAUTHORIZED),
        ("an expired token", &issue("ada", "1", earlier)?, StatusCode::UNAUTHORIZED),
        ("a user without a grant", &issue("mallory", "2", later)?, StatusCode::FORBIDDEN),
        ("a user with a grant", &token, StatusCode::NO_CONTENT),
    ] {
        tour::send(&app, title, request(token), expected).await?;
    }
    let revocation = Revocation {
        prepare: "DELETE FROM revoked_tokens; UPDATE documents SET body = 'first draft'",
        revoke: "INSERT INTO revoked_tokens VALUES ('1')",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, move || request(&token), revocation).await?;

    interlock.drain().await;
    tour.end().await
}

fn request(token: &str) -> axum::http::Result<Request<Body>> {
    Request::put("/documents/7")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::from("second draft"))
}
