//! Clients that disconnect. The future of the request is dropped at any of its awaits.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::Path, http::Request, routing::put as put_route};
use futures::{StreamExt as _, stream};
use sqlx::{PgPool, pool::PoolConnection};
use support::{Kind, drop_after};
use tower::ServiceExt as _;
use tower_interlock::{Error, Interlock, InterlockBuilder, Tx};

use crate::kit::{Kit, can_edit, note, test_with_pool};

const POLLS: i64 = 12;
const ROUNDS: i64 = 250;
const AT_RANDOM_TIMES: i64 = 2000;

type Committed = Arc<Mutex<BTreeSet<i64>>>;

/// Writes two rows, and records that in a hook.
fn app(interlock: &Interlock, hooks: &Committed) -> Router {
    let hooks = Arc::clone(hooks);
    let write_two = move |Path((_, id)): Path<(i64, i64)>, mut tx: Tx| {
        let hooks = Arc::clone(&hooks);
        async move {
            note(&mut tx, 2 * id).await?;
            note(&mut tx, 2 * id + 1).await?;
            tx.after_commit(async move {
                assert!(hooks.lock().unwrap().insert(id), "a hook ran twice");
            });
            Ok::<_, Error>(())
        }
    };
    Router::new().route(
        "/{document}/{id}",
        put_route(write_two).route_layer(interlock.require(may_edit)),
    )
}

async fn may_edit(Path((document, _)): Path<(i64, i64)>, tx: Tx) -> Result<(), Error> {
    can_edit(Path(document), tx).await.map(drop)
}

fn request(id: i64) -> Request<Body> {
    Request::put(format!("/1/{id}"))
        .body(Body::from("body"))
        .unwrap()
}

#[test]
fn dropped_request_is_atomic_and_leaves_pool_clean() {
    drop_requests(|builder| builder);
}

#[test]
fn dropped_request_with_handoff_is_atomic_and_leaves_pool_clean() {
    drop_requests(|builder| builder.handoff(true));
}

fn drop_requests(set_up: fn(InterlockBuilder) -> InterlockBuilder) {
    test_with_pool(2, async |kit: Kit| {
        let hooks = Committed::default();
        let interlock = set_up(kit.builder()).build();
        let app = app(&interlock, &hooks);

        let finished = stream::iter(0..POLLS * ROUNDS)
            .map(|id| drop_after(id % POLLS, app.clone().oneshot(request(id))))
            .buffer_unordered(3)
            .filter_map(async |response| response.map(|response| response.unwrap().status()))
            .collect::<Vec<_>>()
            .await;
        let first = POLLS * ROUNDS;
        let mut next = first;
        let mut longest = Duration::from_millis(6);
        let in_time = loop {
            let in_time = stream::iter(next..next + AT_RANDOM_TIMES)
                .map(|id| {
                    let patience = longest.mul_f64(fastrand::f64());
                    tokio::time::timeout(patience, app.clone().oneshot(request(id)))
                })
                .buffer_unordered(6)
                .filter_map(async |response| {
                    response.ok().map(|response| response.unwrap().status())
                })
                .collect::<Vec<_>>()
                .await;
            // On a busy machine the request may be slower.
            if !in_time.is_empty() || longest > Duration::from_secs(1) {
                break in_time;
            }
            next += AT_RANDOM_TIMES;
            longest *= 4;
        };
        println!(
            "finished: {} of {first} dropped by polls, {} of {AT_RANDOM_TIMES} dropped by time",
            finished.len(),
            in_time.len()
        );
        assert!(
            !finished.is_empty() && finished.len() < first as usize,
            "drops missed the point"
        );
        assert!(!in_time.is_empty() && in_time.len() < AT_RANDOM_TIMES as usize);
        assert!(finished.iter().chain(&in_time).all(|status| *status == 200));

        interlock.drain().await;
        let rows: BTreeSet<i64> = kit.notes().await.into_iter().collect();
        let committed = hooks.lock().unwrap().clone();
        let expected = committed
            .iter()
            .flat_map(|id| [2 * id, 2 * id + 1])
            .collect();
        assert_eq!(
            rows, expected,
            "a half write, or a hook without COMMIT, or the reverse"
        );
        assert!(committed.len() >= finished.len() + in_time.len());
        assert_no_open_transaction(&kit).await;
    });
}

/// With sqlx alone the connection returns to the pool while its BEGIN is running.
#[test]
fn naive_dropped_request_poisons_pool() {
    test_with_pool(2, async |kit: Kit| {
        let pool = kit.database.pool(1).await;
        let mut poisoned = 0;
        for id in 0..500 {
            drop_after(id % 10, async {
                let mut tx = pool.begin().await.unwrap();
                sqlx::query("INSERT INTO notes VALUES ($1, '')")
                    .bind(id)
                    .execute(&mut *tx)
                    .await
                    .unwrap();
                tx.rollback().await.unwrap();
            })
            .await;
            poisoned += i32::from(is_poisoned(&pool).await);
        }
        println!("{poisoned} of 500 dropped futures left a pooled connection inside a transaction");
        assert!(
            poisoned > 0,
            "sqlx has fixed it: say so in the docs of Detached"
        );
    });
}

/// Whether the next connection of the pool has an open transaction. Ends that transaction.
async fn is_poisoned(pool: &PgPool) -> bool {
    let mut connection: PoolConnection<_> = pool.acquire().await.unwrap();
    let inside = sqlx::query("SAVEPOINT probe")
        .execute(&mut *connection)
        .await
        .is_ok();
    if inside {
        sqlx::query("ROLLBACK")
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    inside
}

async fn assert_no_open_transaction(kit: &Kit) {
    if kit.database.kind() == Kind::PostgreSql {
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
        )
        .fetch_one(&kit.outside)
        .await
        .unwrap();
        assert_eq!(open, 0, "a backend is idle in transaction");
    }
}
