//! A `Tx` that is not passed as `&mut Tx`.

use sqlx::Executor;
use tower_interlock::{Error, Tx};

async fn by_value(tx: Tx) -> Result<(), Error> {
    run(tx);
    Ok(())
}

async fn reference_to_reference(mut tx: &mut Tx) -> Result<(), Error> {
    run(&mut tx);
    Ok(())
}

/// As the methods of `sqlx::query`.
fn run<'c>(_: impl Executor<'c>) {}

fn main() {}
