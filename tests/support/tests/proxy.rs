//! The effect of each fault of the proxy on sqlx and on the rows.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and is a client of any kind"
)]

use sqlx::{Connection, PgConnection, PgPool, postgres::PgPoolOptions};
use std::{
    pin::pin,
    time::{Duration, Instant},
};
use support::{Database, Fault, Kind, Moment, Proxy, ServerError, test};
use tokio::time::{sleep, timeout};

#[test]
fn messages_are_counted() {
    test(async |database| {
        let (proxy, mut client) = proxy(&database).await;
        assert_eq!(proxy.counts().connections, 1);
        insert(&mut client, 1).await.unwrap();
        insert(&mut client, 2).await.unwrap();
        client.ping().await.unwrap();
        let counts = proxy.counts();
        // BEGIN, INSERT, COMMIT; the first INSERT was prepared.
        assert_eq!(counts.round_trips, 3 + 3 + 1);
        assert_eq!(
            (counts.begins, counts.statements, counts.commits),
            (2, 2, 2)
        );
        assert_eq!((counts.pings, counts.rollbacks), (1, 0));
        assert_eq!(rows(&database).await, [1, 2]);
    });
}

#[test]
fn connection_is_cut_before_or_after_execution() {
    for (fault, stored) in [
        (Fault::CutBefore, false),
        (Fault::CutSent, true),
        (Fault::CutAfter, true),
    ] {
        test(async move |database| {
            let (proxy, mut client) = proxy(&database).await;
            proxy.inject(Moment::Commit, fault.clone());
            let error = insert(&mut client, 1).await.unwrap_err();
            assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
            let expected: &[i64] = if stored { &[1] } else { &[] };
            let rows = settled(&database, expected).await;
            // CockroachDB may abandon a statement because the client is gone.
            let may_abandon = fault == Fault::CutSent && database.kind() == Kind::CockroachDb;
            let abandoned = may_abandon && rows.is_empty();
            assert!(rows == expected || abandoned, "{fault:?}: {rows:?}");
            assert_eq!(proxy.counts().faults, 1);
        });
    }
}

#[test]
fn swallowed_reply_never_arrives() {
    test(async |database| {
        let (proxy, mut client) = proxy(&database).await;
        proxy.inject(Moment::Commit, Fault::Swallow);
        unanswered(&proxy, insert(&mut client, 1)).await;
        assert_eq!(settled(&database, &[1]).await, [1]);
    });
}

#[test]
fn stalled_request_is_not_executed() {
    test(async |database| {
        let (proxy, mut client) = proxy(&database).await;
        proxy.inject(Moment::Commit, Fault::Stall);
        unanswered(&proxy, insert(&mut client, 1)).await;
        // The transaction is still open, and on CockroachDB a reader waits for it.
        proxy.cut();
        assert_eq!(rows(&database).await, [0; 0]);
    });
}

#[test]
fn injected_error_aborts_the_transaction_on_the_server() {
    for moment in [
        Moment::Begin,
        Moment::Statement(1),
        Moment::Text("INTO t"),
        Moment::Commit,
    ] {
        test(async move |database| {
            let (proxy, mut client) = proxy(&database).await;
            proxy.inject(moment.clone(), Fault::Reject(ServerError::RESTART));
            let error = insert(&mut client, 1).await.unwrap_err();
            assert_eq!(code(&error), "40001");
            assert!(error.to_string().contains("restart transaction"));
            drop(client);
            assert_eq!(rows(&database).await, [0; 0]);

            let mut client = PgConnection::connect_with(&proxy.options()).await.unwrap();
            insert(&mut client, 1).await.unwrap();
            assert_eq!(rows(&database).await, [1]);
        });
    }
}

#[test]
fn misreported_error_hides_executed_statement() {
    test(async |database| {
        let (proxy, mut client) = proxy(&database).await;
        proxy.inject(Moment::Commit, Fault::Misreport(ServerError::AMBIGUOUS));
        let error = insert(&mut client, 1).await.unwrap_err();
        assert_eq!(code(&error), "40003");
        assert_eq!(rows(&database).await, [1]);
    });
}

#[test]
fn injected_termination_ends_the_session() {
    test(async |database| {
        let (proxy, mut client) = proxy(&database).await;
        proxy.inject(
            Moment::Statement(1),
            Fault::Terminate(ServerError::SHUTDOWN),
        );
        assert_eq!(code(&insert(&mut client, 1).await.unwrap_err()), "57P01");
        assert!(client.ping().await.is_err());
        assert_eq!(rows(&database).await, [0; 0]);
    });
}

