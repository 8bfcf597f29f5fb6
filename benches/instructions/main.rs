//! Counts the instructions of a request in the process of the application, with callgrind.
//!
//! `cargo bench --bench instructions` runs this program under `valgrind` for each way, twice, with
//! different numbers of requests. The difference is that of the requests alone. It depends less on
//! other load than a time does, but on how many reads the replies of the server arrive in. With
//! `-- --profile WAY` it keeps callgrind's profile of one way.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a bench may panic, and compares with transactions by hand"
)]
#![allow(dead_code, reason = "the modules of the other bench have more")]

#[path = "../throughput/scenario.rs"]
mod scenario;
#[path = "../throughput/tables.rs"]
mod tables;
#[path = "../throughput/ways/mod.rs"]
mod ways;

use std::{
    env,
    process::{Command, Output},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
    routing::put,
};
use sqlx::postgres::PgConnectOptions;
use support::Database;
use tokio::runtime::Builder;
use tower::ServiceExt as _;

use crate::{
    scenario::{DOCUMENTS, GRANTEE},
    tables::Tables,
    ways::{User, Way},
};

/// What is counted: a router without a database, and ways to write with one.
const WAYS: [(&str, Option<Way>); 7] = [
    ("bare router", None),
    ("transaction by hand", Some(Way::ByHand)),
    ("layer", Some(Way::Layer)),
    ("layer, handoff", Some(Way::LayerHandoff)),
    ("layer, receipts", Some(Way::Receipts)),
    ("conditional write", Some(Way::Conditional)),
    ("conditional write, handoff", Some(Way::ConditionalHandoff)),
];

const FEW: u64 = 100;
const MANY: u64 = 500;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--run", way, requests] => run(find(way), requests.parse().unwrap()),
        ["--profile", way] => {
            let way = way.to_owned();
            with_tables(move |url| {
                callgrind(url, &way, MANY, Some("callgrind.out"));
            });
        }
        ["--test" | "--smoke"] => with_tables(|_| {
            for (_, way) in WAYS {
                run(way, 3);
            }
        }),
        [] => with_tables(print_table),
        _ => panic!("usage: cargo bench --bench instructions [-- --test | --profile WAY]"),
    }
}

fn find(name: &str) -> Option<Way> {
    let way = WAYS.iter().find(|(title, _)| *title == name);
    way.expect("a way of the table").1
}

fn print_table(url: &str) {
    println!("| | instructions | more than by hand |\n|---|---:|---:|");
    let mut by_hand = 0;
    for (title, way) in WAYS {
        let [few, many] = [FEW, MANY].map(|requests| callgrind(url, title, requests, None));
        let each = (many - few) / (MANY - FEW);
        if way == Some(Way::ByHand) {
            by_hand = each;
        }
        let more = match way {
            Some(way) if way != Way::ByHand => (each as i64 - by_hand as i64).to_string(),
            _ => "–".to_owned(),
        };
        println!("| {title} | {each} | {more} |");
    }
}

/// The instructions of a process that sends `requests`.
fn callgrind(url: &str, way: &str, requests: u64, profile: Option<&str>) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-instr=no"])
        .arg(format!(
            "--callgrind-out-file={}",
            profile.unwrap_or("/dev/null")
        ))
        .arg(env::current_exe().unwrap())
        .args(["--run", way, &requests.to_string()])
        .env("INSTRUCTIONS_URL", url)
        .output()
        .expect("valgrind, which is in the package of that name");
    collected(&output).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

fn collected(output: &Output) -> Option<u64> {
    let text = String::from_utf8_lossy(&output.stderr);
    let (_, counted) = text.split_once("Collected : ")?;
    counted.split_whitespace().next()?.parse().ok()
}

/// Calls `body` with the URL of a database that has the tables.
fn with_tables(body: impl FnOnce(&str) + Send + 'static) {
    support::test(async move |database: Database| {
        let [(name, schema)] = Tables::of(&database).await.create("instructions").await;
        let url = database.url();
        let separator = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{separator}options=-c%20{name}%3D{schema}");
        // The children read it; `--test` has no children.
        tokio::task::block_in_place(|| {
            URL.set(url.clone()).unwrap();
            body(&url);
        });
    });
}

static URL: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Sends requests, one after the other, on one connection.
fn run(way: Option<Way>, requests: u64) {
    let url = URL.get().cloned();
    let url = url.unwrap_or_else(|| env::var("INSTRUCTIONS_URL").unwrap());
    let sending = move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let options: PgConnectOptions = url.parse().unwrap();
            let router = match way {
                Some(way) => way.router(way.pool(1, options)),
                None => Router::new().route("/documents/{id}", put(async |_: String| {})),
            };
            for number in 0..requests {
                send(&router, number).await;
            }
        });
    };
    std::thread::spawn(sending).join().unwrap();
}

async fn send(router: &Router, number: u64) {
    let document = number as i64 % DOCUMENTS + 1;
    let mut request = Request::put(format!("/documents/{document}"))
        .header("idempotency-key", number.to_string())
        .body(Body::from("the new body of the document"))
        .unwrap();
    request.extensions_mut().insert(User(GRANTEE));
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    to_bytes(response.into_body(), usize::MAX).await.unwrap();
}
