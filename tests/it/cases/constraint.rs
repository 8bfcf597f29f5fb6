//! A violation by a row that the snapshot does not show is a conflict, whatever its SQLSTATE is.
//!
//! The manual of PostgreSQL says so (13.5, "Serialization Failure Handling"). On CockroachDB a
//! transaction that meets such a row has moved past it, or is restarted.

use axum::{
    Router, extract::Path, http::StatusCode, response::IntoResponse as _, routing::put as put_route,
};
use futures::future::join_all;
use sqlx::{AssertSqlSafe, Executor, Postgres};
use support::Kind;
use tower_interlock::{
    AuthorizeLayer, Condition, ConditionalWrite, Error, ErrorKind, Outcome, Savepoint, Tx,
};

use super::{meanwhile, until_a_statement_waits};
use crate::kit::{Kit, TestResponse, anyone, guarded, note, put, test, test_with_pool};

const NAMES: &str = "CREATE TABLE names (name TEXT PRIMARY KEY, seen INT8 NOT NULL DEFAULT 0)";
const RIVAL: &str = "INSERT INTO names (name) VALUES ('a')";

static ADD: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO names (name) SELECT 'a' WHERE {conditions}",
    &[Condition::available(
        "NOT EXISTS (SELECT 1 FROM names WHERE name = 'a')",
    )],
);

async fn insert(on: &mut Savepoint<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(RIVAL).execute(on).await.map(drop)
}

async fn count(tx: &mut Tx) -> Result<(), Error> {
    sqlx::query("UPDATE names SET seen = seen + 1 WHERE name = 'a'")
        .execute(tx)
        .await?;
    Ok(())
}

/// Releases the savepoint if its statement was `done`, and rolls it back otherwise. Returns whether
/// the statement was done.
async fn end<T, E>(savepoint: Savepoint<'_>, done: Result<T, E>) -> Result<bool, Error> {
    match done {
        Ok(_) => savepoint.release().await?,
        Err(_) => savepoint.rollback().await?,
    }
    Ok(done.is_ok())
}

/// The example of `Savepoint`.
async fn insert_or_update(tx: &mut Tx) -> Result<(), Error> {
    let mut savepoint = tx.savepoint().await?;
    let inserted = insert(&mut savepoint).await;
    if !end(savepoint, inserted).await? {
        count(tx).await?;
    }
    Ok(())
}

/// Whether the transaction sees the name.
async fn is_taken<C>(on: &mut C) -> Result<bool, sqlx::Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Postgres>,
{
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM names WHERE name = 'a')")
        .fetch_one(on)
        .await
}

async fn seen(kit: &Kit) -> i64 {
    sqlx::query_scalar("SELECT seen FROM names WHERE name = 'a'")
        .fetch_one(&kit.outside)
        .await
        .unwrap()
}

async fn names(kit: &Kit) -> Vec<String> {
    sqlx::query_scalar("SELECT name FROM names ORDER BY name")
        .fetch_all(&kit.outside)
        .await
        .unwrap()
}

/// A handler that gets its `Tx`, with the kit, behind a policy that allows everything.
fn app<F, Fut>(kit: &Kit, handler: F) -> Router
where
    F: FnOnce(Tx, Kit) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<String, Error>> + Send + 'static,
{
    with(kit, kit.interlock.require(anyone), handler)
}

fn with<F, Fut>(kit: &Kit, layer: AuthorizeLayer, handler: F) -> Router
where
    F: FnOnce(Tx, Kit) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<String, Error>> + Send + 'static,
{
    let kit = kit.clone();
    guarded(layer, move |tx: Tx| handler(tx, kit))
}

/// Runs `handler`, to which the first attempt does not show the name, and asserts that it has
/// counted the name once.
async fn counts_the_unseen_row<F, Fut>(kit: &Kit, handler: F)
where
    F: FnOnce(Tx) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    let app = app(kit, async move |mut tx, kit| {
        meanwhile(&mut tx, &kit, RIVAL).await?;
        handler(tx).await?;
        Ok(String::new())
    });
    assert_committed(&put(&app, "/1", "").await, "");
    assert_eq!(seen(kit).await, 1);
}

