//! Conditional writes: their results, their rows, and their round trips.

use std::time::Duration;

use axum::{extract::Path, http::StatusCode};
use futures::{StreamExt as _, future::join_all, stream};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use support::{Kind, Proxy, drop_after};
use tokio::{task::JoinHandle, time::timeout};
use tower_interlock::{Condition, ConditionalWrite, Error, ErrorKind, Interlock, Outcome, Tx};

use crate::kit::{Kit, anyone, conflict_once, guarded, note, put, test, test_with_pool};

const EXISTS: Condition = Condition::exists("EXISTS (SELECT 1 FROM documents WHERE id = $2)");
const PERMITTED: Condition =
    Condition::permitted("EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)");
const CURRENT: Condition = Condition::current("(SELECT version FROM documents WHERE id = $2) = $3");

static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = 'new', version = version + 1 WHERE id = $2 AND {conditions} RETURNING version",
    &[EXISTS, PERMITTED, CURRENT],
);
static LOCKED: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = 'new', version = version + 1 WHERE id = $2 AND {conditions} RETURNING version",
    &[EXISTS, PERMITTED, CURRENT],
)
.lock("SELECT id FROM documents WHERE id = $2");
static DELETE: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions} AND id = $2",
    &[EXISTS, PERMITTED.hidden(), CURRENT],
);
static ADD_NOTE: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO notes (id, note) SELECT $1, 'added' WHERE {conditions} RETURNING id, note",
    &[
        Condition::other(
            "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
            StatusCode::LOCKED,
        ),
        Condition::available("NOT EXISTS (SELECT 1 FROM notes WHERE id = $1)"),
    ],
);
/// An INSERT that relies on the constraint to reject duplicates.
static INSERT_NOTE: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO notes (id, note) SELECT $1, 'inserted' WHERE {conditions} RETURNING id",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
    )],
);
static INSERT_NEW_NOTE: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO notes (id, note) SELECT $1, 'inserted' WHERE {conditions} ON CONFLICT (id) DO NOTHING RETURNING id",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = 1)",
    )],
);

/// Updates as a user, and returns the new version.
async fn update(
    write: &ConditionalWrite,
    interlock: &Interlock,
    (user, id, seen): (i64, i64, Option<i64>),
) -> Result<i64, Error> {
    let (version,) = write
        .bind(user)
        .bind(id)
        .bind(seen)
        .fetch_one(interlock)
        .await?;
    Ok(version)
}

#[track_caller]
fn assert_fails<T: std::fmt::Debug>(response: Result<T, Error>, kind: ErrorKind, status: u16) {
    let error = response.unwrap_err();
    assert_eq!(
        (error.kind(), error.status().as_u16()),
        (kind, status),
        "{error:?}"
    );
}

// Results

#[test]
fn true_conditions_write_in_all_three_forms() {
    test(async |kit| {
        for (write, expected) in [(&UPDATE, 1), (&LOCKED, 2)] {
            let seen = Some(expected - 1);
            let version = update(write, &kit.interlock, (1, 1, seen)).await.unwrap();
            assert_eq!(version, expected);
        }
        assert_eq!(kit.body(1).await, "new");

        let added: (i64, String) = ADD_NOTE
            .bind(7_i64)
            .fetch_one(&kit.interlock)
            .await
            .unwrap();
        assert_eq!(added, (7, "added".to_owned()));
        assert_eq!(kit.notes().await, [7]);

        let delete = DELETE.bind(1_i64).bind(1_i64).bind(2_i64);
        assert_eq!(delete.execute(&kit.interlock).await.unwrap(), 1);
        assert_eq!(documents(&kit).await, [(2, "old".to_owned(), 0)]);
    });
}