#[test]
fn rollback_can_fail() {
    test(async |database| {
        let (proxy, _) = proxy(&database).await;
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(proxy.options())
            .await
            .unwrap();
        proxy.inject(Moment::Rollback, Fault::CutBefore);
        let transaction = pool.begin().await.unwrap();
        transaction.rollback().await.unwrap_err();
        assert_eq!(proxy.counts().rollbacks, 1);
    });
}

#[test]
fn connection_can_be_rejected() {
    test(async |database| {
        let (proxy, _) = proxy(&database).await;
        let starting = ServerError::fatal("57P03", "the database system is starting up");
        for fault in [Fault::Reject(starting.clone()), Fault::Terminate(starting)] {
            proxy.inject(Moment::Connect, fault);
            let rejected = PgConnection::connect_with(&proxy.options()).await;
            assert_eq!(code(&rejected.unwrap_err()), "57P03");
        }
        proxy.inject(Moment::Connect, Fault::CutBefore);
        let cut = PgConnection::connect_with(&proxy.options()).await;
        assert!(matches!(cut.unwrap_err(), sqlx::Error::Io(_)));
        PgConnection::connect_with(&proxy.options()).await.unwrap();
    });
}

#[test]
fn only_statements_in_a_transaction_are_numbered() {
    test(async |database| {
        let (proxy, mut client) = proxy(&database).await;
        sqlx::query("SELECT 1").execute(&mut client).await.unwrap();
        proxy.inject(Moment::Statement(1), Fault::Reject(ServerError::RESTART));
        sqlx::query("SELECT 1").execute(&mut client).await.unwrap();
        assert_eq!(code(&insert(&mut client, 1).await.unwrap_err()), "40001");
        insert(&mut client, 1).await.unwrap();
    });
}

#[test]
fn round_trip_is_exact_to_a_fraction_of_a_millisecond() {
    test(async |database| {
        let near = round_trip(&Proxy::start(&database)).await;
        for distance in [1, 5] {
            let distance = Duration::from_millis(distance);
            let far = round_trip(&Proxy::with_delay(&database, distance)).await;
            println!("{distance:?} of distance make {far:?} of {near:?}");
            assert!(far >= distance, "{far:?}");
            // The system may wake the proxy late.
            assert!(far < near + distance + Duration::from_millis(2), "{far:?}");
        }
    });
}

/// A proxy in front of a table, and a client that is connected through it.
async fn proxy(database: &Database) -> (Proxy, PgConnection) {
    database.run("CREATE TABLE t (id INT8 PRIMARY KEY)").await;
    let proxy = Proxy::start(database);
    let client = PgConnection::connect_with(&proxy.options()).await.unwrap();
    (proxy, client)
}

async fn insert(client: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    let mut transaction = client.begin().await?;
    sqlx::query("INSERT INTO t VALUES ($1)")
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

async fn rows(database: &Database) -> Vec<i64> {
    let pool: PgPool = database.pool(1).await;
    sqlx::query_scalar("SELECT id FROM t ORDER BY id")
        .fetch_all(&pool)
        .await
        .unwrap()
}

/// Fails if a request is answered whose reply the fault withholds.
async fn unanswered(proxy: &Proxy, request: impl Future<Output = Result<(), sqlx::Error>>) {
    let mut request = pin!(request);
    let until_fault = async || {
        while proxy.counts().faults == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        result = &mut request => panic!("{result:?}"),
        () = until_fault() => {}
    }
    let result = timeout(Duration::from_millis(200), request).await;
    assert!(result.is_err(), "{result:?}");
}

/// The rows, once they are as expected or the time is over.
async fn settled(database: &Database, expected: &[i64]) -> Vec<i64> {
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        let rows = rows(database).await;
        if rows == expected || Instant::now() > patience {
            return rows;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The shortest one. A busy machine lengthens the others.
async fn round_trip(proxy: &Proxy) -> Duration {
    let mut client = PgConnection::connect_with(&proxy.options()).await.unwrap();
    let mut shortest = Duration::MAX;
    for _ in 0..51 {
        let asked = Instant::now();
        client.ping().await.unwrap();
        shortest = shortest.min(asked.elapsed());
    }
    shortest
}

fn code(error: &sqlx::Error) -> String {
    let error = error.as_database_error();
    error.and_then(|error| error.code()).unwrap().into_owned()
}
