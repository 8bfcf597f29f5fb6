//! A handler that takes its `Tx` after the body.

use axum::{Router, routing::put};
use tower_interlock::Tx;

async fn handler(_: String, _: Tx) {}

fn main() {
    Router::<()>::new().route("/", put(handler));
}
