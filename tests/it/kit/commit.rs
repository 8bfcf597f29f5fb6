//! COMMITs that fail or wait.

use std::time::Duration;

use sqlx::PgConnection;
use support::Kind;

use super::Kit;

/// For PostgreSQL: a note needs a document with the same number. COMMIT checks that.
pub(crate) const DEFERRED: &str = "
    ALTER TABLE notes ADD CONSTRAINT secret_fkey
        FOREIGN KEY (id) REFERENCES documents (id) DEFERRABLE INITIALLY DEFERRED;
    DELETE FROM documents WHERE id = 1
";

/// For PostgreSQL: COMMIT of a note waits until the advisory lock 1 is released.
const SLOW_COMMIT: &str = "
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION wait()
";

/// Makes COMMIT wait until the returned connection is closed. `None` on CockroachDB.
pub(crate) async fn slow_commit(kit: &Kit) -> Option<PgConnection> {
    if kit.database.kind() != Kind::PostgreSql {
        eprintln!("not tested: only PostgreSQL has triggers that run at COMMIT");
        return None;
    }
    kit.database.run(SLOW_COMMIT).await;
    let mut connection = kit.outside.acquire().await.unwrap().detach();
    let lock = sqlx::query("SELECT pg_advisory_lock(1)");
    lock.execute(&mut connection).await.unwrap();
    Some(connection)
}

/// Waits until a session waits in COMMIT, and returns its process id.
pub(crate) async fn committing(kit: &Kit) -> i32 {
    loop {
        let pid: Option<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity \
             WHERE datname = current_database() AND query = 'COMMIT' AND wait_event_type = 'Lock'",
        )
        .fetch_optional(&kit.outside)
        .await
        .unwrap();
        if let Some(pid) = pid {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Terminates a session of the server, and waits until it is gone.
pub(crate) async fn terminate(kit: &Kit, pid: i32) {
    let signalled: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1)")
        .bind(pid)
        .fetch_one(&kit.outside)
        .await
        .unwrap();
    assert!(signalled);
    // PostgreSQL 13 cannot wait by itself.
    let gone = async {
        let gone = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = $1)";
        let gone = || sqlx::query_scalar::<_, bool>(gone).bind(pid);
        while !gone().fetch_one(&kit.outside).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
    gone.expect("the session goes on");
}
