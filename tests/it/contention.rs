//! With the default settings, conflicting requests succeed.

use std::sync::Arc;

use axum::{Router, extract::Path, http::StatusCode, routing::put as put_route};
use futures::future::join_all;
use sqlx::PgExecutor;
use support::Kind;
use tokio::sync::Notify;
use tower_interlock::{Error, Interlock, Tx};

use crate::kit::{Kit, anyone, can_edit, put, test, test_with_pool};

const CLIENTS: i64 = 16;
const ROUNDS: i64 = 50;

/// Sends contended requests. Returns the bodies of their responses.
async fn hammer(app: &Router, path: impl Fn(i64) -> String) -> Vec<String> {
    let (attempts, bodies): (Vec<_>, Vec<_>) = send_all(app, path).await.into_iter().unzip();
    let worst = attempts.into_iter().max().unwrap();
    println!("at most {worst} attempts");
    assert!(worst > 1, "nothing was contended");
    bodies
}

/// Each client sends requests in sequence. Every response must be a 200. Returns their attempts and
/// bodies.
async fn send_all(app: &Router, path: impl Fn(i64) -> String) -> Vec<(u32, String)> {
    let clients = (0..CLIENTS).map(|client| {
        let path = path(client);
        async move {
            let mut responses = Vec::new();
            for _ in 0..ROUNDS {
                let response = put(app, &path, "").await;
                assert_eq!(response.status, StatusCode::OK, "{}", response.body);
                responses.push((response.report().attempts(), response.body));
            }
            responses
        }
    });
    join_all(clients).await.into_iter().flatten().collect()
}

#[test]
fn hot_row_counter_is_exact() {
    test_with_pool(10, async |kit: Kit| {
        let handler = async |Path(id): Path<i64>, mut tx: Tx| {
            increment(&mut tx, id).await.map_err(Error::from)
        };
        let app = Router::new().route(
            "/{id}",
            put_route(handler).route_layer(kit.interlock.require(can_edit)),
        );
        hammer(&app, |_| "/1".to_owned()).await;
        let version: i64 = sqlx::query_scalar("SELECT version FROM documents WHERE id = 1")
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        assert_eq!(version, CLIENTS * ROUNDS);
    });
}

/// Each request reads the sum of all rows and writes its own row. In a serial order they read every
/// sum exactly once. With write skew, two of them read the same sum.
#[test]
fn write_skew_is_never_stored() {
    test_with_pool(10, async |kit: Kit| {
        sqlx::query(
            "INSERT INTO documents SELECT id, '', 0 FROM generate_series(100, 115) AS series (id)",
        )
        .execute(&kit.outside)
        .await
        .unwrap();
        let handler = async |Path(id): Path<i64>, mut tx: Tx| {
            let seen = sum(&mut tx).await?;
            increment(&mut tx, id).await?;
            Ok::<_, Error>(seen.to_string())
        };
        let app = Router::new().route(
            "/{id}",
            put_route(handler).route_layer(kit.interlock.require(anyone)),
        );
        let bodies = hammer(&app, |client| format!("/{}", client + 100)).await;
        let mut seen: Vec<i64> = bodies.iter().map(|body| body.parse().unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..CLIENTS * ROUNDS).collect::<Vec<_>>());
    });
}

/// PostgreSQL locks the whole table for a sequential scan, and plans one for a table of one page.
#[test]
fn requests_on_rows_of_their_own_are_not_retried_if_an_index_finds_the_rows() {
    test(async |kit: Kit| {
        if kit.database.kind() != Kind::PostgreSql {
            return;
        }
        let rows =
            "INSERT INTO documents SELECT id, '', 0 FROM generate_series(100, 115) AS series (id)";
        sqlx::query(rows).execute(&kit.outside).await.unwrap();
        sqlx::query("ANALYZE documents")
            .execute(&kit.outside)
            .await
            .unwrap();
        let scanned = retried_on_rows_of_their_own(&kit, "on").await;
        let found = retried_on_rows_of_their_own(&kit, "off").await;
        let requests = CLIENTS * ROUNDS;
        println!(
            "of {requests} requests, {scanned} were retried with sequential scans, {found} without"
        );
        // A busy machine has other reasons for a retry, now and then.
        assert!(found * 4 < scanned);
    });
}

async fn retried_on_rows_of_their_own(kit: &Kit, sequential_scans: &str) -> usize {
    let options = kit.database.options();
    let options = options.options([("enable_seqscan", sequential_scans)]);
    let pool = Interlock::pool_options().max_connections(10);
    let interlock = Interlock::new(pool.connect_lazy_with(options));
    let handler =
        async |Path(id): Path<i64>, mut tx: Tx| increment(&mut tx, id).await.map_err(Error::from);
    let layer = interlock.require(anyone);
    let app = Router::new().route("/{id}", put_route(handler).route_layer(layer));
    let sent = send_all(&app, |client| format!("/{}", client + 100)).await;
    interlock.drain().await;
    sent.iter().filter(|(attempts, _)| *attempts > 1).count()
}

#[test]
fn conflict_found_at_commit_is_retried() {
    test(async |kit: Kit| {
        let steps = [(); 4].map(|()| Arc::new(Notify::new()));
        let handler = {
            let [read, write, written, go_on] = steps.clone();
            move |mut tx: Tx| async move {
                let seen = sum(&mut tx).await.expect("the statements see no conflict");
                if tx.attempt() == 1 {
                    read.notify_one();
                    write.notified().await;
                }
                increment(&mut tx, 1)
                    .await
                    .expect("the statements see no conflict");
                if tx.attempt() == 1 {
                    written.notify_one();
                    go_on.notified().await;
                }
                seen.to_string()
            }
        };
        let app = Router::new().route(
            "/",
            put_route(handler).route_layer(kit.interlock.require(anyone)),
        );
        let request = tokio::spawn(async move { put(&app, "/", "").await });

        // Both read before one writes. On CockroachDB a reader waits for a writer.
        let [read, write, written, go_on] = steps;
        read.notified().await;
        let mut other = kit
            .outside
            .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
            .await
            .unwrap();
        assert_eq!(sum(&mut *other).await.unwrap(), 0);
        write.notify_one();
        written.notified().await;
        increment(&mut *other, 2).await.unwrap();
        other.commit().await.unwrap();
        go_on.notify_one();

        let response = request.await.unwrap();
        assert_eq!(
            (response.status, response.report().attempts()),
            (StatusCode::OK, 2)
        );
        assert_eq!(
            response.body, "1",
            "the response is of an attempt that was rolled back"
        );
    });
}

async fn sum<'c>(executor: impl PgExecutor<'c>) -> Result<i64, sqlx::Error> {
    let sum = sqlx::query_scalar("SELECT sum(version)::INT8 FROM documents");
    sum.fetch_one(executor).await
}

async fn increment<'c>(executor: impl PgExecutor<'c>, id: i64) -> Result<(), sqlx::Error> {
    let increment = sqlx::query("UPDATE documents SET version = version + 1 WHERE id = $1");
    increment.bind(id).execute(executor).await.map(drop)
}