#[test]
fn first_false_condition_decides_the_error() {
    test(async |kit| {
        for write in [&UPDATE, &LOCKED] {
            let update = async |who| update(write, &kit.interlock, who).await;
            assert_fails(update((2, 9, Some(9))).await, ErrorKind::NotFound, 404);
            assert_fails(update((2, 1, Some(9))).await, ErrorKind::Denied, 403);
            assert_fails(
                update((1, 1, Some(9))).await,
                ErrorKind::PreconditionFailed,
                412,
            );
        }
        let delete = DELETE.bind(2_i64).bind(1_i64).bind(9_i64);
        assert_fails(delete.execute(&kit.interlock).await, ErrorKind::Denied, 404);
        assert_untouched(&kit).await;

        let add = async || ADD_NOTE.bind(7_i64).execute(&kit.interlock).await;
        add().await.unwrap();
        assert_fails(add().await, ErrorKind::Conflict, 409);
        kit.database.run("DELETE FROM grants").await;
        assert_fails(add().await, ErrorKind::ConditionFailed, 423);
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn null_condition_denies() {
    static UNKNOWN: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE {conditions}",
        &[
            Condition::permitted("NULL::BOOL"),
            Condition::exists("true"),
        ],
    );
    test(async |kit| {
        assert_fails(
            update(&UPDATE, &kit.interlock, (1, 1, None)).await,
            ErrorKind::PreconditionFailed,
            412,
        );
        let unknown = UNKNOWN.unbound().execute(&kit.interlock).await;
        assert_fails(unknown, ErrorKind::Denied, 403);
        assert_untouched(&kit).await;
    });
}

#[test]
fn version_list_binds_as_one_value() {
    static LISTED: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET version = version + 1 WHERE id = $1 AND {conditions}",
        &[Condition::current(
            "(SELECT version FROM documents WHERE id = $1) = ANY ($2) OR $2 IS NULL",
        )],
    );
    test(async |kit| {
        let write = async |versions: Option<Vec<i64>>| {
            LISTED
                .bind(1_i64)
                .bind(versions)
                .execute(&kit.interlock)
                .await
        };
        write(Some(vec![7, 0])).await.unwrap();
        for stale in [vec![], vec![0, 7]] {
            assert_fails(write(Some(stale)).await, ErrorKind::PreconditionFailed, 412);
        }
        write(None).await.unwrap();
        assert_eq!(documents(&kit).await[0].2, 2);
    });
}

#[test]
fn failing_condition_is_500_and_writes_nothing() {
    static BROKEN: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE {conditions}",
        &[Condition::permitted("1 / (SELECT $1::INT8) > 0")],
    );
    test(async |kit| {
        let broken = BROKEN.bind(0_i64).execute(&kit.interlock).await;
        assert_eq!(
            broken.as_ref().unwrap_err().sqlstate(),
            Some("22012"),
            "{broken:?}"
        );
        assert_fails(broken, ErrorKind::Database, 500);
        assert_untouched(&kit).await;

        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            BROKEN.bind(0_i64).execute(&mut tx).await
        };
        let handler = async move |tx: Tx| handler(tx).await.map(|rows| rows.to_string());
        let app = guarded(kit.interlock.require(anyone), handler);
        put(&app, "/1", "")
            .await
            .assert_problem(ErrorKind::Database);
        assert_untouched(&kit).await;
    });
}

#[test]
fn weaker_isolation_is_misconfigured_and_writes_nothing() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            let plain = Interlock::new(kit.database.pool(1).await);
            let version = update(&UPDATE, &plain, (1, 1, Some(0))).await;
            assert_eq!(version.unwrap(), 1);
            return println!("a plain pool is SERIALIZABLE here");
        }
        for weak in ["read committed", "repeatable read"] {
            let weak = [("default_transaction_isolation", weak)];
            let options = kit.database.options().options(weak);
            let pool = PgPool::connect_with(options).await.unwrap();
            let interlock = Interlock::new(pool);
            // This error comes first, because the isolation makes the conditions unreliable.
            for who in [(1, 1, Some(0)), (2, 1, Some(0))] {
                let response = update(&UPDATE, &interlock, who).await;
                assert_fails(response, ErrorKind::Misconfigured, 500);
            }
        }
        assert_untouched(&kit).await;
    });
}

