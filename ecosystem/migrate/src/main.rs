//! Migrations by `sqlx::migrate!`, and statements that `query!` has checked against their schema.
//!
//! The macros of sqlx take a `Tx` as they take a connection. They ask a database when they are
//! compiled, or the answers in `.sqlx`, which are committed, so that this builds without one. After
//! a change of a statement `./prepare` makes them anew.
//!
//! Run it with `cargo run -p with-migrate` in `ecosystem/`.

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::put,
};
use tour::{Kind, Revocation, Tour};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

async fn can_edit(
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let allowed = sqlx::query_scalar!(
        "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)",
        user,
        document,
    )
    .fetch_one(&mut tx)
    .await?;
    // The macro does not know that EXISTS is never NULL. An `Option` that is `None` is denied.
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<String, Error> {
    let updated = sqlx::query!(
        "UPDATE documents SET body = $2, version = version + 1 WHERE id = $1
         RETURNING body, version",
        can.document,
        body,
    )
    .fetch_one(&mut tx)
    .await?;
    Ok(format!("{} in version {}", updated.body, updated.version))
}

fn app(interlock: &Interlock) -> Router {
    let can_edit = interlock.require(can_edit);
    Router::new().route("/documents/{id}", put(update).route_layer(can_edit))
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("migrate", "", &[]).await?;
    let pool = Interlock::pool_options().max_connections(4);
    let pool = pool.connect_with(tour.options()).await?;
    let mut migrations = sqlx::migrate!();
    // CockroachDB has no advisory locks.
    migrations.set_locking(tour.kind() == Kind::PostgreSql);
    migrations.run(&pool).await?;
    tour.guard(&["grants"]).await?;
    tour.change("INSERT INTO documents VALUES (7, 'first draft')").await?;
    tour.change("INSERT INTO grants VALUES ('ada', 7)").await?;
    let interlock = Interlock::new(pool.clone());
    let app = app(&interlock);

    let by = |user| {
        let request = Request::put("/documents/7").extension(User(user));
        request.body(Body::from("second draft"))
    };
    let updated = tour::send(&app, "ada, with a grant", by("ada"), StatusCode::OK).await?;
    assert_eq!(updated.body(), "second draft in version 2");
    tour::send(&app, "mallory, without", by("mallory"), StatusCode::FORBIDDEN).await?;

    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              UPDATE documents SET version = 1",
        revoke: "DELETE FROM grants",
        effect: "SELECT version FROM documents",
    };
    tour.race(&app, move || by("ada"), revocation).await?;

    interlock.drain().await;
    pool.close().await;
    tour.end().await
}
