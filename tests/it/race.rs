//! Short runs of the race in `proofs/race`.

use support::{Database, Kind, Server};
use tower_interlock_race::{Isolation, Verdict, Way};

async fn race(database: &Database, way: Way, isolation: Isolation, requests: i64) -> Verdict {
    let race = tower_interlock_race::race(database, way, isolation, requests, |_| {}).await;
    let verdict = Verdict::on(&race.unwrap(), database).await.unwrap();
    println!("{way}; administrator: {isolation}: {verdict:?}");
    verdict
}

/// The stored writes are those with response 200, and all had permission.
#[track_caller]
fn assert_no_violation(verdict: &Verdict) {
    assert!(
        verdict.accepted > 0 && verdict.contested > 0,
        "no request met a revocation"
    );
    assert_eq!((verdict.violations, verdict.late), (0, 0));
    assert_eq!((verdict.lost, verdict.stray), (0, 0));
}

#[test]
fn layer_with_serializable_revocation_has_no_violation() {
    support::test(async |database| {
        let verdict = race(&database, Way::Layer, Isolation::Serializable, 10_000).await;
        assert_no_violation(&verdict);
        assert!(
            verdict.attempts.unwrap().max > 1,
            "no request met a serialization failure"
        );
    });
}

#[test]
fn conditional_write_with_serializable_revocation_has_no_violation() {
    support::test(async |database| {
        let verdict = race(&database, Way::Conditional, Isolation::Serializable, 10_000).await;
        assert_no_violation(&verdict);
    });
}

async fn race_with_guard(database: Database, way: Way) {
    if database.kind() != Kind::PostgreSql {
        return println!("the guard is for PostgreSQL");
    }
    let verdict = race(&database, way, Isolation::Guarded, 1_000).await;
    assert_no_violation(&verdict);
    assert_eq!(verdict.rejected, verdict.revoked);
}

#[test]
fn layer_with_guarded_revocation_has_no_violation() {
    support::test(async |database| race_with_guard(database, Way::Layer).await);
}

#[test]
fn conditional_write_with_guarded_revocation_has_no_violation() {
    support::test(async |database| race_with_guard(database, Way::Conditional).await);
}

/// Proves that the verdict finds violations, also those that are late.
#[test]
fn check_then_write_on_pool_has_violations() {
    support::test(async |_| {
        for _ in 0..10 {
            let database = Server::shared().create_database("naive").await.unwrap();
            let verdict = race(&database, Way::OnThePool, Isolation::Serializable, 3_000).await;
            database.drop().await.unwrap();
            assert_eq!((verdict.lost, verdict.stray), (0, 0));
            if verdict.violations > 0 && verdict.late > 0 {
                return;
            }
        }
        panic!("the naive way did not fail, so the race proves nothing");
    });
}