#[test]
fn missing_row_with_true_conditions_is_not_found() {
    test(async |kit| {
        let insert = || INSERT_NEW_NOTE.bind(7_i64);
        let first: Option<(i64,)> = insert().fetch_optional(&kit.interlock).await.unwrap();
        assert_eq!(first, Some((7,)));
        let second: Option<(i64,)> = insert().fetch_optional(&kit.interlock).await.unwrap();
        assert_eq!(second, None);
        assert_fails(
            insert().execute(&kit.interlock).await,
            ErrorKind::NotFound,
            404,
        );
        let third: Result<(i64,), _> = insert().fetch_one(&kit.interlock).await;
        assert_fails(third, ErrorKind::NotFound, 404);

        kit.database.run("DELETE FROM grants").await;
        let denied = insert().fetch_optional::<(i64,)>(&kit.interlock).await;
        assert_fails(denied, ErrorKind::Denied, 403);
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn row_hidden_by_row_level_security_is_not_found() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("CockroachDB has no row-level security before v25.2");
        }
        // Roles are shared by all databases of the server, so its name contains the database.
        let role = kit.database.name().to_owned();
        for sql in [
            format!("CREATE ROLE {role}"),
            format!("GRANT ALL ON documents, grants TO {role}"),
            "ALTER TABLE documents ENABLE ROW LEVEL SECURITY".to_owned(),
            "CREATE POLICY may_see ON documents FOR SELECT USING (true)".to_owned(),
            "CREATE POLICY may_not_change ON documents FOR UPDATE USING (false)".to_owned(),
        ] {
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&kit.outside)
                .await
                .unwrap();
        }
        let as_role = [
            ("role", role.clone()),
            ("default_transaction_isolation", "serializable".to_owned()),
        ];
        let pool = PgPool::connect_with(kit.database.options().options(as_role));
        let interlock = Interlock::new(pool.await.unwrap());

        let response = update(&UPDATE, &interlock, (1, 1, Some(0))).await;
        assert_fails(response, ErrorKind::NotFound, 404);
        assert_untouched(&kit).await;

        interlock.drain().await;
        let gone = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        sqlx::raw_sql(AssertSqlSafe(gone))
            .execute(&kit.outside)
            .await
            .unwrap();
    });
}

#[test]
fn condition_that_became_true_is_rechecked_once() {
    // False for the write, true for the diagnosis.
    static SECOND_TIME: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE id = 1 AND {conditions}",
        &[Condition::permitted("(SELECT nextval('looks')) > 1")],
    );
    // False for both writes, true for the diagnosis between them.
    static NEVER_IN_TIME: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE id = 2 AND {conditions}",
        &[Condition::permitted("(SELECT nextval('looks')) % 2 = 0")],
    );
    test(async |kit| {
        kit.database.run("CREATE SEQUENCE looks").await;
        let written = SECOND_TIME.unbound().execute(&kit.interlock).await;
        assert_eq!(written.unwrap(), 1);
        assert_eq!(kit.body(1).await, "new");

        kit.database
            .run("DROP SEQUENCE looks; CREATE SEQUENCE looks")
            .await;
        let response = NEVER_IN_TIME.unbound().execute(&kit.interlock).await;
        assert_fails(response, ErrorKind::NotFound, 404);
        assert_eq!(kit.body(2).await, "old");
    });
}

