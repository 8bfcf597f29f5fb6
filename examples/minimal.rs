//! The smallest service with a policy: one route, its check and its write in one transaction.
//!
//! `cargo run --example minimal` sends a request of a user with a grant and one of a user without,
//! and fails if a response is not the expected one. It uses the server of `DATABASE_URL` if set;
//! otherwise it starts one for the run.

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::put,
};
use support::{Kind, Server};
use tower::ServiceExt as _;
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx, schema::SERIALIZABLE_GUARD};

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_id INT8, document_id INT8, PRIMARY KEY (user_id, document_id));
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO grants VALUES (1, 7);
";

/// On PostgreSQL, lets only SERIALIZABLE transactions change grants.
const ATTACH_GUARD: &str = "
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON grants
        FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    ALTER TABLE grants ENABLE ALWAYS TRIGGER interlock_guard;
";

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User {
    id: i64,
}

/// Proof that the caller may edit the document. Only the policy returns it.
#[derive(Clone)]
struct CanEdit {
    document: i64,
}

/// A policy is an async function of extractors, like a handler. `Tx` is one of them.
async fn can_edit(
    Extension(user): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let grant = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)";
    let allowed: bool = sqlx::query_scalar(grant)
        .bind(user.id)
        .bind(document)
        .fetch_one(&mut tx)
        .await?;
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

/// The handler gets the same transaction, already authorized.
async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<String, Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(can.document)
        .bind(&body)
        .execute(&mut tx)
        .await?;
    Ok(body)
}

fn app(interlock: &Interlock) -> Router {
    let layer = interlock.require(can_edit);
    Router::new().route("/documents/{id}", put(update).route_layer(layer))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?;
    println!("database: {server}");
    let database = server.create_database("minimal").await?;
    database.run(SCHEMA).await;
    if database.kind() == Kind::PostgreSql {
        database.run(SERIALIZABLE_GUARD).await;
        database.run(ATTACH_GUARD).await;
    }
    let pool = Interlock::pool_options()
        .connect_with(database.options())
        .await?;
    let interlock = Interlock::new(pool.clone());
    let app = app(&interlock);

    for (title, user, expected) in [
        ("a user with a grant", User { id: 1 }, StatusCode::OK),
        ("a user without", User { id: 2 }, StatusCode::FORBIDDEN),
    ] {
        let request = Request::put("/documents/7")
            .extension(user)
            .body(Body::from("second draft"))?;
        let response = app.clone().oneshot(request).await?;
        println!("{title}: {}", response.status());
        assert_eq!(response.status(), expected);
    }

    interlock.drain().await;
    pool.close().await;
    database.drop().await?;
    Ok(())
}
