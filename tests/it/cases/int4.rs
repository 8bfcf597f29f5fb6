//! A row that is written and cannot be decoded.

use tower_interlock::{Condition, ConditionalWrite, Error, ErrorKind, Outcome, Tx};

use crate::kit::{Kit, anyone, guarded, put, test};

static COUNT: ConditionalWrite = ConditionalWrite::new(
    "UPDATE counters SET version = version + 1 WHERE id = $1 AND {conditions} RETURNING version",
    &[Condition::exists(
        "EXISTS (SELECT 1 FROM counters WHERE id = $1)",
    )],
);

const COUNTERS: &str = "CREATE TABLE counters (id INT8 PRIMARY KEY, version INT4 NOT NULL);
                        INSERT INTO counters VALUES (1, 0)";

async fn stored(kit: &Kit) -> i64 {
    sqlx::query_scalar("SELECT version::INT8 FROM counters WHERE id = 1")
        .fetch_one(&kit.outside)
        .await
        .unwrap()
}

/// `Database` would say that nothing was written.
#[test]
fn conditional_write_that_returns_int4_into_i64_is_written_but_unreadable() {
    test(async |kit| {
        kit.database.run(COUNTERS).await;
        let written = COUNT.bind(1_i64).fetch_one::<(i64,)>(&kit.interlock).await;
        let error = written.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrittenButUnreadable, "{error:?}");
        assert_eq!(error.outcome(), Outcome::Committed);
        assert!(!error.is_retryable());
        assert_eq!(stored(&kit).await, 1);
    });
}

/// The right type is read, also after the wrong one.
#[test]
fn conditional_write_that_returns_int4_into_i32_is_made() {
    test(async |kit| {
        kit.database.run(COUNTERS).await;
        let _ = COUNT.bind(1_i64).fetch_one::<(i64,)>(&kit.interlock).await;
        let before = stored(&kit).await;
        let (version,): (i32,) = COUNT.bind(1_i64).fetch_one(&kit.interlock).await.unwrap();
        assert_eq!(
            (i64::from(version), stored(&kit).await),
            (before + 1, before + 1)
        );
    });
}

#[test]
fn conditional_write_on_a_tx_that_returns_int4_into_i64_is_rolled_back() {
    test(async |kit| {
        kit.database.run(COUNTERS).await;
        let app = guarded(kit.interlock.require(anyone), async |mut tx: Tx| {
            let (version,): (i64,) = COUNT.bind(1_i64).fetch_one(&mut tx).await?;
            Ok::<_, Error>(version.to_string())
        });
        let response = put(&app, "/1", "").await;
        assert_eq!(
            (response.status.as_u16(), response.outcome()),
            (500, Outcome::RolledBack)
        );
        assert_eq!(response.report().attempts(), 1);
        assert_eq!(stored(&kit).await, 0);
    });
}