#[track_caller]
fn assert_committed(response: &TestResponse, body: &str) {
    assert_eq!((response.status.as_u16(), &*response.body), (200, body));
    assert_eq!(response.outcome(), Outcome::Committed);
    assert!(response.report().attempts() <= 2, "{:?}", response.report());
}

// Behind a savepoint

#[test]
fn savepoint_insert_of_unseen_row_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            insert_or_update(&mut tx).await?;
            Ok(())
        })
        .await;
    });
}

#[test]
fn savepoint_insert_that_waits_for_a_rival_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let mut rival = kit.outside.begin().await.unwrap();
        sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            .execute(&mut *rival)
            .await
            .unwrap();
        sqlx::raw_sql(RIVAL).execute(&mut *rival).await.unwrap();
        let app = app(&kit, async |mut tx, _| {
            insert_or_update(&mut tx).await?;
            Ok(String::new())
        });
        let request = tokio::spawn(async move { put(&app, "/1", "").await });
        until_a_statement_waits(&kit).await;
        rival.commit().await.unwrap();
        assert_committed(&request.await.unwrap(), "");
        assert_eq!(seen(&kit).await, 1);
    });
}

#[test]
fn savepoint_inserts_at_once_lose_no_acknowledged_increment() {
    const CLIENTS: i64 = 8;
    test_with_pool(CLIENTS as u32, async |kit| {
        kit.database.run(NAMES).await;
        let layer = kit.interlock.require(crate::kit::can_edit);
        let app = with(&kit, layer, async |mut tx, _| {
            insert_or_update(&mut tx).await?;
            Ok(String::new())
        });
        for _ in 0..10 {
            kit.database.run("DELETE FROM names").await;
            let responses = join_all((0..CLIENTS).map(|_| put(&app, "/1", ""))).await;
            let made = responses.iter().filter(|response| response.status == 200);
            assert_eq!(seen(&kit).await, made.count() as i64 - 1);
        }
    });
}

#[test]
fn get_or_create_of_unseen_row_returns_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, RIVAL).await?;
            let mut attempt = tx.savepoint().await?;
            let inserted = insert(&mut attempt).await;
            if end(attempt, inserted).await? {
                return Ok("created".to_owned());
            }
            let found = sqlx::query_scalar("SELECT name FROM names WHERE name = 'a'");
            Ok(found.fetch_one(&mut tx).await?)
        });
        assert_committed(&put(&app, "/1", "").await, "a");
        assert_eq!(names(&kit).await, ["a"]);
    });
}

#[test]
fn nested_savepoint_rolled_back_inside_after_an_unseen_row_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            let mut outer = tx.savepoint().await?;
            let mut inner = outer.savepoint().await?;
            let inserted = insert(&mut inner).await;
            let inserted = end(inner, inserted).await?;
            outer.release().await?;
            if !inserted {
                count(&mut tx).await?;
            }
            Ok(())
        })
        .await;
    });
}

#[test]
fn nested_savepoint_rolled_back_outside_after_an_unseen_row_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            let mut outer = tx.savepoint().await?;
            let mut inner = outer.savepoint().await?;
            let inserted = insert(&mut inner).await;
            drop(inner);
            outer.rollback().await?;
            if inserted.is_err() {
                count(&mut tx).await?;
            }
            Ok(())
        })
        .await;
    });
}

#[test]
fn dropped_savepoint_after_an_unseen_row_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            async fn create(tx: &mut Tx) -> Result<(), sqlx::Error> {
                let mut attempt = tx.savepoint().await?;
                insert(&mut attempt).await?;
                attempt.release().await
            }
            if create(&mut tx).await.is_err() {
                count(&mut tx).await?;
            }
            Ok(())
        })
        .await;
    });
}

