//! The cost of the layer itself, without a database: time and allocations per request.
//!
//! `cargo bench --bench overhead` compares a router with and without the layer, and then measures
//! both with criterion. With `-- --allocations` it only compares.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]

use std::{
    alloc::System,
    env,
    hint::black_box,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Request, StatusCode},
    response::Response,
    routing::put,
};
use criterion::{BenchmarkId, Criterion};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use tower_interlock::{Authorized, Error, Interlock};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    // One thread, so that only the allocations of the requests are counted.
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let shapes = runtime.block_on(async { shapes() });
    compare(&runtime, &shapes);
    if !env::args().any(|argument| argument == "--allocations") {
        let mut criterion = Criterion::default().configure_from_args();
        benchmark(&mut criterion, &runtime, &shapes);
        criterion.final_summary();
    }
}

/// A kind of request, and the routers to send it to.
struct Shape {
    name: &'static str,
    body: Bytes,
    bare: Router,
    layered: Router,
}

fn shapes() -> [Shape; 3] {
    let pool = Interlock::pool_options()
        .connect_lazy("postgres://nowhere")
        .unwrap();
    let interlock = Interlock::new(pool);
    // As axum::serve does. Without it, each request clones its route.
    let bare = || Router::new().route("/", put(bare)).with_state(());
    let layered = || Router::new().route("/", put(layered));
    let once = layered().route_layer(interlock.require(allow));
    let twice = once.clone().route_layer(interlock.require(allow_too));
    let (once, twice) = (once.with_state(()), twice.with_state(()));
    let body = Bytes::from_static(&[b'x'; 1024]);
    [
        Shape {
            name: "1 KiB",
            body: body.clone(),
            bare: bare(),
            layered: once.clone(),
        },
        Shape {
            name: "no body",
            body: Bytes::new(),
            bare: bare(),
            layered: once,
        },
        Shape {
            name: "1 KiB, two layers",
            body,
            bare: bare(),
            layered: twice,
        },
    ]
}

/// Prints the cost of a request in both routers.
fn compare(runtime: &Runtime, shapes: &[Shape]) {
    println!("per request: allocations, allocated bytes, median time including the counting\n");
    println!(
        "{:<20}{:>26}{:>26}{:>26}",
        "", "bare", "layer", "difference"
    );
    for shape in shapes {
        let apps = [&shape.bare, &shape.layered];
        let allocations = apps.map(|app| runtime.block_on(allocations(app, &shape.body)));
        let mut times = [const { Vec::new() }; 2];
        // Both in turns, so that other load on the machine affects both alike.
        for _ in 0..TURNS {
            for (app, times) in apps.iter().zip(&mut times) {
                let time = runtime.block_on(time(app, &shape.body, TURN));
                times.push(time.as_nanos() as f64 / TURN as f64);
            }
        }
        let [bare, layer] = [0, 1].map(|app| {
            let [number, bytes] = allocations[app];
            [number, bytes, median(&mut times[app])]
        });
        let difference = [0, 1, 2].map(|figure| layer[figure] - bare[figure]);
        print!("{:<20}", shape.name);
        for [number, bytes, time] in [bare, layer, difference] {
            print!("{:>26}", format!("{number:.1}  {bytes:.0}  {time:.0} ns"));
        }
        println!();
    }
}

/// Returns the number of allocations per request, and their bytes.
async fn allocations(app: &Router, body: &Bytes) -> [f64; 2] {
    // The first request allocates what later ones reuse.
    send(app, body).await;
    let region = Region::new(ALLOCATOR);
    for _ in 0..COUNTED {
        send(app, body).await;
    }
    let change = region.change();
    let number = change.allocations + change.reallocations;
    [number, change.bytes_allocated].map(|sum| sum as f64 / f64::from(COUNTED))
}

/// Measures how long this many requests take.
async fn time(app: &Router, body: &Bytes, times: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        black_box(send(app, body).await);
    }
    start.elapsed()
}

fn benchmark(criterion: &mut Criterion, runtime: &Runtime, shapes: &[Shape]) {
    let mut group = criterion.benchmark_group("overhead");
    for shape in shapes {
        for (name, app) in [("bare", &shape.bare), ("layer", &shape.layered)] {
            group.bench_function(BenchmarkId::new(name, shape.name), |bencher| {
                bencher.iter_custom(|times| runtime.block_on(time(app, &shape.body, times)));
            });
        }
    }
    group.finish();
}

async fn send(app: &Router, body: &Bytes) -> Response {
    let request = Request::put("/").body(Body::from(body.clone())).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response
}

async fn bare(body: Bytes) -> Bytes {
    body
}

async fn layered(_: Authorized<Allowed>, body: Bytes) -> Bytes {
    body
}

#[derive(Clone)]
struct Allowed;

async fn allow() -> Result<Allowed, Error> {
    Ok(Allowed)
}

#[derive(Clone)]
struct AllowedToo;

async fn allow_too() -> Result<AllowedToo, Error> {
    Ok(AllowedToo)
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

const COUNTED: u32 = 1000;

/// Requests timed together: few enough that most turns run uninterrupted.
const TURN: u64 = 50;

const TURNS: usize = 2000;
