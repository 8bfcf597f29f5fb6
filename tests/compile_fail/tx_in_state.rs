//! A `Tx` that is kept in the state.

use tower_interlock::Tx;

#[derive(Clone)]
struct App {
    tx: Tx,
}

fn main() {}