#[test]
fn savepoint_batch_text_with_unseen_row_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            let mut attempt = tx.savepoint().await?;
            let text = "SELECT 1; INSERT INTO names (name) VALUES ('a'); SELECT 2";
            let done = sqlx::raw_sql(text).execute(&mut attempt).await;
            if !end(attempt, done).await? {
                count(&mut tx).await?;
            }
            Ok(())
        })
        .await;
    });
}

/// The violation is by a new value, not by a new row.
#[test]
fn savepoint_rename_onto_unseen_name_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        kit.database.run("INSERT INTO names VALUES ('b', 7)").await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            let mut attempt = tx.savepoint().await?;
            let rename = sqlx::query("UPDATE names SET name = 'a' WHERE name = 'b'");
            let renamed = rename.execute(&mut attempt).await;
            if !end(attempt, renamed).await? {
                count(&mut tx).await?;
            }
            Ok(())
        })
        .await;
        assert_eq!(names(&kit).await, ["a", "b"]);
    });
}

/// A conditional write is a statement like any other.
#[test]
fn savepoint_conditional_write_of_unseen_row_counts_the_row() {
    static INSERT: ConditionalWrite = ConditionalWrite::new(
        "INSERT INTO names (name) SELECT 'a' WHERE {conditions}",
        &[Condition::permitted(
            "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
        )],
    );
    test(async |kit| {
        kit.database.run(NAMES).await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            let mut attempt = tx.savepoint().await?;
            let inserted = INSERT.unbound().execute(&mut attempt).await;
            if !end(attempt, inserted).await? {
                count(&mut tx).await?;
            }
            Ok(())
        })
        .await;
    });
}

/// The snapshot shows the row, so the rollback of the savepoint undoes the violation.
#[test]
fn savepoint_insert_of_seen_row_counts_the_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        kit.database.run(RIVAL).await;
        let app = app(&kit, async |mut tx, _| {
            insert_or_update(&mut tx).await?;
            Ok(String::new())
        });
        for expected in 1..=3 {
            assert_committed(&put(&app, "/1", "").await, "");
            assert_eq!(seen(&kit).await, expected);
        }
    });
}

/// Each attempt meets another row that it cannot see, so each violation is a conflict.
/// CockroachDB has moved past the first row, and sees it.
#[test]
fn savepoint_insert_of_another_unseen_row_in_each_attempt_counts_each_row() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async |mut tx, kit| {
            for (attempt, name) in [(1, "a"), (2, "b"), (3, "c")] {
                if tx.attempt() == attempt {
                    sqlx::query("SELECT 1 FROM documents")
                        .execute(&mut tx)
                        .await?;
                    sqlx::query("INSERT INTO names (name) VALUES ($1)")
                        .bind(name)
                        .execute(&kit.outside)
                        .await?;
                }
                let mut savepoint = tx.savepoint().await?;
                let insert = sqlx::query("INSERT INTO names (name) VALUES ($1)").bind(name);
                let inserted = insert.execute(&mut savepoint).await;
                savepoint.rollback().await?;
                if inserted.is_err() {
                    let count = sqlx::query("UPDATE names SET seen = seen + 1 WHERE name = $1");
                    let counted = count.bind(name).execute(&mut tx).await?;
                    assert!(counted.rows_affected() == 1 || tx.attempt() < 4);
                }
            }
            Ok(String::new())
        });
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
        let attempts = response.report().attempts();
        let stored: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, seen FROM names ORDER BY name")
                .fetch_all(&kit.outside)
                .await
                .unwrap();
        // The names that the attempts have met.
        let met = if kit.database.kind() == Kind::PostgreSql {
            assert_eq!(attempts, 4);
            3
        } else {
            stored.len()
        };
        let counted = [("a", 1), ("b", 1), ("c", 1)].map(|(name, seen)| (name.to_owned(), seen));
        assert_eq!(stored, counted[..met]);
    });
}

// Without a savepoint