#[test]
fn constraint_violation_is_409() {
    test(async |kit| {
        kit.database
            .run("INSERT INTO notes VALUES (7, 'there')")
            .await;
        let insert = || INSERT_NOTE.bind(7_i64);
        assert_fails(
            insert().execute(&kit.interlock).await,
            ErrorKind::ConstraintViolation,
            409,
        );

        if kit.database.kind() == Kind::PostgreSql {
            // The row is returned before the constraint is checked.
            kit.database
                .run("ALTER TABLE notes DROP CONSTRAINT notes_pkey, ADD UNIQUE (id) DEFERRABLE INITIALLY DEFERRED")
                .await;
            let row = insert().fetch_one::<(i64,)>(&kit.interlock).await;
            assert_fails(row, ErrorKind::ConstraintViolation, 409);
        }
        assert_eq!(kit.notes().await, [7]);
    });
}

#[test]
fn invalid_call_is_rejected_before_sending() {
    test(async |kit| {
        let few = UPDATE.bind(1_i64).bind(1_i64).execute(&kit.interlock).await;
        assert_fails(few, ErrorKind::Misconfigured, 500);
        let many = (0..200).fold(UPDATE.unbound(), |write, value: i64| write.bind(value));
        let many = many.execute(&kit.interlock).await;
        assert_fails(many, ErrorKind::Misconfigured, 500);
        let row = DELETE.bind(1_i64).bind(1_i64).bind(0_i64);
        let row = row.fetch_one::<(i64,)>(&kit.interlock).await;
        assert_fails(row, ErrorKind::Misconfigured, 500);
        assert_untouched(&kit).await;
    });
}

#[test]
fn dry_run_succeeds_and_writes_nothing() {
    test(async |kit| {
        let dry = kit.builder().dry_run(true).build();
        assert_eq!(update(&UPDATE, &dry, (1, 1, Some(0))).await.unwrap(), 1);
        assert_fails(
            update(&UPDATE, &dry, (2, 1, Some(0))).await,
            ErrorKind::Denied,
            403,
        );
        dry.drain().await;
        assert_untouched(&kit).await;
    });
}

#[test]
fn write_after_drain_is_unavailable() {
    test(async |kit| {
        kit.interlock.drain().await;
        let response = update(&UPDATE, &kit.interlock, (1, 1, Some(0))).await;
        assert_fails(response, ErrorKind::Unavailable, 503);
        assert_untouched(&kit).await;
    });
}

// In a transaction of the layer

/// Updates document 1 as the user in the path.
async fn handler(Path(user): Path<i64>, mut tx: Tx) -> Result<String, Error> {
    note(&mut tx, user).await?;
    let update = UPDATE.bind(user).bind(1_i64).bind(0_i64);
    let (version,): (i64,) = update.fetch_one(&mut tx).await?;
    Ok(version.to_string())
}

#[test]
fn write_on_tx_joins_transaction() {
    test(async |kit| {
        let app = guarded(kit.interlock.require(anyone), handler);
        let denied = put(&app, "/2", "").await;
        denied.assert_problem(ErrorKind::Denied);
        assert_eq!(denied.outcome(), Outcome::RolledBack);
        assert_untouched(&kit).await;

        let written = put(&app, "/1", "").await;
        assert_eq!((written.status, &*written.body), (StatusCode::OK, "1"));
        assert_eq!(
            (kit.body(1).await, kit.notes().await),
            ("new".to_owned(), vec![1])
        );
    });
}

