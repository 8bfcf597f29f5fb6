//! What a recorder costs: the time of a request with and without one.
//!
//! `cargo run --release -p tower-interlock-audit --example cost`

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a tool of developers fails by panicking"
)]

use std::time::{Duration, Instant};

use axum::{Router, body::Body, extract::Request, routing::put};
use sqlx::Executor as _;
use support::Database;
use tower::ServiceExt as _;
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};
use tower_interlock_audit::Recorder;

const REQUESTS: usize = 4_000;

fn main() {
    support::test(async |database: Database| {
        database
            .run(
                "CREATE TABLE grants (user_name TEXT PRIMARY KEY);
                 CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
                 INSERT INTO grants VALUES ('alice');
                 INSERT INTO documents VALUES (1, 'old')",
            )
            .await;
        let pool = Interlock::pool_options().connect_lazy_with(database.options());

        // The first recorder installs the subscriber, so the other one comes first.
        let without = app(&Interlock::new(pool.clone()));
        let first = measure(&without).await;
        let recorder = Recorder::new();
        let interlock = Interlock::builder(pool).observe(recorder.clone()).build();
        let with = measure(&app(&interlock).layer(recorder.layer())).await;
        let began = Instant::now();
        let exchanges = recorder.trace().exchanges.len();
        let reading = began.elapsed();

        println!("{REQUESTS} requests, one at a time: a check and a write in the layer");
        println!("without a recorder: median {first:?}");
        println!("with a recorder:    median {with:?}");
        println!("the trace of {exchanges} requests: {reading:?}");
    });
}

/// The median time of a request.
async fn measure(app: &Router) -> Duration {
    let mut times = Vec::with_capacity(REQUESTS);
    for round in 0..REQUESTS + 200 {
        let request = Request::put("/").body(Body::empty()).unwrap();
        let began = Instant::now();
        let response = app.clone().oneshot(request).await.unwrap();
        // The first ones look at what the policy reads, and fill the pool.
        if round >= 200 {
            times.push(began.elapsed());
        }
        assert!(response.status().is_success());
    }
    times.sort_unstable();
    times.get(REQUESTS / 2).copied().unwrap()
}

#[derive(Clone)]
struct CanEdit;

fn app(interlock: &Interlock) -> Router {
    let edit = interlock.require(can_edit).named("documents.edit");
    Router::new().route("/", put(write).route_layer(edit))
}

async fn can_edit(mut tx: Tx) -> Result<CanEdit, Error> {
    let check = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1)";
    let check = sqlx::query_scalar(check).bind("alice");
    let allowed: bool = check.fetch_one(&mut tx).await?;
    Denied::unless(allowed, "no grant")?;
    Ok(CanEdit)
}

async fn write(_: Authorized<CanEdit>, mut tx: Tx) -> Result<(), Error> {
    (&mut tx)
        .execute("UPDATE documents SET body = 'new' WHERE id = 1")
        .await?;
    Ok(())
}