/// The rival has not read, so PostgreSQL does not report 40001.
#[test]
fn checked_insert_of_unseen_row_runs_again() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async |mut tx, kit| {
            if is_taken(&mut tx).await? {
                return Ok("taken".to_owned());
            }
            meanwhile(&mut tx, &kit, RIVAL).await?;
            sqlx::query(RIVAL).execute(&mut tx).await?;
            Ok("made".to_owned())
        });
        assert_committed(&put(&app, "/1", "").await, "taken");
        assert_eq!(names(&kit).await, ["a"]);
    });
}

/// The handler does not pass the error on. Only the layer has seen it.
#[test]
fn swallowed_violation_of_unseen_row_runs_again() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, RIVAL).await?;
            if is_taken(&mut tx).await? {
                return Ok("taken".to_owned());
            }
            let _ = sqlx::query(RIVAL).execute(&mut tx).await;
            Ok("made".to_owned())
        });
        assert_committed(&put(&app, "/1", "").await, "taken");
        assert_eq!(names(&kit).await, ["a"]);
    });
}

/// First login: the policy itself creates the user.
#[test]
fn policy_get_or_create_of_unseen_row_runs_again() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let own = kit.clone();
        let policy = async move |mut tx: Tx| {
            if !is_taken(&mut tx).await? {
                meanwhile(&mut tx, &own, RIVAL).await?;
                sqlx::query(RIVAL).execute(&mut tx).await?;
            }
            Ok::<_, Error>(())
        };
        let app = with(&kit, kit.interlock.require(policy), async |mut tx, _| {
            count(&mut tx).await?;
            Ok(String::new())
        });
        assert_committed(&put(&app, "/1", "").await, "");
        assert_eq!(seen(&kit).await, 1);
    });
}

#[test]
fn conditional_write_on_a_tx_of_unseen_row_is_rejected_by_its_condition() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, RIVAL).await?;
            ADD.unbound().execute(&mut tx).await?;
            Ok(String::new())
        });
        put(&app, "/1", "")
            .await
            .assert_problem(ErrorKind::Conflict);
        assert_eq!(names(&kit).await, ["a"]);
    });
}

#[test]
fn conditional_write_on_the_interlock_of_unseen_row_is_rejected_by_its_condition() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let mut rival = kit.outside.begin().await.unwrap();
        sqlx::raw_sql(RIVAL).execute(&mut *rival).await.unwrap();
        let interlock = kit.interlock.clone();
        let write = tokio::spawn(async move { ADD.unbound().execute(&interlock).await });
        until_a_statement_waits(&kit).await;
        rival.commit().await.unwrap();
        let rejected = write.await.unwrap().unwrap_err();
        assert_eq!(rejected.kind(), ErrorKind::Conflict, "{rejected:?}");
        assert_eq!(names(&kit).await, ["a"]);
    });
}

#[test]
fn conditional_rename_on_the_interlock_onto_unseen_name_is_rejected_by_its_condition() {
    static RENAME: ConditionalWrite = ConditionalWrite::new(
        "UPDATE names SET name = 'a' WHERE name = 'b' AND {conditions}",
        &[Condition::other(
            "NOT EXISTS (SELECT 1 FROM names WHERE name = 'a')",
            StatusCode::LOCKED,
        )],
    );
    test(async |kit| {
        kit.database.run(NAMES).await;
        kit.database.run("INSERT INTO names VALUES ('b', 7)").await;
        let mut rival = kit.outside.begin().await.unwrap();
        sqlx::raw_sql(RIVAL).execute(&mut *rival).await.unwrap();
        let interlock = kit.interlock.clone();
        let write = tokio::spawn(async move { RENAME.unbound().execute(&interlock).await });
        until_a_statement_waits(&kit).await;
        rival.commit().await.unwrap();
        let rejected = write.await.unwrap().unwrap_err();
        assert_eq!(rejected.status(), StatusCode::LOCKED, "{rejected:?}");
        assert_eq!(names(&kit).await, ["a", "b"]);
    });
}

