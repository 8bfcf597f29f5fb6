//! A transaction outside of a request: a purge that an administrator starts from the command line.
//!
//! The rule is one function, called by the policy of a request and inside of `transact`. A role
//! that is revoked before COMMIT stops the purge.
//!
//! `cargo run --example transact` purges as an administrator and as another user, and fails if a
//! result is not the expected one. It uses the server of `DATABASE_URL` if set; otherwise it starts
//! one for the run.

use support::{Kind, Server};
use tower_interlock::{Denied, Error, ErrorKind, Interlock, Tx, schema::SERIALIZABLE_GUARD};

const SCHEMA: &str = "
    CREATE TABLE administrators (user_id INT8 PRIMARY KEY);
    CREATE TABLE documents (id INT8 PRIMARY KEY, deleted BOOL NOT NULL);
    CREATE TABLE purges (id INT8 PRIMARY KEY, user_id INT8 NOT NULL, documents INT8 NOT NULL);
    INSERT INTO administrators VALUES (1);
    INSERT INTO documents VALUES (1, true), (2, true), (3, false);
";

/// On PostgreSQL, lets only SERIALIZABLE transactions change administrators.
const ATTACH_GUARD: &str = "
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON administrators
        FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    ALTER TABLE administrators ENABLE ALWAYS TRIGGER interlock_guard;
";

/// Proof that the user may purge.
struct CanPurge {
    user: i64,
}

/// The rule. The policy of a request would call it with the user of the request.
async fn may_purge(tx: &mut Tx, user: i64) -> Result<CanPurge, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM administrators WHERE user_id = $1)";
    let allowed: bool = sqlx::query_scalar(rule).bind(user).fetch_one(tx).await?;
    Denied::unless(allowed, "no administrator")?;
    Ok(CanPurge { user })
}

/// Deletes what is marked as deleted, and records who did it. Takes the proof, so that no caller
/// can forget the rule.
async fn purge(tx: &mut Tx, can: CanPurge) -> Result<i64, Error> {
    let purged = sqlx::query("DELETE FROM documents WHERE deleted")
        .execute(&mut *tx)
        .await?;
    let purged = i64::try_from(purged.rows_affected()).unwrap_or(i64::MAX);
    sqlx::query("INSERT INTO purges VALUES (1, $1, $2)")
        .bind(can.user)
        .bind(purged)
        .execute(&mut *tx)
        .await?;
    tx.after_commit(async move { println!("committed: {purged} documents purged") });
    Ok(purged)
}

async fn purge_as(interlock: &Interlock, user: i64) -> Result<i64, Error> {
    let transaction = interlock.transaction().named("documents.purge");
    transaction
        .principal(format!("user {user}"))
        .run(async |mut tx: Tx| {
            let can = may_purge(&mut tx, user).await?;
            purge(&mut tx, can).await
        })
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?;
    println!("database: {server}");
    let database = server.create_database("transact").await?;
    database.run(SCHEMA).await;
    if database.kind() == Kind::PostgreSql {
        database.run(SERIALIZABLE_GUARD).await;
        database.run(ATTACH_GUARD).await;
    }
    let interlock = Interlock::connect_with(database.options(), 4).build();

    let denied = purge_as(&interlock, 2).await;
    println!("user 2: {denied:?}");
    assert!(matches!(denied, Err(error) if error.kind() == ErrorKind::Denied));

    let purged = purge_as(&interlock, 1).await?;
    println!("user 1: {purged} documents");
    assert_eq!(purged, 2);

    interlock.drain().await;
    database.drop().await?;
    Ok(())
}
