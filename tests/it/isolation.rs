//! A permission is revoked between the check and the write, by transactions of either isolation.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::put as put_route};
use http::StatusCode;
use sqlx::{Connection as _, PgConnection};
use support::Kind;
use tokio::{sync::Notify, time::timeout};
use tower_interlock::{AuthorizeLayer, Denied, Error, Tx};

use crate::kit::{Kit, TestResponse, guard_statements, note, put, test};

const SERIALIZABLE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";
const READ_COMMITTED: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
const REVOKE: &str = "DELETE FROM grants WHERE user_id = 1";
const DENY: &str = "INSERT INTO denials VALUES (1)";

async fn plain(mut tx: Tx) -> Result<(), Error> {
    check(
        &mut tx,
        "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
    )
    .await
}

async fn locking(mut tx: Tx) -> Result<(), Error> {
    check(
        &mut tx,
        "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = 1 FOR SHARE)",
    )
    .await
}

async fn not_denied(mut tx: Tx) -> Result<(), Error> {
    check(
        &mut tx,
        "SELECT NOT EXISTS (SELECT 1 FROM denials WHERE user_id = 1)",
    )
    .await
}

async fn check(tx: &mut Tx, sql: &'static str) -> Result<(), Error> {
    let allowed: bool = sqlx::query_scalar(sql).fetch_one(tx).await?;
    Ok(Denied::unless(allowed, "revoked")?)
}

/// The result of the revoking transaction: the number of notes it saw, or its SQLSTATE.
type Revocation = Result<i64, String>;

/// Revokes the permission, counts the notes that were written with it, and commits.
async fn revoke(
    mut connection: PgConnection,
    begin: &'static str,
    sql: &'static str,
) -> Revocation {
    let revoked = async {
        sqlx::raw_sql(begin).execute(&mut connection).await?;
        sqlx::raw_sql(sql).execute(&mut connection).await?;
        let seen = sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(&mut connection);
        let seen: i64 = seen.await?;
        sqlx::raw_sql("COMMIT").execute(&mut connection).await?;
        Ok(seen)
    };
    let revoked: Result<i64, sqlx::Error> = revoked.await;
    revoked.map_err(|error| {
        error
            .as_database_error()
            .unwrap()
            .code()
            .unwrap()
            .into_owned()
    })
}

/// The results of both. `waited`: the revoking transaction had to wait for the request.
struct Interleaved {
    response: TestResponse,
    revocation: Revocation,
    waited: bool,
    stored: usize,
}

/// The request checks, the revoking transaction runs or begins to wait, and the request writes.
async fn interleave(
    kit: &Kit,
    layer: AuthorizeLayer,
    begin: &'static str,
    sql: &'static str,
) -> Interleaved {
    let checked = Arc::new(Notify::new());
    let go_on = Arc::new(Notify::new());
    let write = {
        let (checked, go_on) = (Arc::clone(&checked), Arc::clone(&go_on));
        move |mut tx: Tx| async move {
            if tx.attempt() == 1 {
                checked.notify_one();
                go_on.notified().await;
            }
            note(&mut tx, 1).await?;
            Ok::<_, Error>(())
        }
    };
    let app = Router::new().route("/", put_route(write).route_layer(layer));
    let request = tokio::spawn(async move { put(&app, "/", "").await });
    checked.notified().await;

    let connection = PgConnection::connect_with(&kit.database.options())
        .await
        .unwrap();
    let mut revoking = tokio::spawn(revoke(connection, begin, sql));
    let waited = timeout(Duration::from_millis(500), &mut revoking).await;
    go_on.notify_one();
    let response = request.await.unwrap();
    let (revocation, waited) = match waited {
        Ok(revoked) => (revoked.unwrap(), false),
        Err(_) => (revoking.await.unwrap(), true),
    };
    Interleaved {
        response,
        revocation,
        waited,
        stored: kit.notes().await.len(),
    }
}

impl Interleaved {
    /// The request was ordered after the revocation. It was retried and denied.
    #[track_caller]
    fn assert_denied(&self) {
        assert_eq!(self.revocation, Ok(0));
        assert_eq!(self.response.status, StatusCode::FORBIDDEN);
        assert_eq!(self.response.report().attempts(), 2);
        assert_eq!(self.stored, 0);
    }

    /// PostgreSQL tracks conflicts of SERIALIZABLE transactions only. The write is stored although
    /// its permission was revoked, and the revoking transaction did not see it.
    #[track_caller]
    fn assert_the_gap(&self) {
        assert_eq!(self.revocation, Ok(0));
        assert_eq!(self.response.status, StatusCode::OK);
        assert_eq!(self.stored, 1);
    }

    /// The revoking transaction waited for the request and saw its write.
    #[track_caller]
    fn assert_revoked_after(&self) {
        assert!(self.waited);
        assert_eq!(self.response.status, StatusCode::OK);
        assert_eq!(self.stored, 1);
        assert_ne!(self.revocation, Ok(0));
    }
}

async fn is_postgres(kit: &Kit) -> bool {
    sqlx::raw_sql("CREATE TABLE denials (user_id INT8 PRIMARY KEY)")
        .execute(&kit.outside)
        .await
        .unwrap();
    kit.database.kind() == Kind::PostgreSql
}

#[test]
fn plain_check_against_serializable_revocation() {
    test(async |kit| {
        is_postgres(&kit).await;
        interleave(&kit, kit.interlock.require(plain), SERIALIZABLE, REVOKE)
            .await
            .assert_denied();
    });
}

#[test]
fn plain_check_against_read_committed_revocation() {
    test(async |kit| {
        let postgres = is_postgres(&kit).await;
        let both = interleave(&kit, kit.interlock.require(plain), READ_COMMITTED, REVOKE).await;
        if postgres {
            both.assert_the_gap();
        } else {
            both.assert_denied();
        }
    });
}