/// On the raw connection the layer sees an error only where it is passed on.
#[test]
fn raw_connection_insert_of_unseen_row_runs_again() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, RIVAL).await?;
            let connection = tx.connection().await?;
            if is_taken(connection).await? {
                return Ok("taken".to_owned());
            }
            sqlx::query(RIVAL).execute(connection).await?;
            Ok("made".to_owned())
        });
        assert_committed(&put(&app, "/1", "").await, "taken");
        assert_eq!(names(&kit).await, ["a"]);
    });
}

#[test]
fn copy_of_unseen_row_runs_again() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, RIVAL).await?;
            let connection = tx.connection().await?;
            if is_taken(connection).await? {
                return Ok("taken".to_owned());
            }
            let mut copy = connection
                .copy_in_raw("COPY names (name) FROM STDIN")
                .await?;
            copy.send(&b"a\n"[..]).await?;
            copy.finish().await?;
            Ok("made".to_owned())
        });
        assert_committed(&put(&app, "/1", "").await, "taken");
        assert_eq!(names(&kit).await, ["a"]);
    });
}

/// COMMIT checks the constraint.
#[test]
fn deferred_unique_violation_by_unseen_row_runs_again() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("CockroachDB v22.1 has no deferrable unique constraints");
        }
        let names =
            "CREATE TABLE names (name TEXT UNIQUE DEFERRABLE INITIALLY DEFERRED, seen INT8)";
        kit.database.run(names).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, RIVAL).await?;
            if is_taken(&mut tx).await? {
                return Ok("taken".to_owned());
            }
            sqlx::query(RIVAL).execute(&mut tx).await?;
            Ok("made".to_owned())
        });
        assert_committed(&put(&app, "/1", "").await, "taken");
        assert_eq!(self::names(&kit).await, ["a"]);
    });
}

#[test]
fn exclusion_violation_by_unseen_booking_runs_again() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("CockroachDB has no exclusion constraints");
        }
        kit.database
            .run("CREATE TABLE bookings (during INT8RANGE, EXCLUDE USING gist (during WITH &&))")
            .await;
        let app = app(&kit, async |mut tx, kit| {
            let overlap = "SELECT EXISTS (SELECT 1 FROM bookings WHERE during && '[2,4)')";
            if sqlx::query_scalar(overlap).fetch_one(&mut tx).await? {
                return Ok("taken".to_owned());
            }
            meanwhile(&mut tx, &kit, "INSERT INTO bookings VALUES ('[1,3)')").await?;
            sqlx::query("INSERT INTO bookings VALUES ('[2,4)')")
                .execute(&mut tx)
                .await?;
            Ok("made".to_owned())
        });
        assert_committed(&put(&app, "/1", "").await, "taken");
        let bookings: i64 = sqlx::query_scalar("SELECT count(*) FROM bookings")
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        assert_eq!(bookings, 1);
    });
}

// Foreign keys

const CHILDREN: &str = "
    CREATE TABLE parents (id INT8 PRIMARY KEY, archived BOOL NOT NULL DEFAULT false);
    CREATE TABLE children (id INT8 PRIMARY KEY, parent INT8 REFERENCES parents);
    INSERT INTO parents VALUES (1);
";

/// The child keeps its parent from being deleted, and the snapshot does not show the child.
#[test]
fn delete_of_parent_with_unseen_child_runs_again() {
    test(async |kit| {
        kit.database.run(CHILDREN).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, "INSERT INTO children VALUES (1, 1)").await?;
            let used = "SELECT EXISTS (SELECT 1 FROM children WHERE parent = 1)";
            if sqlx::query_scalar(used).fetch_one(&mut tx).await? {
                return Ok("used".to_owned());
            }
            sqlx::query("DELETE FROM parents WHERE id = 1")
                .execute(&mut tx)
                .await?;
            Ok("deleted".to_owned())
        });
        assert_committed(&put(&app, "/1", "").await, "used");
        assert_eq!(rows(&kit, "parents").await, 1);
    });
}

