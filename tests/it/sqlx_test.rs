//! `#[sqlx::test]`, with the guard and with conditional writes.
//!
//! Its pool is made without the recommended options, and its fixtures run before there is a pool.
//! Both are SERIALIZABLE if a migration, or the first fixture, makes that the default of the
//! database. In the options of `DATABASE_URL` it would concern the books of sqlx as well, and tests
//! that begin at the same time would meet serialization failures there.

use std::process::{Command, Output};

use axum::{Router, routing::put as put_route};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use support::Kind;
use tower_interlock::{Condition, ConditionalWrite, Error, ErrorKind, Interlock};

use crate::kit::{can_edit, put, test, update};

static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = 'new' WHERE id = $1 AND {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE document_id = $1)",
    )],
);

async fn write(interlock: &Interlock) -> Result<u64, Error> {
    UPDATE.bind(1_i64).execute(interlock).await
}

async fn revoke(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let revoked = sqlx::query("DELETE FROM grants").execute(pool).await?;
    Ok(revoked.rows_affected())
}

/// A fixture puts a permission into a guarded table, and the test revokes it on the pool.
#[sqlx::test(
    migrations = false,
    fixtures(path = "sqlx_test", scripts("isolation", "tables")),
    fixtures(path = "../../sql", scripts("serializable_guard")),
    fixtures(path = "sqlx_test", scripts("guarded", "grants"))
)]
#[ignore = "a child of sqlx_tests_work_with_the_guard_and_with_conditional_writes"]
async fn guard(pool: PgPool) {
    let interlock = Interlock::new(pool.clone());
    let app = Router::new()
        .route("/{id}", put_route(update))
        .route_layer(interlock.require(can_edit));
    assert_eq!(put(&app, "/1", "new").await.status, 200);
    assert_eq!(revoke(&pool).await.unwrap(), 1);
    assert_eq!(put(&app, "/1", "newer").await.status, 403);
}

#[sqlx::test(
    migrations = false,
    fixtures(path = "sqlx_test", scripts("isolation", "tables", "grants"))
)]
#[ignore = "a child of sqlx_tests_work_with_the_guard_and_with_conditional_writes"]
async fn conditional_write(pool: PgPool) {
    assert_eq!(write(&Interlock::new(pool)).await.unwrap(), 1);
}

/// Without guarded fixtures, the recommended pool is enough.
#[sqlx::test(
    migrations = false,
    fixtures(path = "sqlx_test", scripts("tables", "grants"))
)]
#[ignore = "a child of sqlx_tests_work_with_the_guard_and_with_conditional_writes"]
async fn recommended_pool(_: PgPoolOptions, options: PgConnectOptions) {
    let interlock = Interlock::connect_with(options, 5).build();
    assert_eq!(write(&interlock).await.unwrap(), 1);
}

/// What fails otherwise.
#[sqlx::test(
    migrations = false,
    fixtures(path = "sqlx_test", scripts("tables", "grants")),
    fixtures(path = "../../sql", scripts("serializable_guard")),
    fixtures(path = "sqlx_test", scripts("guarded"))
)]
#[ignore = "a child of sqlx_tests_work_with_the_guard_and_with_conditional_writes"]
async fn default_isolation(pool: PgPool) {
    let error = revoke(&pool).await.unwrap_err();
    assert!(error.to_string().contains("SERIALIZABLE"), "{error}");
    let error = write(&Interlock::new(pool)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
}

#[test]
fn sqlx_tests_work_with_the_guard_and_with_conditional_writes() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            eprintln!("not tested: #[sqlx::test] needs the advisory locks of PostgreSQL");
            return;
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([MODULE, "--ignored"]);
        child.env("DATABASE_URL", kit.database.url());
        let run = move || child.output().unwrap();
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert_eq!(
            passed(&output),
            [
                "conditional_write",
                "default_isolation",
                "guard",
                "recommended_pool"
            ],
            "{output:?}"
        );
    });
}

/// The names of the tests that passed, sorted.
fn passed(output: &Output) -> Vec<&str> {
    let output = std::str::from_utf8(&output.stdout).unwrap();
    let passed = output.lines().filter_map(|line| {
        let test = line.strip_prefix("test ")?.strip_prefix(MODULE)?;
        test.strip_suffix(" ... ok")
    });
    let mut passed: Vec<_> = passed.collect();
    passed.sort_unstable();
    passed
}

const MODULE: &str = "sqlx_test::";
