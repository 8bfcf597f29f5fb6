//! `transact` with receipts and idempotency keys.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use sqlx::Row as _;
use tower_interlock::{Error, ErrorKind, Interlock, Tx};

use super::{add_effect, count_effects, count_receipts, prepare};
use crate::kit::{test, traced};

async fn add(
    interlock: &Interlock,
    name: &'static str,
    user: &str,
    key: &str,
) -> Result<u32, Error> {
    let transaction = interlock.transaction().named(name).principal(user);
    transaction
        .idempotency_key(key)
        .run(async |mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            tx.note("month", "2026-11");
            Ok::<_, Error>(tx.attempt())
        })
        .await
}

#[test]
fn transaction_with_a_key_commits_once() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        assert_eq!(
            add(&interlock, "invoices.create", "1", "a").await.unwrap(),
            1
        );
        for _ in 0..2 {
            let (again, log) = traced(add(&interlock, "invoices.create", "1", "a")).await;
            assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyDone);
            assert_eq!(log.find("request rejected").len(), 1, "{log:?}");
        }
        assert_eq!(count_effects(&kit, 1).await, 1);
        let receipt = sqlx::query("SELECT * FROM interlock_receipts");
        let receipt = receipt.fetch_one(&kit.outside).await.unwrap();
        assert_eq!(receipt.get::<i32, _>("status"), 1);
        assert_eq!(receipt.get::<&str, _>("policies"), "invoices.create");
        assert_eq!(receipt.get::<&str, _>("principal"), "1");
        let detail: serde_json::Value = receipt.get("detail");
        assert_eq!(detail, serde_json::json!({ "month": "2026-11" }));
    });
}

#[test]
fn other_name_principal_or_key_is_another_transaction() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let others = [
            ("a", "1", "a"),
            ("b", "1", "a"),
            ("a", "2", "a"),
            ("a", "1", "b"),
        ];
        for (name, user, key) in others {
            add(&interlock, name, user, key).await.unwrap();
        }
        assert_eq!(count_effects(&kit, 1).await, 4);
    });
}

#[test]
fn key_of_a_transaction_is_used_up_by_a_commit_only() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let calls = AtomicU32::new(0);
        let run = async || {
            let transaction = interlock.transaction().named("a").idempotency_key("a");
            transaction
                .run(async |mut tx: Tx| {
                    add_effect(&mut tx, 1).await?;
                    match calls.fetch_add(1, Relaxed) {
                        0 => Err(Error::conflict()),
                        _ => Ok(()),
                    }
                })
                .await
                .map_err(|error| error.kind())
        };
        assert_eq!(run().await, Err(ErrorKind::Conflict));
        assert_eq!(run().await, Ok(()));
        assert_eq!(run().await, Err(ErrorKind::AlreadyDone));
        assert_eq!((calls.load(Relaxed), count_effects(&kit, 1).await), (2, 1));
    });
}

/// The reason why it fails may be that it was done.
#[test]
fn failure_is_already_done_if_the_other_copy_has_committed() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let transaction = interlock
            .transaction()
            .named("a")
            .principal("1")
            .idempotency_key("a");
        let result = transaction.run(async |_: Tx| {
            add(&interlock, "a", "1", "a").await.unwrap();
            Err::<(), _>(Error::conflict())
        });
        assert_eq!(result.await.unwrap_err().kind(), ErrorKind::AlreadyDone);
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

#[test]
fn key_needs_a_name_and_receipts_and_a_transaction_that_may_write() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let builders = [
            interlock.transaction().idempotency_key("a"),
            interlock
                .transaction()
                .named("a")
                .idempotency_key("a")
                .read_only(),
            kit.interlock.transaction().named("a").idempotency_key("a"),
        ];
        for builder in builders {
            let result = builder.run(async |_: Tx| -> Result<(), Error> { panic!("it ran") });
            assert_eq!(result.await.unwrap_err().kind(), ErrorKind::Misconfigured);
        }
    });
}

#[test]
fn transaction_that_reads_or_fails_has_no_receipt() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let read = async |mut tx: Tx| {
            sqlx::query("SELECT 1").execute(&mut tx).await?;
            Ok::<_, Error>(())
        };
        interlock.transaction().read_only().run(read).await.unwrap();
        let failed = interlock.transact(async |mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            Err::<(), _>(Error::conflict())
        });
        assert!(failed.await.is_err());
        assert_eq!(count_receipts(&kit).await, (0, 0));
    });
}
