//! Failures that users of other libraries have reported, tried on this one. A file for each kind of
//! failure.

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

/// Runs `sql` in another session, once the first attempt has taken its snapshot. The effect is
/// visible to further attempts.
async fn meanwhile(tx: &mut Tx, kit: &Kit, sql: &'static str) -> Result<(), Error> {
    if tx.attempt() == 1 {
        sqlx::query("SELECT 1 FROM documents WHERE id = 2")
            .fetch_one(&mut *tx)
            .await?;
        sqlx::raw_sql(sql).execute(&kit.outside).await?;
    }
    Ok(())
}

/// Waits until a statement of this database waits for a lock. CockroachDB does not show it, and
/// is given time.
async fn until_a_statement_waits(kit: &Kit) {
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
    panic!("no statement waits");
}

/// The error of a response with its cause, as the log has it.
fn cause(response: &TestResponse) -> String {
    format!("{:?}", response.error())
}
