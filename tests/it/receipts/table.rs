//! The table.

use axum::{body::Body, http::Request};
use tower_interlock::{Error, ErrorKind, Tx, schema};

use super::{EFFECTS, assert_created, effects, idempotent, keyed, prepare, with_receipts};
use crate::kit::{anyone, send, test};

#[test]
fn schema_can_be_run_again() {
    test(async |kit| {
        kit.database.run(schema::RECEIPTS).await;
        kit.database.run(schema::RECEIPTS).await;
    });
}

#[test]
fn missing_or_outdated_table_is_misconfigured_until_it_is_there() {
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let interlock = with_receipts(kit.builder()).build();
        let app = effects(interlock.require(anyone));
        let request = || Request::post("/effects/1").body(Body::empty()).unwrap();
        send(&app, request())
            .await
            .assert_problem(ErrorKind::Misconfigured);
        let transacted = interlock.transact(async |mut tx: Tx| {
            sqlx::query("SELECT 1").execute(&mut tx).await?;
            Ok::<_, Error>(())
        });
        assert_eq!(
            transacted.await.unwrap_err().kind(),
            ErrorKind::Misconfigured
        );
        kit.database
            .run("CREATE TABLE interlock_receipts (key BYTEA PRIMARY KEY)")
            .await;
        send(&app, request())
            .await
            .assert_problem(ErrorKind::Misconfigured);
        kit.database.run("DROP TABLE interlock_receipts").await;
        kit.database.run(schema::RECEIPTS).await;
        assert_created(&send(&app, request()).await, 1);
    });
}

#[test]
fn without_receipts_the_table_is_not_needed() {
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let app = effects(kit.interlock.require(anyone));
        let request = Request::post("/effects/1").body(Body::empty()).unwrap();
        assert_created(&send(&app, request).await, 1);
    });
}

/// A write without its receipt would not be there for the next copy.
#[test]
fn receipt_that_cannot_be_stored_undoes_the_write() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let app = idempotent(&interlock);
        assert_created(&send(&app, keyed(1, "a")).await, 1);
        kit.database
            .run("ALTER TABLE interlock_receipts ADD CONSTRAINT none CHECK (method <> 'POST') NOT VALID")
            .await;
        let response = send(&app, keyed(2, "b")).await;
        assert!(
            response.status.is_server_error() || response.status == 409,
            "{}",
            response.status
        );
        assert_eq!(super::count_effects(&kit, 2).await, 0);
        // What was done before can still be replayed.
        assert_created(&send(&app, keyed(1, "a")).await, 1);
    });
}
