//! Two services with the same tables: a good one, and one with a route for each fault.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::{FromRequestParts, State},
    routing::{get, post, put},
};
use http::{StatusCode, header, request::Parts};
use sqlx::{Executor as _, PgPool};
use tower_interlock::{Authorized, Condition, ConditionalWrite, Denied, Error, Interlock, Tx};

/// The user, as the header says.
#[derive(Clone)]
pub(crate) struct User(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let name = parts.headers.get(header::AUTHORIZATION);
        let name = name.and_then(|name| name.to_str().ok());
        let name = name.ok_or_else(|| Error::unauthenticated("Bearer"))?;
        Ok(Self(name.to_owned()))
    }
}

const CHECK: &str = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1)";
const WRITE: &str = "UPDATE documents SET body = 'new' WHERE id = 1";

/// Proof that the user may edit.
#[derive(Clone)]
pub(crate) struct CanEdit;

async fn can_edit(User(user): User, mut tx: Tx) -> Result<CanEdit, Error> {
    let check = sqlx::query_scalar(CHECK).bind(user);
    let allowed: bool = check.fetch_one(&mut tx).await?;
    Denied::unless(allowed, "no grant")?;
    Ok(CanEdit)
}

async fn is_known(User(user): User, mut tx: Tx) -> Result<User, Error> {
    let known = "SELECT $1 IN ('alice', 'bob') FROM documents LIMIT 1";
    let known: bool = sqlx::query_scalar(known)
        .bind(&user)
        .fetch_one(&mut tx)
        .await?;
    Denied::unless(known, "not known").map_err(Denied::hidden)?;
    Ok(User(user))
}

async fn read(mut tx: Tx) -> Result<String, Error> {
    let body = sqlx::query_scalar("SELECT body FROM documents WHERE id = 1");
    Ok(body.fetch_one(&mut tx).await?)
}

async fn write(_: Authorized<CanEdit>, mut tx: Tx) -> Result<(), Error> {
    (&mut tx).execute(WRITE).await?;
    Ok(())
}

pub(crate) static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = 'new' WHERE id = 1 AND {conditions}",
    &[Condition::permitted(CHECK)],
);

async fn write_if_permitted(
    State(interlock): State<Interlock>,
    User(user): User,
) -> Result<(), Error> {
    UPDATE.bind(user).execute(&interlock).await?;
    Ok(())
}

/// The operations of the good service.
pub(crate) const GOOD: [(&str, &str); 4] = [
    ("GET", "/health"),
    ("GET", "/document"),
    ("PUT", "/document"),
    ("PUT", "/conditional"),
];

/// A service without a fault.
pub(crate) fn good(interlock: &Interlock) -> Router {
    let known = interlock.require(is_known).named("known").read_only();
    let edit = interlock.require(can_edit).named("documents.edit");
    let marked = interlock.conditional(&UPDATE);
    let health = interlock.public("for the load balancer");
    Router::new()
        .route("/health", get(async || "healthy").route_layer(health))
        .route("/document", get(read).route_layer(known))
        .route("/document", put(write).route_layer(edit))
        .route("/conditional", put(write_if_permitted).route_layer(marked))
        .with_state(interlock.clone())
}

/// What the faulty handlers use.
#[derive(Clone)]
pub(crate) struct Bad {
    interlock: Interlock,
    pool: PgPool,
    /// Whether alice may edit, as it was when the service was made.
    cached: Arc<AtomicBool>,
}

/// A service with a route for each fault.
pub(crate) fn bad(interlock: &Interlock, pool: &PgPool) -> Router {
    let state = Bad {
        interlock: interlock.clone(),
        pool: pool.clone(),
        cached: Arc::new(AtomicBool::new(true)),
    };
    let edit = interlock.require(can_edit).named("documents.edit");
    let on_pool = interlock.require_with_state(state.clone(), can_edit_on_pool);
    let by_view = interlock.require(can_edit_by_view);
    let logs = interlock.require_with_state(state.clone(), can_edit_and_logs);
    let marked = interlock.conditional(&UPDATE);
    Router::new()
        .route("/unchecked", post(unchecked))
        .route("/by-hand", put(by_hand))
        .route("/read-committed", put(read_committed))
        .route("/cache", put(cached))
        .route("/no-layer", put(write))
        .route("/marked", put(unchecked).route_layer(marked))
        .route(
            "/policy-on-pool",
            put(write).route_layer(on_pool.named("on-pool")),
        )
        .route("/write-on-pool", put(unchecked).route_layer(edit))
        .route("/view", put(write).route_layer(by_view.named("by-view")))
        .route("/denial-writes", put(write).route_layer(logs.named("logs")))
        .route("/spawned", put(spawned))
        .with_state(state)
}

async fn unchecked(State(state): State<Bad>) -> Result<(), Error> {
    state.pool.execute(WRITE).await?;
    Ok(())
}

async fn spawned(State(state): State<Bad>) -> StatusCode {
    let written = tokio::spawn(async move { state.pool.execute(WRITE).await });
    match written.await {
        Ok(Ok(_)) => StatusCode::OK,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn by_hand(State(state): State<Bad>, User(user): User) -> Result<(), Error> {
    let check = sqlx::query_scalar(CHECK).bind(user);
    let allowed: bool = check.fetch_one(&state.pool).await?;
    Denied::unless(allowed, "no grant")?;
    state.pool.execute(WRITE).await?;
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "it is a fault to be found")]
async fn read_committed(State(state): State<Bad>, User(user): User) -> Result<(), Error> {
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
    let mut transaction = state.pool.begin_with(begin).await?;
    let check = sqlx::query_scalar(CHECK).bind(user);
    let allowed: bool = check.fetch_one(&mut *transaction).await?;
    Denied::unless(allowed, "no grant")?;
    transaction.execute(WRITE).await?;
    transaction.commit().await?;
    Ok(())
}

async fn cached(State(state): State<Bad>) -> Result<(), Error> {
    Denied::unless(state.cached.load(Ordering::SeqCst), "no grant")?;
    state.pool.execute(WRITE).await?;
    Ok(())
}

async fn can_edit_on_pool(State(state): State<Bad>, User(user): User) -> Result<CanEdit, Error> {
    let check = sqlx::query_scalar(CHECK).bind(user);
    let allowed: bool = check.fetch_one(&state.pool).await?;
    Denied::unless(allowed, "no grant")?;
    Ok(CanEdit)
}

/// Reads a table as well, or the layer would reject it.
async fn can_edit_by_view(User(user): User, mut tx: Tx) -> Result<CanEdit, Error> {
    let check = "SELECT EXISTS (SELECT 1 FROM permissions, documents WHERE user_name = $1)";
    let check = sqlx::query_scalar(check).bind(user);
    let allowed: bool = check.fetch_one(&mut tx).await?;
    Denied::unless(allowed, "no grant")?;
    Ok(CanEdit)
}

async fn can_edit_and_logs(State(state): State<Bad>, user: User, tx: Tx) -> Result<CanEdit, Error> {
    let log = "INSERT INTO log VALUES ('asked')";
    sqlx::query(log).execute(&state.pool).await?;
    can_edit(user, tx).await
}

impl Bad {
    /// For the conditional write, which no route of the bad service runs.
    #[allow(dead_code, reason = "the mark of the route names it")]
    async fn update(&self, user: String) -> Result<u64, Error> {
        UPDATE.bind(user).execute(&self.interlock).await
    }
}