#[test]
fn locking_check_against_serializable_revocation() {
    test(async |kit| {
        let postgres = is_postgres(&kit).await;
        let both = interleave(&kit, kit.interlock.require(locking), SERIALIZABLE, REVOKE).await;
        if postgres {
            both.assert_revoked_after();
        } else {
            both.assert_denied();
        }
    });
}

#[test]
fn locking_check_against_read_committed_revocation() {
    test(async |kit| {
        let postgres = is_postgres(&kit).await;
        let both = interleave(&kit, kit.interlock.require(locking), READ_COMMITTED, REVOKE).await;
        if postgres {
            both.assert_revoked_after();
        } else {
            both.assert_denied();
        }
    });
}

#[test]
fn absence_check_against_serializable_denial() {
    test(async |kit| {
        is_postgres(&kit).await;
        interleave(&kit, kit.interlock.require(not_denied), SERIALIZABLE, DENY)
            .await
            .assert_denied();
    });
}

#[test]
fn absence_check_against_read_committed_denial() {
    test(async |kit| {
        let postgres = is_postgres(&kit).await;
        let both = interleave(
            &kit,
            kit.interlock.require(not_denied),
            READ_COMMITTED,
            DENY,
        )
        .await;
        if postgres {
            both.assert_the_gap();
        } else {
            both.assert_denied();
        }
    });
}

/// Guards the permission tables. CockroachDB does not need the guard.
async fn guard(kit: &Kit) {
    for sql in guard_statements() {
        sqlx::raw_sql(sql).execute(&kit.outside).await.unwrap();
    }
}

#[test]
fn guarded_table_rejects_read_committed_revocation() {
    test(async |kit| {
        if !is_postgres(&kit).await {
            return println!("the guard is for PostgreSQL");
        }
        guard(&kit).await;
        let both = interleave(&kit, kit.interlock.require(plain), READ_COMMITTED, REVOKE).await;
        assert_eq!(both.revocation, Err("25000".to_owned()));
        assert_eq!((both.response.status, both.stored), (StatusCode::OK, 1));
    });
}

#[test]
fn guarded_table_accepts_serializable_revocation() {
    test(async |kit| {
        if !is_postgres(&kit).await {
            return println!("the guard is for PostgreSQL");
        }
        guard(&kit).await;
        interleave(&kit, kit.interlock.require(plain), SERIALIZABLE, REVOKE)
            .await
            .assert_denied();
    });
}

#[test]
fn guarded_table_rejects_every_weaker_change() {
    test(async |kit| {
        if !is_postgres(&kit).await {
            return println!("the guard is for PostgreSQL");
        }
        guard(&kit).await;
        for sql in [
            "INSERT INTO grants VALUES (2, 2)",
            "UPDATE grants SET user_id = 2",
            "DELETE FROM grants WHERE false",
            "TRUNCATE grants",
        ] {
            for begin in [READ_COMMITTED, "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
                let connection = PgConnection::connect_with(&kit.database.options())
                    .await
                    .unwrap();
                let changed = revoke(connection, begin, sql).await;
                assert_eq!(changed, Err("25000".to_owned()), "{begin}; {sql}");
            }
        }
    });
}

/// A session as that of a restore with `--disable-triggers`.
#[test]
fn guarded_table_rejects_every_weaker_change_of_a_replica_session() {
    test(async |kit| {
        if !is_postgres(&kit).await {
            return println!("the guard is for PostgreSQL");
        }
        guard(&kit).await;
        for sql in [
            REVOKE,
            "INSERT INTO grants VALUES (2, 2)",
            "TRUNCATE grants",
        ] {
            let mut connection = PgConnection::connect_with(&kit.database.options())
                .await
                .unwrap();
            sqlx::raw_sql("SET session_replication_role = replica")
                .execute(&mut connection)
                .await
                .unwrap();
            let changed = revoke(connection, READ_COMMITTED, sql).await;
            assert_eq!(changed, Err("25000".to_owned()), "{sql}");
        }
    });
}

/// Logical replication runs a trigger for each row, and none for each statement.
#[test]
fn guard_for_each_row_rejects_weaker_changes_and_keeps_the_others() {
    test(async |kit| {
        if !is_postgres(&kit).await {
            return println!("the guard is for PostgreSQL");
        }
        let attach =
            "CREATE TRIGGER interlock_guard_rows BEFORE INSERT OR UPDATE OR DELETE ON grants
            FOR EACH ROW EXECUTE FUNCTION interlock_guard()";
        let [function, ..] = guard_statements();
        for sql in [function, attach] {
            sqlx::raw_sql(sql).execute(&kit.outside).await.unwrap();
        }
        let grants = "SELECT user_id FROM grants WHERE user_id IN (1, 8, 9)";
        for (sql, left) in [
            ("INSERT INTO grants VALUES (8, 1)", vec![1, 8]),
            (
                "UPDATE grants SET user_id = 9 WHERE user_id = 8",
                vec![1, 9],
            ),
            (REVOKE, vec![9]),
        ] {
            for (begin, done) in [
                (READ_COMMITTED, Err("25000".to_owned())),
                (SERIALIZABLE, Ok(0)),
            ] {
                let connection = PgConnection::connect_with(&kit.database.options())
                    .await
                    .unwrap();
                assert_eq!(revoke(connection, begin, sql).await, done, "{begin}; {sql}");
            }
            let mut stored: Vec<i64> = sqlx::query_scalar(grants)
                .fetch_all(&kit.outside)
                .await
                .unwrap();
            stored.sort_unstable();
            assert_eq!(stored, left, "{sql}");
        }
    });
}
