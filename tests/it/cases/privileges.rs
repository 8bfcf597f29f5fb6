//! Statements that the server rejects because a privilege or a lock is missing.

use axum::http::{StatusCode, header};
use sqlx::{AssertSqlSafe, PgPool};
use support::Kind;
use tower_interlock::{Condition, ConditionalWrite, Error, ErrorKind, Interlock, Outcome, Tx};

use super::cause;
use crate::kit::{Kit, anyone, guarded, note, put, test};

/// Returns a role that may write no notes from 10 on. PostgreSQL only.
async fn role(kit: &Kit) -> Option<String> {
    if kit.database.kind() == Kind::CockroachDb {
        println!("CockroachDB has no row-level security before v25.2");
        return None;
    }
    // Roles belong to the server, so it is named after the database.
    let role = kit.database.name().to_owned();
    for sql in [
        format!("CREATE ROLE {role}"),
        format!("GRANT ALL ON notes, grants TO {role}"),
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY".to_owned(),
        "CREATE POLICY small ON notes USING (true) WITH CHECK (id < 10)".to_owned(),
    ] {
        run(kit, sql).await;
    }
    Some(role)
}

async fn forget(kit: &Kit, role: &str) {
    run(kit, format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

async fn run(kit: &Kit, sql: String) {
    let sql = sqlx::raw_sql(AssertSqlSafe(sql));
    sql.execute(&kit.outside).await.unwrap();
}

async fn become_role(tx: &mut Tx, role: &str) -> Result<(), Error> {
    sqlx::query(AssertSqlSafe(format!("SET LOCAL ROLE {role}")))
        .execute(tx)
        .await?;
    Ok(())
}

#[test]
fn row_level_security_rejection_in_a_handler_is_a_403() {
    test(async |kit| {
        let Some(role) = role(&kit).await else { return };
        let own = role.clone();
        let handler = async move |mut tx: Tx| {
            become_role(&mut tx, &own).await?;
            note(&mut tx, 1).await?;
            Ok::<_, Error>(note(&mut tx, 11).await?)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        let notes = kit.notes().await;
        forget(&kit, &role).await;
        assert_eq!(response.status, 403, "{}", cause(&response));
        response.assert_problem(ErrorKind::Denied);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_eq!(notes, [0_i64; 0]);
    });
}

#[test]
fn row_level_security_rejection_of_a_conditional_write_is_a_403() {
    static INSERT: ConditionalWrite = ConditionalWrite::new(
        "INSERT INTO notes (id, note) SELECT 11, '' WHERE {conditions}",
        &[Condition::exists("EXISTS (SELECT 1 FROM grants)")],
    );
    test(async |kit| {
        let Some(role) = role(&kit).await else { return };
        let options = kit.database.options().options([
            ("role", role.clone()),
            ("default_transaction_isolation", "serializable".to_owned()),
        ]);
        let interlock = Interlock::new(PgPool::connect_with(options).await.unwrap());
        let rejected = INSERT.unbound().execute(&interlock).await.unwrap_err();
        let notes = kit.notes().await;
        interlock.drain().await;
        forget(&kit, &role).await;
        let rejected = (rejected.kind(), rejected.status());
        assert_eq!(rejected, (ErrorKind::Denied, StatusCode::FORBIDDEN));
        assert_eq!(notes, [0_i64; 0]);
    });
}

/// The check could not run, so it is never a 403.
#[test]
fn row_level_security_rejection_in_a_policy_is_a_500() {
    test(async |kit| {
        let Some(role) = role(&kit).await else { return };
        let own = role.clone();
        let policy = async move |mut tx: Tx| {
            become_role(&mut tx, &own).await?;
            Ok::<_, Error>(note(&mut tx, 11).await?)
        };
        let app = guarded(kit.interlock.require(policy), async || ());
        let response = put(&app, "/1", "").await;
        forget(&kit, &role).await;
        response.assert_problem(ErrorKind::Database);
        assert_eq!(response.status, 500, "{}", cause(&response));
    });
}

/// The same SQLSTATE, but a fault of the deployment.
#[test]
fn missing_grant_on_a_table_is_a_500() {
    test(async |kit| {
        let Some(role) = role(&kit).await else { return };
        let own = role.clone();
        let handler = async move |mut tx: Tx| {
            become_role(&mut tx, &own).await?;
            sqlx::query("UPDATE documents SET body = 'new'")
                .execute(&mut tx)
                .await?;
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        forget(&kit, &role).await;
        response.assert_problem(ErrorKind::Database);
        assert_eq!(kit.body(1).await, "old");
    });
}

// Locks

/// Another transaction, which holds the row of document 1.
async fn holder(kit: &Kit) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut holder = kit.outside.begin().await.unwrap();
    sqlx::query("UPDATE documents SET body = 'held' WHERE id = 1")
        .execute(&mut *holder)
        .await
        .unwrap();
    holder
}

/// Holds the row of document 1, and asserts that a request with these statements is rejected.
async fn assert_contended(kit: &Kit, statements: &'static [&'static str]) {
    let held = holder(kit).await;
    let handler = async move |mut tx: Tx| {
        note(&mut tx, 1).await?;
        for statement in statements {
            sqlx::query(*statement).execute(&mut tx).await?;
        }
        Ok::<_, Error>(())
    };
    let interlock = kit.builder().max_attempts(3).build();
    let app = guarded(interlock.require(anyone), handler);
    let response = put(&app, "/1", "").await;
    held.rollback().await.unwrap();
    response.assert_problem(ErrorKind::RetriesExhausted);
    assert_eq!(response.status, 503, "{}", cause(&response));
    assert_eq!(response.header(header::RETRY_AFTER), Some("1"));
    assert_eq!(response.outcome(), Outcome::RolledBack);
    assert_eq!(response.report().attempts(), 1);
    assert_eq!(kit.notes().await, [0_i64; 0]);
    assert_eq!(kit.body(1).await, "old");
}

#[test]
fn nowait_on_a_held_row_is_a_503() {
    test(async |kit| {
        const LOCK: &str = "SELECT id FROM documents WHERE id = 1 FOR UPDATE NOWAIT";
        assert_contended(&kit, &[LOCK]).await;
    });
}

#[test]
fn lock_timeout_on_a_held_row_is_a_503() {
    test(async |kit| {
        const LIMIT: &str = "SET LOCAL lock_timeout = '100ms'";
        const UPDATE: &str = "UPDATE documents SET body = 'new' WHERE id = 1";
        assert_contended(&kit, &[LIMIT, UPDATE]).await;
    });
}

#[test]
fn lock_timeout_of_a_conditional_write_is_a_503() {
    static WRITE: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE id = 1 AND {conditions}",
        &[Condition::exists("EXISTS (SELECT 1 FROM grants)")],
    );
    test(async |kit| {
        let options = kit.database.options().options([
            ("lock_timeout", "100ms"),
            ("default_transaction_isolation", "serializable"),
        ]);
        let pool = PgPool::connect_with(options).await.unwrap();
        let interlock = Interlock::builder(pool).max_attempts(3).build();
        let held = holder(&kit).await;
        let rejected = WRITE.unbound().execute(&interlock).await.unwrap_err();
        held.rollback().await.unwrap();
        assert_eq!(rejected.kind(), ErrorKind::RetriesExhausted, "{rejected:?}");
        assert_eq!(kit.body(1).await, "old");
        interlock.drain().await;
    });
}

/// Behind a savepoint the handler may continue without the row.
#[test]
fn nowait_on_a_held_row_behind_a_savepoint_is_undone() {
    test(async |kit| {
        let held = holder(&kit).await;
        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let mut savepoint = tx.savepoint().await?;
            let lock = sqlx::query("SELECT id FROM documents WHERE id = 1 FOR UPDATE NOWAIT");
            let locked = lock.execute(&mut savepoint).await;
            savepoint.rollback().await?;
            Ok::<_, Error>(locked.is_ok().to_string())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        held.rollback().await.unwrap();
        assert_eq!((response.status.as_u16(), &*response.body), (200, "false"));
        assert_eq!(kit.notes().await, [1]);
    });
}
