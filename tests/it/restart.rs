//! The database server is restarted under load, during COMMIT, and while no request is running. A
//! hand-written transaction is compared with the layer and with conditional writes.

mod during_commit;
mod under_load;
mod ways;
mod while_idle;

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use support::{Server, Shutdown};
use tokio::{runtime, task::spawn_blocking};
use tower_interlock::{Error, ErrorKind, Interlock};

use crate::kit::{Kit, TestResponse, send};

/// Runs a test on a server of its own, which can be restarted, with the recommended pool.
fn test(body: impl AsyncFnOnce(&Arc<Server>, &Kit)) {
    let server = Arc::new(Server::start().unwrap());
    match server.restart(Shutdown::Fast) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            return println!("skipped: cannot restart {server}");
        }
        restarted => restarted.unwrap(),
    }
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let database = server.create_database("restart").await.unwrap();
        database.run(ways::SCHEMA).await;
        let outside = database.pool(4).await;
        let pool = Interlock::pool_options().connect_lazy_with(database.options());
        let interlock = Interlock::new(pool.clone());
        let kit = Kit {
            database,
            outside,
            pool,
            interlock,
        };
        body(&server, &kit).await;
        kit.interlock.drain().await;
        kit.assert_nothing_leaked().await;
        assert_eq!(sessions(&kit, "state LIKE 'idle in transaction%'").await, 0);
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn restart(server: &Arc<Server>, shutdown: Shutdown) {
    let server = Arc::clone(server);
    let restarted = spawn_blocking(move || server.restart(shutdown)).await;
    restarted.unwrap().unwrap();
}

async fn put(app: &Router, user: i64, request: i64) -> TestResponse {
    let path = format!("/{user}/{request}");
    send(app, Request::put(path).body(Body::empty()).unwrap()).await
}

/// The statement of a response about the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Stored,
    Denied,
    Unknown,
    /// Not stored, because the database was unavailable.
    Unavailable,
    /// An error that does not say whether it is stored.
    Error,
}

impl Said {
    fn by(response: &TestResponse) -> Self {
        let error = response.error();
        match (response.status.as_u16(), error.map(Error::kind)) {
            (200, None) => Self::Stored,
            (403, None | Some(ErrorKind::Denied)) => Self::Denied,
            (500, Some(ErrorKind::OutcomeUnknown)) => Self::Unknown,
            (503, Some(ErrorKind::Unavailable)) => Self::Unavailable,
            (500, None) => Self::Error,
            (status, _) => panic!("{status}: {error:?}"),
        }
    }
}

/// How often each request is stored. Fails if half of a request is stored.
async fn stored(kit: &Kit) -> BTreeMap<i64, i64> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT request, count(CASE half WHEN 0 THEN 1 END), count(CASE half WHEN 1 THEN 1 END)
         FROM halves GROUP BY request",
    )
    .fetch_all(&kit.outside)
    .await
    .unwrap();
    let whole = rows.into_iter().map(|(request, first, second)| {
        assert_eq!(first, second, "half of request {request} is stored");
        (request, first)
    });
    whole.collect()
}

/// The number of sessions of this database that match `which`.
async fn sessions(kit: &Kit, which: &'static str) -> i64 {
    let mut count = sqlx::QueryBuilder::new(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND ",
    );
    count.push(which);
    let count = count.build_query_scalar().fetch_one(&kit.outside);
    count.await.unwrap()
}
