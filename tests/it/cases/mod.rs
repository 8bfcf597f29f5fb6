//! What people have reported of other libraries, tried on this one. A file per kind of failure.

mod constraint;
mod create_only;
mod drain;
mod http;
mod int4;
mod logs;
mod privileges;
mod second_connection;
mod split_text;
mod unknown;
mod upgrade;

use std::time::Duration;

use support::Kind;
use tokio::time::sleep;
use tower_interlock::{Error, Tx};

use crate::kit::{Kit, TestResponse};

/// Runs `sql` as somebody else, once the first attempt has taken its snapshot. Further attempts see
/// what it did.
async fn meanwhile(tx: &mut Tx, kit: &Kit, sql: &'static str) -> Result<(), Error> {
    if tx.attempt() == 1 {
        sqlx::query("SELECT 1 FROM documents WHERE id = 2")
            .fetch_one(&mut *tx)
            .await?;
        sqlx::raw_sql(sql).execute(&kit.outside).await?;
    }
    Ok(())
}

/// Waits until a statement of this database waits for a lock. CockroachDB has to be given time.
async fn until_somebody_waits(kit: &Kit) {
    const WAITS: &str = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity
                          WHERE datname = current_database() AND wait_event_type = 'Lock')";
    if kit.database.kind() == Kind::CockroachDb {
        return sleep(Duration::from_millis(500)).await;
    }
    for _ in 0..500 {
        let waits: bool = sqlx::query_scalar(WAITS)
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        if waits {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody waits");
}

/// The version that is stored, once no request is open any more.
async fn version(kit: &Kit, id: i64) -> i64 {
    sqlx::query_scalar("SELECT version FROM documents WHERE id = $1")
        .bind(id)
        .fetch_one(&kit.outside)
        .await
        .unwrap()
}

/// The error of an answer with its cause, as the log has it.
fn cause(answer: &TestResponse) -> String {
    format!("{:?}", answer.error())
}
