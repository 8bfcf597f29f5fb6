//! A `&mut Tx` that is given away by the first statement.

use tower_interlock::{Error, Tx};

async fn twice(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("SELECT 1").execute(tx).await?;
    sqlx::query("SELECT 2").execute(tx).await?;
    Ok(())
}

fn main() {}