#[test]
fn conflict_on_tx_retries_request() {
    test(async |kit| {
        let outside = kit.outside.clone();
        let contended = async move |path: Path<i64>, mut tx: Tx| {
            conflict_once(&mut tx, &outside).await?;
            handler(path, tx).await
        };
        let app = guarded(kit.interlock.require(anyone), contended);
        let response = put(&app, "/1", "").await;
        assert_eq!(
            (response.status, response.report().attempts()),
            (StatusCode::OK, 2)
        );
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn failed_write_on_savepoint_undoes_only_savepoint() {
    test(async |kit| {
        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            for user in [2_i64, 1] {
                let mut savepoint = tx.savepoint().await?;
                sqlx::query("INSERT INTO notes VALUES ($1, '')")
                    .bind(10 + user)
                    .execute(&mut savepoint)
                    .await?;
                let update = UPDATE.bind(user).bind(1_i64).bind(0_i64);
                match update.execute(&mut savepoint).await {
                    Ok(_) => savepoint.release().await?,
                    Err(_) => savepoint.rollback().await?,
                }
            }
            Ok::<_, Error>(())
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.body);
        assert_eq!(
            (kit.body(1).await, kit.notes().await),
            ("new".to_owned(), vec![1, 11])
        );
    });
}

// Races

/// Each client updates with the version that it read last, until it has succeeded a few times.
async fn compete(kit: &Kit, write: &'static ConditionalWrite) {
    const CLIENTS: i64 = 32;
    const WINS: i64 = 4;
    let client = async || {
        let (mut won, mut lost) = (Vec::new(), 0);
        while won.len() < WINS as usize {
            let seen: i64 = sqlx::query_scalar("SELECT version FROM documents WHERE id = 1")
                .fetch_one(&kit.outside)
                .await
                .unwrap();
            match update(write, &kit.interlock, (1, 1, Some(seen))).await {
                Ok(version) => {
                    assert_eq!(version, seen + 1);
                    won.push(version);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{error:?}");
                    lost += 1;
                }
            }
        }
        (won, lost)
    };
    let clients = join_all((0..CLIENTS).map(|_| client())).await;
    let lost: usize = clients.iter().map(|(_, lost)| lost).sum();
    let mut won: Vec<i64> = clients.into_iter().flat_map(|(won, _)| won).collect();
    won.sort_unstable();
    assert_eq!(won, (1..=CLIENTS * WINS).collect::<Vec<_>>());
    assert!(lost > 0, "no client lost");
    println!("{} won, {lost} lost with 412", won.len());
}

#[test]
fn exactly_one_of_32_clients_wins_each_version() {
    test_with_pool(16, async |kit: Kit| compete(&kit, &UPDATE).await);
}

#[test]
fn exactly_one_of_32_clients_wins_each_version_of_locked_row() {
    test_with_pool(16, async |kit: Kit| compete(&kit, &LOCKED).await);
}

/// Without the lock the two would conflict again and again, because the conditions take away the
/// one that CockroachDB takes for an UPDATE.
#[test]
fn write_of_a_row_that_another_one_writes_locks_it_first_on_cockroachdb() {
    static ALONE: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new', version = version + 1 WHERE id = $2 AND {conditions} RETURNING version",
        &[EXISTS, PERMITTED, CURRENT],
    );
    test_with_pool(4, async |kit: Kit| {
        let (interlock, recorder) = kit.observed();
        // From here on the server is known.
        let elsewhere = update(&ALONE, &interlock, (1, 2, Some(0))).await;
        assert_fails(elsewhere, ErrorKind::Denied, 403);
        let mut holder = hold(&kit).await;
        let write = |document| {
            let interlock = interlock.clone();
            let writing = async move { update(&ALONE, &interlock, (1, document, Some(0))).await };
            tokio::spawn(writing)
        };
        let mut writes = Vec::new();
        for _ in 0..2 {
            writes.push(write(1));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_fails(write(2).await.unwrap(), ErrorKind::Denied, 403);
        rollback(&mut holder).await;
        let written = join_all(writes).await.into_iter().map(Result::unwrap);
        let (won, lost): (Vec<_>, Vec<_>) = written.partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        lost.into_iter()
            .for_each(|it| assert_fails(it, ErrorKind::PreconditionFailed, 412));
        let statements = recorder.take_statements();
        let locking = statements
            .iter()
            .filter(|(_, sql)| sql.contains("FOR UPDATE"));
        let expected = usize::from(kit.database.kind() == Kind::CockroachDb);
        assert_eq!(locking.count(), expected, "{statements:#?}");
    });
}

/// A session that has locked the row of document 1.
async fn hold(kit: &Kit) -> PgConnection {
    let options = kit.database.options();
    let mut holder = PgConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("BEGIN; UPDATE documents SET body = 'held' WHERE id = 1")
        .execute(&mut holder)
        .await
        .unwrap();
    holder
}

async fn rollback(holder: &mut PgConnection) {
    sqlx::raw_sql("ROLLBACK").execute(holder).await.unwrap();
}

/// Another session has locked the row of document 1, and a write waits for it.
struct Waiting {
    holder: PgConnection,
    write: JoinHandle<Result<i64, Error>>,
}

impl Waiting {
    async fn start(kit: &Kit, interlock: Interlock) -> Self {
        // The connection of the write is open before the row is locked.
        let warm = update(&UPDATE, &interlock, (2, 1, Some(0))).await;
        assert_fails(warm, ErrorKind::Denied, 403);
        let holder = hold(kit).await;
        let mut write =
            tokio::spawn(async move { update(&UPDATE, &interlock, (1, 1, Some(0))).await });
        let early = timeout(Duration::from_millis(300), &mut write).await;
        assert!(early.is_err(), "{early:?}");
        Self { holder, write }
    }

    async fn let_go(&mut self) {
        rollback(&mut self.holder).await;
    }
}

#[test]
fn revocation_committed_while_write_waits_is_seen() {
    test(async |kit| {
        let mut waiting = Waiting::start(&kit, kit.interlock.clone()).await;
        let mut revoking = kit
            .outside
            .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
            .await
            .unwrap();
        sqlx::query("DELETE FROM grants")
            .execute(&mut *revoking)
            .await
            .unwrap();
        // On CockroachDB a reader also waits for the row.
        if kit.database.kind() == Kind::PostgreSql {
            let seen: i64 = sqlx::query_scalar("SELECT version FROM documents WHERE id = 1")
                .fetch_one(&mut *revoking)
                .await
                .unwrap();
            assert_eq!(seen, 0);
        }
        revoking.commit().await.unwrap();
        waiting.let_go().await;

        let response = waiting.write.await.unwrap();
        if kit.database.kind() == Kind::PostgreSql || response.is_err() {
            assert_fails(response, ErrorKind::Denied, 403);
            assert_untouched(&kit).await;
        }
    });
}

#[test]
fn revocation_that_missed_the_write_fails_to_commit() {
    test(async |kit| {
        let mut revoking = kit
            .outside
            .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
            .await
            .unwrap();
        sqlx::query("DELETE FROM grants")
            .execute(&mut *revoking)
            .await
            .unwrap();
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
            .fetch_one(&mut *revoking)
            .await
            .unwrap();
        assert_eq!(seen, 0);
        let interlock = kit.interlock.clone();
        let mut write =
            tokio::spawn(async move { INSERT_NOTE.bind(1_i64).execute(&interlock).await });
        // CockroachDB lets the write wait for the revocation.
        let early = timeout(Duration::from_millis(500), &mut write).await;
        let revoked = revoking.commit().await;
        let written = match early {
            Ok(written) => written.unwrap(),
            Err(_) => write.await.unwrap(),
        };
        // Exactly one of them succeeds. Both would be a write without permission.
        assert_eq!(written.is_ok(), revoked.is_err(), "{written:?} {revoked:?}");
        assert_eq!(kit.notes().await.len(), usize::from(written.is_ok()));
        if written.is_err() {
            assert_fails(written, ErrorKind::Denied, 403);
        }
    });
}

// Unknown outcomes

#[test]
fn write_past_deadline_and_grace_is_unknown_and_continues() {
    test(async |kit| {
        let hasty = kit
            .builder()
            .deadline(Duration::from_millis(400))
            .grace(Duration::from_millis(200))
            .build();
        let mut waiting = Waiting::start(&kit, hasty.clone()).await;
        let response = (&mut waiting.write).await.unwrap();
        assert_fails(response, ErrorKind::OutcomeUnknown, 500);
        waiting.let_go().await;
        hasty.drain().await;
        assert_eq!(kit.body(1).await, "new");
    });
}

#[test]
fn terminated_write_has_written_nothing_and_is_retried() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            return println!("CockroachDB terminates no single connection");
        }
        let mut waiting = Waiting::start(&kit, kit.interlock.clone()).await;
        let terminated: bool = sqlx::query_scalar(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&kit.outside)
        .await
        .unwrap();
        assert!(terminated);
        waiting.let_go().await;
        assert_eq!((&mut waiting.write).await.unwrap().unwrap(), 1);
        let stored = [(1, "new".to_owned(), 1), (2, "old".to_owned(), 0)];
        assert_eq!(documents(&kit).await, stored);
    });
}