/// The handler deletes the parent, or else counts its children. It misses no acknowledged child.
#[test]
fn savepoint_delete_of_parent_with_unseen_child_counts_the_child() {
    test(async |kit| {
        kit.database.run(CHILDREN).await;
        let app = app(&kit, async |mut tx, kit| {
            meanwhile(&mut tx, &kit, "INSERT INTO children VALUES (1, 1)").await?;
            let mut attempt = tx.savepoint().await?;
            let delete = sqlx::query("DELETE FROM parents WHERE id = 1");
            let deleted = delete.execute(&mut attempt).await;
            if end(attempt, deleted).await? {
                return Ok("deleted".to_owned());
            }
            let children = "SELECT count(*) FROM children WHERE parent = 1";
            let children: i64 = sqlx::query_scalar(children).fetch_one(&mut tx).await?;
            Ok(format!("{children} children"))
        });
        assert_committed(&put(&app, "/1", "").await, "1 children");
        assert_eq!(rows(&kit, "parents").await, 1);
    });
}

/// The snapshot shows a parent that is gone.
#[test]
fn insert_below_a_parent_deleted_meanwhile_runs_again() {
    test(async |kit| {
        kit.database.run(CHILDREN).await;
        insert_below_a_deleted_parent(&kit).await;
    });
}

/// Here the server looks for the parent in a newer snapshot than that of the transaction.
#[test]
fn insert_below_a_partitioned_parent_deleted_meanwhile_runs_again() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("CockroachDB partitions in another way");
        }
        kit.database
            .run(
                "CREATE TABLE parents (id INT8 PRIMARY KEY) PARTITION BY RANGE (id);
                 CREATE TABLE some_parents PARTITION OF parents FOR VALUES FROM (0) TO (10);
                 CREATE TABLE children (id INT8 PRIMARY KEY, parent INT8 REFERENCES parents);
                 INSERT INTO parents VALUES (1);",
            )
            .await;
        insert_below_a_deleted_parent(&kit).await;
    });
}

async fn insert_below_a_deleted_parent(kit: &Kit) {
    let app = app(kit, async |mut tx, kit| {
        let there = "SELECT EXISTS (SELECT 1 FROM parents WHERE id = 1)";
        let there: bool = sqlx::query_scalar(there).fetch_one(&mut tx).await?;
        meanwhile(&mut tx, &kit, "DELETE FROM parents WHERE id = 1").await?;
        if !there {
            return Ok("gone".to_owned());
        }
        sqlx::query("INSERT INTO children VALUES (1, 1)")
            .execute(&mut tx)
            .await?;
        Ok("made".to_owned())
    });
    assert_committed(&put(&app, "/1", "").await, "gone");
    assert_eq!(rows(kit, "children").await, 0);
}

async fn rows(kit: &Kit, table: &str) -> i64 {
    let count = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(AssertSqlSafe(count))
        .fetch_one(&kit.outside)
        .await
        .unwrap()
}

// Violations that the snapshot shows

static INSERT_NOTE: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO notes (id, note) SELECT $1, '' WHERE {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
    )],
);

