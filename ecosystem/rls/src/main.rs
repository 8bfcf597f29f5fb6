//! Row-level security of PostgreSQL, for a user that the outermost policy sets for the transaction.
//!
//! `set_config(…, true)` ends with the transaction, so no other request on the connection inherits
//! the user. The rules are in the database, and hold for each statement, also one that forgets its
//! WHERE. They are read in the same SERIALIZABLE transaction, so a revoked row counts as everywhere
//! else. On CockroachDB it says why not, and ends.
//!
//! Run it with `cargo run -p with-rls` in `ecosystem/`.

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::put,
};
use tour::{Kind, Revocation, Tour};
use tower_interlock::{Authorized, Error, Interlock, Tx};

/// The role of the service does not own the tables: their owner is subject to no rule.
const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    INSERT INTO documents VALUES (7, 'first draft'), (8, 'first draft');
    INSERT INTO grants VALUES ('ada', 7);
    ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
    CREATE POLICY edit ON documents USING (EXISTS (
        SELECT 1 FROM grants
        WHERE user_name = current_setting('app.user', true) AND document_id = documents.id
    ));
";

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

#[derive(Clone)]
struct AsUser;

/// Sets the user for the statements behind it. Which rows they may see and change is decided there.
async fn as_user(Extension(User(user)): Extension<User>, mut tx: Tx) -> Result<AsUser, Error> {
    sqlx::query("SELECT set_config('app.user', $1, true)").bind(user).execute(&mut tx).await?;
    Ok(AsUser)
}

/// A row that the user may not see is not found.
async fn update(
    _: Authorized<AsUser>,
    Path(document): Path<i64>,
    mut tx: Tx,
    body: String,
) -> Result<String, Error> {
    let update = "UPDATE documents SET body = $2 WHERE id = $1 RETURNING body";
    let update = sqlx::query_scalar(update).bind(document).bind(body);
    Ok(update.fetch_one(&mut tx).await?)
}

async fn update_all(_: Authorized<AsUser>, mut tx: Tx, body: String) -> Result<String, Error> {
    let updated = sqlx::query("UPDATE documents SET body = $1").bind(body);
    Ok(updated.execute(&mut tx).await?.rows_affected().to_string())
}

fn app(interlock: &Interlock) -> Router {
    let as_user = interlock.require(as_user);
    Router::new()
        .route("/documents/{id}", put(update))
        .route("/documents", put(update_all))
        .route_layer(as_user)
}

#[tokio::main]
async fn main() -> tour::Result {
    let mut tour = Tour::start("rls", "", &[]).await?;
    if tour.kind() == Kind::CockroachDb {
        println!(
            "CockroachDB has row-level security from v25.2 on, without subqueries in its rules"
        );
        return tour.end().await;
    }
    tour.run(SCHEMA).await;
    tour.guard(&["grants"]).await?;
    let options = tour.create_role("SELECT, UPDATE ON documents, grants").await?;
    let interlock = Interlock::connect_with(options, 4).build();
    let app = app(&interlock);

    for (title, user, path, expected) in [
        ("ada, her document", "ada", "/documents/7", StatusCode::OK),
        ("ada, another one", "ada", "/documents/8", StatusCode::NOT_FOUND),
        ("mallory", "mallory", "/documents/7", StatusCode::NOT_FOUND),
    ] {
        tour::send(&app, title, request(user, path), expected).await?;
    }
    let all = request("ada", "/documents");
    let updated = tour::send(&app, "ada, without a WHERE", all, StatusCode::OK).await?;
    assert_eq!(updated.body(), "1");

    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM grants",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, || request("ada", "/documents/7"), revocation).await?;

    interlock.drain().await;
    tour.end().await
}

fn request(user: &'static str, path: &str) -> axum::http::Result<Request<Body>> {
    Request::put(path).extension(User(user)).body(Body::from("second draft"))
}
