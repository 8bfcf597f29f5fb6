//! The race, on every way to check and write.

use std::time::Duration;

use axum::Router;
use sqlx::{Executor as _, PgPool};
use support::{Database, Kind};
use tower_interlock::Interlock;
use tower_interlock_audit::{Race, RaceError, Verdict, Wire, verdict::Finding};

use crate::{
    kit::{put, request, test},
    service::{bad, good},
};

/// A good or a bad service on a wire.
struct Raced {
    wire: Wire,
    app: Router,
}

impl Raced {
    async fn good(database: &Database) -> Self {
        let (wire, pool) = wired(database).await;
        let app = good(&Interlock::new(pool));
        Self { wire, app }
    }

    async fn bad(database: &Database) -> Self {
        let (wire, pool) = wired(database).await;
        let app = bad(&Interlock::new(pool.clone()), &pool);
        Self { wire, app }
    }

    fn race(&self, path: &'static str) -> Race<'_> {
        Race::of(self.app.clone(), &self.wire)
            .request(move || put(path))
            .prepare(async |tx| {
                tx.execute("UPDATE documents SET body = 'old'").await?;
                tx.execute("DELETE FROM grants").await?;
                tx.execute("INSERT INTO grants VALUES ('alice')").await
            })
            .revoke(async |tx| tx.execute("DELETE FROM grants").await)
            .effect("SELECT body FROM documents")
    }
}

async fn wired(database: &Database) -> (Wire, PgPool) {
    let wire = Wire::to(database.options()).await.unwrap();
    let pool = Interlock::pool_options().max_connections(3);
    let pool = pool.connect_lazy_with(wire.options());
    (wire, pool)
}

/// The statements before which the request used a permission that was gone.
fn overtaken(verdict: &Verdict) -> Vec<&str> {
    let points = verdict.overtaken();
    points.map(|point| point.held_before.as_str()).collect()
}

const WRITE: &str = "UPDATE documents SET body = ? WHERE id = ?";

#[test]
fn layer_is_safe_before_every_statement() {
    test(async |database| {
        let raced = Raced::good(&database).await;
        let verdict = raced.race("/document").run().await.unwrap();
        verdict.assert_safe();
        let held: Vec<_> = verdict
            .points
            .iter()
            .map(|point| &point.held_before[..])
            .collect();
        assert_eq!(held.first(), Some(&"the request"));
        assert!(
            held.contains(&WRITE) && held.contains(&"COMMIT"),
            "{held:?}"
        );
    });
}

#[test]
fn conditional_write_is_safe_before_every_statement() {
    test(async |database| {
        let raced = Raced::good(&database).await;
        let verdict = raced.race("/conditional").run().await.unwrap();
        verdict.assert_safe();
        assert!(verdict.points.len() > 1, "{verdict}");
    });
}

#[test]
fn check_and_write_on_pool_is_overtaken_before_write() {
    test(async |database| {
        let raced = Raced::bad(&database).await;
        let verdict = raced.race("/by-hand").run().await.unwrap();
        assert_eq!(overtaken(&verdict), [WRITE], "{verdict}");
    });
}

#[test]
fn read_committed_transaction_is_overtaken_before_write_and_commit() {
    test(async |database| {
        let raced = Raced::bad(&database).await;
        let verdict = raced.race("/read-committed").run().await.unwrap();
        // CockroachDB without READ COMMITTED runs it as SERIALIZABLE.
        match database.kind() {
            Kind::PostgreSql => assert_eq!(overtaken(&verdict), [WRITE, "COMMIT"], "{verdict}"),
            Kind::CockroachDb => verdict.assert_safe(),
        }
    });
}

#[test]
fn policy_and_write_on_pool_are_overtaken() {
    test(async |database| {
        let raced = Raced::bad(&database).await;
        for path in ["/policy-on-pool", "/write-on-pool"] {
            let verdict = raced.race(path).run().await.unwrap();
            assert!(overtaken(&verdict).contains(&WRITE), "{path}\n{verdict}");
        }
    });
}

#[test]
fn cache_and_unchecked_write_are_overtaken_before_request() {
    test(async |database| {
        let raced = Raced::bad(&database).await;
        let verdict = raced.race("/cache").run().await.unwrap();
        assert_eq!(overtaken(&verdict), ["the request", WRITE], "{verdict}");
    });
}

#[test]
fn stale_view_is_overtaken_before_request() {
    test(async |database| {
        let raced = Raced::bad(&database).await;
        let verdict = raced.race("/view").run().await.unwrap();
        assert_eq!(verdict.points[0].finding, Finding::Overtaken, "{verdict}");
    });
}

#[test]
fn verdict_is_the_same_each_time() {
    test(async |database| {
        let (good, bad) = (Raced::good(&database).await, Raced::bad(&database).await);
        for round in 0..100 {
            // On CockroachDB the revocation waits for the request that has written.
            let race = good.race("/document").patience(Duration::from_millis(200));
            let verdict = race.run().await.unwrap();
            assert!(verdict.is_safe(), "round {round}:\n{verdict}");
            let verdict = bad.race("/by-hand").run().await.unwrap();
            assert_eq!(overtaken(&verdict), [WRITE], "round {round}:\n{verdict}");
        }
    });
}

#[test]
fn revocation_that_waits_for_a_row_lock_comes_after_the_write() {
    test(async |database| {
        let raced = Raced::good(&database).await;
        // The request has written the row when it is held before COMMIT.
        let race = raced.race("/document").revoke(async |tx| {
            tx.execute("SELECT * FROM documents FOR UPDATE").await?;
            tx.execute("DELETE FROM grants").await
        });
        let verdict = race.run().await.unwrap();
        verdict.assert_safe();
        let last = verdict.points.last().unwrap();
        assert_eq!(
            (&last.held_before[..], last.waited),
            ("COMMIT", true),
            "{verdict}"
        );
        assert_eq!(last.finding, Finding::WroteBefore, "{verdict}");
    });
}

#[test]
fn request_without_permission_proves_nothing() {
    test(async |database| {
        let raced = Raced::good(&database).await;
        let race = raced.race("/document");
        let race = race.request(|| request(http::Method::PUT, "/document", "mallory"));
        let failed = race.run().await.unwrap_err();
        assert!(
            matches!(failed, RaceError::WritesNothing(status) if status == 403),
            "{failed}"
        );
    });
}
