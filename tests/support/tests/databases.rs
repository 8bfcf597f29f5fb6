//! Each test has a database of its own, which is kept only if the test fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use sqlx::{Connection, PgConnection, PgPool};
use std::{mem, panic, sync::mpsc, thread};
use support::{Database, Kind, Server, test};

#[test]
fn database_is_dropped_after_success() {
    let (sender, receiver) = mpsc::channel();
    test(async |database| {
        assert!(exists(&database).await);
        sender.send(database).unwrap();
    });
    let database = receiver.recv().unwrap();
    test(async |_| assert!(!exists(&database).await));
}

#[test]
fn database_is_kept_after_panic() {
    let (sender, receiver) = mpsc::channel();
    let outcome = panic::catch_unwind(|| {
        test(async move |database| {
            sender.send(database).unwrap();
            panic!("on purpose");
        });
    });
    assert_eq!(
        *outcome.unwrap_err().downcast::<&str>().unwrap(),
        "on purpose"
    );

    let database = receiver.recv().unwrap();
    test(async |_| {
        assert!(exists(&database).await);
        database.clone().drop().await.unwrap();
        assert!(!exists(&database).await);
    });
}

#[test]
fn open_connections_do_not_prevent_dropping_database() {
    let (sender, receiver) = mpsc::channel();
    test(async move |database| {
        let mut leaked = PgConnection::connect_with(&database.options())
            .await
            .unwrap();
        sqlx::raw_sql("BEGIN").execute(&mut leaked).await.unwrap();
        mem::forget(leaked);

        let pool = database.pool(2).await;
        tokio::spawn(
            async move { while sqlx::raw_sql("SELECT 1").execute(&pool).await.is_ok() {} },
        );
        sender.send(database).unwrap();
    });
    let database = receiver.recv().unwrap();
    test(async |_| assert!(!exists(&database).await));
}

#[test]
fn databases_are_separate_and_named_after_the_test() {
    let name = "databases_are_separate_and_named_after_the_test";
    let tests: Vec<_> = (0..8)
        .map(|i: i64| {
            let test = move || {
                test(async |database| {
                    assert!(
                        database.name().contains("named_after_the_test_"),
                        "{database:?}"
                    );
                    assert!(database.url().contains(database.name()));
                    database.run("CREATE TABLE t (i INT8 PRIMARY KEY)").await;
                    let pool = database.pool(2).await;
                    sqlx::query("INSERT INTO t VALUES ($1)")
                        .bind(i)
                        .execute(&pool)
                        .await
                        .unwrap();
                    let rows: Vec<i64> = sqlx::query_scalar("SELECT i FROM t")
                        .fetch_all(&pool)
                        .await
                        .unwrap();
                    assert_eq!(rows, [i]);
                });
            };
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(test)
                .unwrap()
        })
        .collect();
    for test in tests {
        test.join().unwrap();
    }
}

#[test]
fn script_statements_run_one_by_one() {
    test(async |database| {
        if database.kind() == Kind::PostgreSql {
            // PostgreSQL rejects the second one inside a transaction, also in the implicit one of a
            // multi-statement query.
            database
                .run("CREATE TABLE t (i INT8); CREATE INDEX CONCURRENTLY ON t (i)")
                .await;
        }
        database
            .run("CREATE TABLE u (s TEXT); -- ;\n INSERT INTO u VALUES ('a;b');")
            .await;
        let pool = database.pool(1).await;
        let s: String = sqlx::query_scalar("SELECT s FROM u")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(s, "a;b");
    });
}

#[test]
fn failing_statement_is_named() {
    test(async |database| {
        let run = async move { database.run("SELECT 1; SELECT nonsense; SELECT 2").await };
        let panic = tokio::spawn(run).await.unwrap_err().into_panic();
        let message = panic.downcast::<String>().unwrap();
        assert!(message.ends_with("SELECT nonsense"), "{message}");
    });
}

#[test]
fn url_connects_to_the_database() {
    test(async |database| {
        let pool = PgPool::connect(&database.url()).await.unwrap();
        let name: String = sqlx::query_scalar("SELECT current_database()")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(name, database.name());
    });
}

#[test]
fn server_can_be_used_from_async_code() {
    test(async |database| {
        let server = Server::shared();
        assert_eq!(server.kind(), database.kind());
        assert_eq!(
            server.version().contains("CockroachDB"),
            server.kind() == Kind::CockroachDb
        );
    });
}

async fn exists(database: &Database) -> bool {
    let pool = PgPool::connect_with(Server::shared().options())
        .await
        .unwrap();
    sqlx::query_scalar("SELECT count(*) > 0 FROM pg_database WHERE datname = $1")
        .bind(database.name())
        .fetch_one(&pool)
        .await
        .unwrap()
}
