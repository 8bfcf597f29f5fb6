//! Four ways to check a permission and write, each a service with one route.

use std::{fmt, time::Instant};

use axum::{
    Extension, Router,
    extract::{Path, State},
    routing::put,
};
use serde::Deserialize;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tower_interlock::{Authorized, Condition, ConditionalWrite, Denied, Error, Interlock, Tx};

/// How a service checks the permission to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The check and the write are two statements on the pool.
    OnThePool,
    /// The check and the write are in one READ COMMITTED transaction.
    ReadCommitted,
    /// The check is the policy of a layer, the write is the handler.
    Layer,
    /// The check and the write are one statement.
    Conditional,
}

/// One write, from the path of its request.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Write {
    pub(crate) document: i64,
    pub(crate) id: i64,
}

/// When the two statements of [`Way::OnThePool`] began and ended. It is in the extensions of the
/// response.
#[derive(Debug, Clone, Copy)]
pub struct Steps {
    /// When the check was sent.
    pub check_sent: Instant,
    /// When the result of the check was received.
    pub check_done: Instant,
    /// When the write was sent.
    pub write_sent: Instant,
    /// When the result of the write was received.
    pub write_done: Instant,
}

/// There is one user. A row in `grants` is the permission to write to a document.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE grants (document INT8 PRIMARY KEY);
    CREATE TABLE writes (document INT8 NOT NULL, id INT8 NOT NULL, PRIMARY KEY (document, id));
";

/// On PostgreSQL, lets only SERIALIZABLE transactions change grants.
pub(crate) const GUARD: &str = "
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
        ON grants FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
";

const CHECK: &str = "SELECT EXISTS (SELECT 1 FROM grants WHERE document = $1)";
const WRITE: &str = "INSERT INTO writes (document, id) VALUES ($1, $2)";

impl Way {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::OnThePool,
        Self::ReadCommitted,
        Self::Layer,
        Self::Conditional,
    ];

    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Layer | Self::Conditional)
    }

    /// Returns the recommended options for this crate, and sqlx's defaults for the naive ways.
    pub(crate) fn pool_options(self) -> PgPoolOptions {
        if self.is_ours() {
            Interlock::pool_options()
        } else {
            PgPoolOptions::new()
        }
    }

    /// Returns the service, with the route `PUT /{document}/{id}`.
    pub(crate) fn service(self, pool: PgPool) -> Router {
        const PATH: &str = "/{document}/{id}";
        match self {
            Self::OnThePool => Router::new().route(PATH, put(on_the_pool)).with_state(pool),
            Self::ReadCommitted => Router::new()
                .route(PATH, put(read_committed))
                .with_state(pool),
            Self::Layer => {
                let layer = Interlock::new(pool).require(may_write);
                Router::new().route(PATH, put(write).route_layer(layer))
            }
            Self::Conditional => Router::new()
                .route(PATH, put(conditional))
                .with_state(Interlock::new(pool)),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OnThePool => "check, then write, on the pool",
            Self::ReadCommitted => "READ COMMITTED transaction",
            Self::Layer => "layer",
            Self::Conditional => "conditional write",
        })
    }
}

/// Acquires a connection for each statement, as `&pool` does, to see when the statement is sent.
#[allow(clippy::disallowed_methods, reason = "this is the naive way")]
async fn on_the_pool(
    State(pool): State<PgPool>,
    Path(write): Path<Write>,
) -> Result<Extension<Steps>, Error> {
    let mut connection = pool.acquire().await?;
    let check_sent = Instant::now();
    let allowed: bool = sqlx::query_scalar(CHECK)
        .bind(write.document)
        .fetch_one(&mut *connection)
        .await?;
    let check_done = Instant::now();
    drop(connection);
    Denied::unless(allowed, "no grant")?;

    let mut connection = pool.acquire().await?;
    let write_sent = Instant::now();
    sqlx::query(WRITE)
        .bind(write.document)
        .bind(write.id)
        .execute(&mut *connection)
        .await?;
    Ok(Extension(Steps {
        check_sent,
        check_done,
        write_sent,
        write_done: Instant::now(),
    }))
}

#[allow(clippy::disallowed_methods, reason = "this is the naive way")]
async fn read_committed(State(pool): State<PgPool>, Path(write): Path<Write>) -> Result<(), Error> {
    let mut transaction = pool
        .begin_with("BEGIN ISOLATION LEVEL READ COMMITTED")
        .await?;
    let allowed: bool = sqlx::query_scalar(CHECK)
        .bind(write.document)
        .fetch_one(&mut *transaction)
        .await?;
    Denied::unless(allowed, "no grant")?;
    sqlx::query(WRITE)
        .bind(write.document)
        .bind(write.id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// The policy of the layer.
async fn may_write(Path(write): Path<Write>, mut tx: Tx) -> Result<Write, Error> {
    let allowed: bool = sqlx::query_scalar(CHECK)
        .bind(write.document)
        .fetch_one(&mut tx)
        .await?;
    Denied::unless(allowed, "no grant")?;
    Ok(write)
}

/// The handler behind the layer.
async fn write(write: Authorized<Write>, mut tx: Tx) -> Result<(), Error> {
    sqlx::query(WRITE)
        .bind(write.document)
        .bind(write.id)
        .execute(&mut tx)
        .await?;
    Ok(())
}

static CONDITIONAL: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO writes (document, id) SELECT $1, $2 WHERE {conditions}",
    &[Condition::permitted(CHECK)],
);

async fn conditional(
    State(interlock): State<Interlock>,
    Path(write): Path<Write>,
) -> Result<(), Error> {
    let written = CONDITIONAL.bind(write.document).bind(write.id);
    written.execute(&interlock).await?;
    Ok(())
}
