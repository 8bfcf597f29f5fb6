//! The memory that requests take while they wait, and keep when they are finished.
//!
//! This is a binary of its own because the allocator counts for all threads of the process.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{
    alloc::System,
    convert::Infallible,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::Request,
    routing::put,
};
use futures::{FutureExt as _, stream};
use sqlx::PgPool;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::{
    Database,
    traffic::{self, Hooks},
};
use tokio::time::sleep;
use tower::ServiceExt as _;
use tower_interlock::{Error, Interlock, Tx};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KIB: isize = 1024;

/// The number of bytes that are allocated now.
fn allocated() -> isize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated) as isize
}

/// Lets one test run at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn anyone() -> Result<(), Error> {
    Ok(())
}

/// The memory of each of many requests that wait for their bodies.
fn bytes_per_waiting_request(app: &Router) -> isize {
    const REQUESTS: usize = 10_000;
    let mut waiting = Vec::with_capacity(REQUESTS);
    let before = allocated();
    for _ in 0..REQUESTS {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        let request = Request::put("/").body(body).unwrap();
        let mut response = Box::pin(app.clone().oneshot(request));
        assert!((&mut response).now_or_never().is_none());
        waiting.push(response);
    }
    (allocated() - before) / REQUESTS as isize
}

#[test]
fn requests_waiting_for_bodies_take_little_memory_and_no_connection() {
    const MOST: isize = 4 * KIB;
    let _alone = alone();
    support::test(async |database| {
        let pool = Interlock::pool_options().connect_lazy_with(database.options());
        let handler = put(async |body: Bytes| body);
        let bare = Router::new().route("/", handler.clone());
        let layer = Interlock::new(pool.clone()).require(anyone);
        let guarded = Router::new().route("/", handler.route_layer(layer));

        let bare = bytes_per_waiting_request(&bare);
        let guarded = bytes_per_waiting_request(&guarded);
        println!("{bare} bytes for each request in the bare router, {guarded} behind the layer");
        assert_eq!(pool.size(), 0);
        assert!(guarded - bare <= MOST, "{} bytes more", guarded - bare);
    });
}

/// How much the allocated memory grows over several rounds of load. The first rounds do not count,
/// because they fill caches and buffers.
async fn growth(pool: &PgPool, round: impl AsyncFn(i64, &Interlock)) -> isize {
    const WARM_UP: i64 = 2;
    const ROUNDS: i64 = 6;
    let mut before = 0;
    for number in 0..WARM_UP + ROUNDS {
        let interlock = Interlock::new(pool.clone());
        round(number, &interlock).await;
        interlock.drain().await;
        while pool.num_idle() < pool.size() as usize {
            sleep(Duration::from_millis(1)).await;
        }
        if number < WARM_UP {
            before = allocated();
        }
        println!("round {number}: {} bytes", allocated() - before);
    }
    allocated() - before
}

fn pool(database: &Database) -> PgPool {
    let options = Interlock::pool_options().max_connections(5);
    options.connect_lazy_with(database.options())
}

#[test]
fn hostile_load_leaks_no_memory() {
    const MOST: isize = 32 * KIB;
    let _alone = alone();
    support::test(async |database| {
        database.run(traffic::SCHEMA).await;
        let pool = pool(&database);
        let hostile = growth(&pool, async |number, interlock| {
            let app = traffic::app(interlock, &Hooks::default());
            let requests = number * 500..(number + 1) * 500;
            drop(traffic::send(&app, requests).await);
        });
        let hostile = hostile.await;
        println!("{hostile} bytes more after a hostile load");

        // The measurement sees a leak. Here each of 100 requests leaks its `Tx`.
        let forgetful = growth(&pool, async |_, interlock| {
            let forget = put(async |tx: Tx| mem::forget(tx));
            let layer = interlock.require(anyone);
            let app = Router::new().route("/", forget.route_layer(layer));
            for _ in 0..100 {
                let request = Request::put("/").body(Body::empty()).unwrap();
                let response = app.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), 500);
            }
        });
        let forgetful = forgetful.await;
        println!("{forgetful} bytes more where each request forgets its Tx");
        assert!(hostile <= MOST);
        assert!(forgetful > MOST);
    });
}
