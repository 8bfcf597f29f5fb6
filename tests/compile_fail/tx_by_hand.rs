//! A transaction that is begun and ended by hand.

use tower_interlock::{Error, Tx};

async fn commits(mut tx: Tx) -> Result<(), Error> {
    Ok(tx.commit().await?)
}

async fn rolls_back(mut tx: Tx) -> Result<(), Error> {
    Ok(tx.rollback().await?)
}

async fn nests(mut tx: Tx) -> Result<(), Error> {
    let nested = tx.begin().await?;
    Ok(nested.release().await?)
}

async fn commits_savepoint(mut tx: Tx) -> Result<(), Error> {
    let mut savepoint = tx.savepoint().await?;
    Ok(savepoint.commit().await?)
}

fn main() {}
