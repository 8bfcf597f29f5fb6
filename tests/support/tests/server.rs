//! Tests that need a PostgreSQL server which this process started.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use sqlx::{Connection, PgConnection, PgPool};
use std::io::{self, Write};
use support::{Kind, Server, Shutdown};

#[tokio::test]
async fn restart_keeps_data_and_address() {
    let Some(server) = own_postgres() else { return };
    let database = server.create_database("restart").await.unwrap();
    database
        .run("CREATE TABLE t (i INT8); INSERT INTO t VALUES (1)")
        .await;
    let pool = database.pool(2).await;

    for shutdown in [Shutdown::Fast, Shutdown::Immediate] {
        let before = started_at(&server).await;
        server.restart(shutdown).unwrap();
        assert_ne!(started_at(&server).await, before);

        let reconnected = PgPool::connect_with(database.options()).await.unwrap();
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
            .fetch_one(&reconnected)
            .await
            .unwrap();
        assert_eq!(rows, 1);
    }
    drop(pool);
}

#[tokio::test]
async fn standby_follows_and_is_read_only() {
    let Some(server) = own_postgres() else { return };
    let database = server.create_database("standby").await.unwrap();
    database
        .run("CREATE TABLE t (i INT8); INSERT INTO t VALUES (1)")
        .await;

    let standby = server.standby().unwrap();
    assert_ne!(standby.url(), server.url());
    let options = standby.options().database(database.name());
    let mut connection = PgConnection::connect_with(&options).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(rows, 1);

    for (statement, code) in [
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "0A000"),
        ("INSERT INTO t VALUES (2)", "25006"),
    ] {
        let rejected = sqlx::raw_sql(statement).execute(&mut connection).await;
        let error = rejected.unwrap_err().into_database_error().unwrap();
        assert_eq!(error.code().as_deref(), Some(code), "{statement}");
    }
}

/// The watchdog ignores signals, and its children inherit that. PostgreSQL must still receive them.
#[tokio::test]
async fn signals_reach_backends() {
    let Some(server) = own_postgres() else { return };
    let pool = PgPool::connect_with(server.options()).await.unwrap();
    for (signal, code) in [
        ("pg_cancel_backend", "57014"),
        ("pg_terminate_backend", "57P01"),
    ] {
        let mut sleeper = PgConnection::connect_with(&server.options()).await.unwrap();
        let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
            .fetch_one(&mut sleeper)
            .await
            .unwrap();
        let sleep = tokio::spawn(async move {
            sqlx::raw_sql("SELECT pg_sleep(60)")
                .execute(&mut sleeper)
                .await
        });
        while !active(&pool, pid).await {}

        let send = sqlx::AssertSqlSafe(format!("SELECT {signal}({pid})"));
        sqlx::raw_sql(send).execute(&pool).await.unwrap();
        let error = sleep
            .await
            .unwrap()
            .unwrap_err()
            .into_database_error()
            .unwrap();
        assert_eq!(error.code().as_deref(), Some(code));
    }
}

#[test]
fn restart_and_standby_are_unsupported_elsewhere() {
    let server = Server::shared();
    if server.is_ours() && server.kind() == Kind::PostgreSql {
        return;
    }
    let error = server.restart(Shutdown::Fast).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(server.standby().is_none());
}

/// A server for one test.
fn own_postgres() -> Option<Server> {
    let server = Server::start().unwrap();
    if server.is_ours() && server.kind() == Kind::PostgreSql {
        return Some(server);
    }
    let _ = writeln!(
        io::stderr(),
        "not tested, it takes a PostgreSQL started here: {server}"
    );
    None
}

async fn started_at(server: &Server) -> String {
    let pool = PgPool::connect_with(server.options()).await.unwrap();
    let query = sqlx::query_scalar("SELECT pg_postmaster_start_time()::text");
    query.fetch_one(&pool).await.unwrap()
}

async fn active(pool: &PgPool, pid: i32) -> bool {
    sqlx::query_scalar(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE pid = $1 AND query LIKE '%pg_sleep%'",
    )
    .bind(pid)
    .fetch_one(pool)
    .await
    .unwrap()
}
