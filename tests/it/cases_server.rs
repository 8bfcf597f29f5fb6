//! The server as users meet it: silence, stale sessions, state that a request leaves, errors
//! without a request, and reads that PostgreSQL does not track.

mod predicate_locks;
mod session;
mod silence;
mod wire;

use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use support::{Kind, Proxy};
use tower_interlock::{Condition, ConditionalWrite, Error, Interlock, Tx};

use crate::kit::{self, Kit};

/// The slowest of these tests waits for so long.
const LONG: Duration = Duration::from_secs(10);

static WRITE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET version = version + 1 WHERE id = $1 AND {conditions} RETURNING version",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = 1 AND document_id = $1)",
    )],
);

/// Makes the conditional write on document 1.
async fn write(interlock: &Interlock) -> Result<i64, Error> {
    let (version,) = WRITE.bind(1_i64).fetch_one(interlock).await?;
    Ok(version)
}

/// Writes document 1.
async fn update(mut tx: Tx) -> Result<(), Error> {
    sqlx::query("UPDATE documents SET body = 'new' WHERE id = 1")
        .execute(&mut tx)
        .await?;
    Ok(())
}

/// A recommended pool of `size` connections through a proxy.
fn behind_a_proxy(kit: &Kit, size: u32) -> (Kit, Proxy) {
    let proxy = Proxy::start(&kit.database);
    let pool = Interlock::pool_options()
        .max_connections(size)
        .connect_lazy_with(proxy.options());
    (with_pool(kit, pool), proxy)
}

/// A recommended pool through a proxy, on which the server passes for CockroachDB.
async fn behind_a_proxy_as_cockroach(kit: &Kit, size: u32) -> (Kit, Proxy) {
    if kit.database.kind() == Kind::CockroachDb {
        return behind_a_proxy(kit, size);
    }
    kit.database
        .run(
            "CREATE SCHEMA posing;
             CREATE FUNCTION posing.version() RETURNS TEXT LANGUAGE sql AS 'SELECT ''CockroachDB CCL v24.1.0'''",
        )
        .await;
    let proxy = Proxy::start(&kit.database);
    let pool = Interlock::pool_options()
        .max_connections(size)
        .after_connect(|connection, _| {
            Box::pin(async {
                connection
                    .execute("SET search_path = posing, pg_catalog, public")
                    .await?;
                connection
                    .execute("SET default_transaction_isolation = 'serializable'")
                    .await?;
                Ok(())
            })
        })
        .connect_lazy_with(proxy.options());
    (with_pool(kit, pool), proxy)
}

fn with_pool(kit: &Kit, pool: PgPool) -> Kit {
    Kit {
        interlock: Interlock::new(pool.clone()),
        pool,
        ..kit.clone()
    }
}

/// Opens every connection of the pool.
async fn fill(pool: &PgPool) {
    let mut all = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        all.push(pool.acquire().await.unwrap());
    }
    drop(all);
    idle(pool).await;
}

/// Waits until every connection is back in the pool.
async fn idle(pool: &PgPool) {
    while pool.num_idle() < pool.size() as usize {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sets a default for the sessions of this database that are opened from now on.
async fn set_default(kit: &Kit, setting: &str) {
    let name = kit.database.name();
    let alter = format!("ALTER DATABASE \"{name}\" SET {setting}");
    // The default may be that transactions are read-only.
    let mut outside = kit.outside.begin_with("BEGIN READ WRITE").await.unwrap();
    outside.execute(AssertSqlSafe(alter)).await.unwrap();
    outside.commit().await.unwrap();
}

/// Whether this is a PostgreSQL of `version`, such as 14, or newer.
async fn is_postgres(kit: &Kit, version: u32) -> bool {
    if kit.database.kind() != Kind::PostgreSql {
        return false;
    }
    let number: String = sqlx::query_scalar("SHOW server_version_num")
        .fetch_one(&kit.outside)
        .await
        .unwrap();
    number.parse::<u32>().unwrap() / 10_000 >= version
}

/// An app whose policy grants everything, with [`update`] behind it.
fn updating(interlock: &Interlock) -> axum::Router {
    kit::guarded(interlock.require(kit::anyone), update)
}
