//! The same handler with the macro that axum recommends.

use tower_interlock::Tx;

#[axum::debug_handler]
async fn handler(_: String, _: Tx) {}

fn main() {}