#[test]
fn dropped_write_is_atomic_and_leaves_pool_clean() {
    const POLLS: i64 = 24;
    const WRITES: i64 = 2000;
    test_with_pool(2, async |kit: Kit| {
        let write = async |id: i64| ADD_NOTE.bind(id).execute(&kit.interlock).await.map(|_| id);
        let finished: Vec<i64> = stream::iter(0..WRITES)
            .map(|id| drop_after(id % POLLS, write(id)))
            .buffer_unordered(3)
            .filter_map(async |response| response.map(Result::unwrap))
            .collect()
            .await;
        // A failed write has two statements in which it can be dropped.
        kit.database.run("INSERT INTO notes VALUES (-1, '')").await;
        let failed = stream::iter(0..WRITES)
            .map(|id| drop_after(id % (2 * POLLS), write(-1)))
            .buffer_unordered(3)
            .filter_map(async |response| response)
            .collect::<Vec<_>>()
            .await;
        kit.interlock.drain().await;

        let notes = kit.notes().await;
        println!(
            "{} finished, {} written, {} failed, of {WRITES} each",
            finished.len(),
            notes.len() - 1,
            failed.len()
        );
        assert!(finished.iter().all(|id| notes.contains(id)));
        assert!(failed.iter().all(Result::is_err));
        assert!(!finished.is_empty() && finished.len() < WRITES as usize);
        assert!(!failed.is_empty() && failed.len() < WRITES as usize);
    });
}