#[test]
fn seen_duplicate_is_the_same_409_on_a_tx_and_on_the_interlock() {
    test(async |kit| {
        kit.database.run("INSERT INTO notes VALUES (7, '')").await;
        let interlock = kit.interlock.clone();
        let alone = async move || INSERT_NOTE.bind(7_i64).execute(&interlock).await.map(drop);
        let plain = async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 7).await?);
        let conditional = async |mut tx: Tx| {
            let insert = INSERT_NOTE.bind(7_i64).execute(&mut tx);
            insert.await.map(drop)
        };
        let require = || kit.interlock.require(anyone);
        let app = Router::new()
            .route("/alone", put_route(alone))
            .route("/plain", put_route(plain).route_layer(require()))
            .route(
                "/conditional",
                put_route(conditional).route_layer(require()),
            );
        let alone = put(&app, "/alone", "").await;
        alone.assert_problem(ErrorKind::ConstraintViolation);
        assert_eq!(alone.status, 409);
        for path in ["/plain", "/conditional"] {
            let response = put(&app, path, "").await;
            response.assert_problem(ErrorKind::ConstraintViolation);
            assert_eq!(
                (response.status, &response.body),
                (alone.status, &alone.body)
            );
            assert_eq!(response.outcome(), Outcome::RolledBack);
            assert!(response.report().attempts() <= 2, "{:?}", response.report());
        }
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn broken_constraint_of_any_sort_is_the_same_409_on_a_tx() {
    test(async |kit| {
        kit.database.run(CHILDREN).await;
        kit.database
            .run(
                "CREATE TABLE positive (n INT8 NOT NULL CHECK (n > 0));
                 INSERT INTO children VALUES (1, 1);",
            )
            .await;
        for sql in [
            "INSERT INTO positive VALUES (0)",
            "INSERT INTO positive VALUES (NULL)",
            "INSERT INTO children VALUES (2, 9)",
            "DELETE FROM parents WHERE id = 1",
        ] {
            let app = app(&kit, async move |mut tx, _| {
                note(&mut tx, 1).await?;
                sqlx::query(sql).execute(&mut tx).await?;
                Ok(String::new())
            });
            let response = put(&app, "/1", "").await;
            assert_eq!(response.status, 409, "{sql}: {}", super::cause(&response));
            response.assert_problem(ErrorKind::ConstraintViolation);
            assert_eq!(kit.notes().await, [0_i64; 0]);
        }
    });
}

/// In a policy it does not reject the client: the check could not run.
#[test]
fn seen_duplicate_in_a_policy_is_a_500() {
    test(async |kit| {
        kit.database.run("INSERT INTO notes VALUES (7, '')").await;
        let policy = async |mut tx: Tx| Ok::<_, Error>(note(&mut tx, 7).await?);
        let app = guarded(kit.interlock.require(policy), async || "in");
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::Database);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn on_conflict_do_nothing_that_returns_no_row_is_a_409() {
    const INSERT: &str = "INSERT INTO notes VALUES ($1, '') ON CONFLICT DO NOTHING RETURNING id";
    test(async |kit| {
        let app = guarded(
            kit.interlock.require(anyone),
            async |Path(id): Path<i64>, mut tx: Tx| {
                let made: i64 = sqlx::query_scalar(INSERT)
                    .bind(id)
                    .fetch_one(&mut tx)
                    .await?;
                Ok::<_, Error>((StatusCode::CREATED, made.to_string()).into_response())
            },
        );
        assert_eq!(put(&app, "/7", "").await.status, 201);
        let again = put(&app, "/7", "").await;
        assert_eq!(again.status, 409, "{}", super::cause(&again));
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn on_conflict_do_nothing_of_unseen_row_runs_again() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        counts_the_unseen_row(&kit, async |mut tx: Tx| {
            let insert = "INSERT INTO names (name) VALUES ('a') ON CONFLICT DO NOTHING";
            let mut savepoint = tx.savepoint().await?;
            let made = sqlx::query(insert).execute(&mut savepoint).await;
            let made = made.map_or(0, |done| done.rows_affected());
            savepoint.rollback().await?;
            if made == 0 {
                count(&mut tx).await?;
            }
            Ok(())
        })
        .await;
    });
}

/// The rival's row is deleted before the next attempt.
#[test]
fn unseen_row_that_is_gone_again_is_made() {
    test(async |kit| {
        kit.database.run(NAMES).await;
        let app = app(&kit, async move |mut tx, kit| {
            if tx.attempt() == 2 {
                sqlx::raw_sql("DELETE FROM names")
                    .execute(&kit.outside)
                    .await?;
            }
            meanwhile(&mut tx, &kit, RIVAL).await?;
            sqlx::query(RIVAL).execute(&mut tx).await?;
            Ok("made".to_owned())
        });
        let response = put(&app, "/1", "").await;
        if kit.database.kind() == Kind::CockroachDb && response.status == 409 {
            return println!("CockroachDB has moved past the row, and sees it");
        }
        assert_committed(&response, "made");
        assert_eq!(names(&kit).await, ["a"]);
    });
}
