//! A savepoint that is to get the transaction of another one.

use std::mem;

use tower_interlock::{Savepoint, Tx, TxExecutor};

fn swap(savepoint: &mut Savepoint<'_>, tx: &mut Tx) {
    mem::swap(&mut **savepoint, &mut **tx);
}

fn replace(tx: &mut Tx, other: TxExecutor) {
    **tx = other;
}

fn main() {}
