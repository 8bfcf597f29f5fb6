//! Serialization failures.

use sqlx::{Executor, PgPool, Postgres};
use tower_interlock::Tx;

/// Causes a serialization failure: another session writes what was read `on` it.
pub(crate) async fn conflict<C>(on: &mut C, outside: &PgPool) -> Result<(), sqlx::Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Postgres>,
{
    const INCREMENT: &str = "UPDATE documents SET version = version + 1 WHERE id = 2";
    sqlx::query("SELECT version FROM documents WHERE id = 2")
        .fetch_one(&mut *on)
        .await?;
    sqlx::query(INCREMENT).execute(outside).await?;
    sqlx::query(INCREMENT).execute(on).await?;
    Ok(())
}

/// Causes a serialization failure in the first attempt.
pub(crate) async fn conflict_once(tx: &mut Tx, outside: &PgPool) -> Result<(), sqlx::Error> {
    if tx.attempt() == 1 {
        conflict(tx, outside).await?;
    }
    Ok(())
}