// Round trips

#[test]
fn success_takes_one_round_trip_and_failure_two() {
    test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options()
            .max_connections(1)
            .connect_with(proxy.options())
            .await
            .unwrap();
        let interlock = Interlock::new(pool);
        let mut version = 0;
        for warm in [false, true, true] {
            let before = proxy.counts().round_trips;
            version = update(&UPDATE, &interlock, (1, 1, Some(version)))
                .await
                .unwrap();
            let success = proxy.counts().round_trips - before;
            for (who, kind) in [
                ((1, 9, Some(version)), ErrorKind::NotFound),
                ((2, 1, Some(version)), ErrorKind::Denied),
                ((1, 1, Some(0)), ErrorKind::PreconditionFailed),
            ] {
                let before = proxy.counts().round_trips;
                let response = update(&UPDATE, &interlock, who).await;
                assert_eq!(response.unwrap_err().kind(), kind);
                let failure = proxy.counts().round_trips - before;
                println!("warm: {warm}, success: {success}, failure: {failure}");
                assert!(!warm || (success, failure) == (1, 2));
            }
        }
        let made = 3 * 4;
        let pings = proxy.counts().pings;
        assert!(pings <= made, "{pings} pings for {made} writes");
        interlock.drain().await;
    });
}

async fn documents(kit: &Kit) -> Vec<(i64, String, i64)> {
    sqlx::query_as("SELECT id, body, version FROM documents ORDER BY id")
        .fetch_all(&kit.outside)
        .await
        .unwrap()
}

async fn assert_untouched(kit: &Kit) {
    let old = |id| (id, "old".to_owned(), 0);
    assert_eq!(documents(kit).await, [old(1), old(2)]);
    assert_eq!(kit.notes().await, [0_i64; 0]);
}
