//! The race of `examples/race`, in short.

#![allow(dead_code, reason = "the example makes more of it")]

#[path = "../../examples/race/administrator.rs"]
mod administrator;
#[path = "../../examples/race/judge.rs"]
mod judge;
#[path = "../../examples/race/run.rs"]
mod run;
#[path = "../../examples/race/ways.rs"]
mod ways;

use support::{Database, Kind, Server};

use self::{administrator::Isolation, judge::Verdict, ways::Way};

async fn race(database: &Database, way: Way, isolation: Isolation, requests: i64) -> Verdict {
    let race = run::race(database, way, isolation, requests, |_| {}).await;
    let verdict = Verdict::on(&race.unwrap(), database).await.unwrap();
    println!("{way}; administrator: {isolation}: {verdict:?}");
    verdict
}

/// Every success is stored, nothing else is, and nothing of it without permission.
#[track_caller]
fn assert_none_too_many(verdict: &Verdict) {
    assert!(
        verdict.accepted > 0 && verdict.contested > 0,
        "nobody raced"
    );
    assert_eq!((verdict.violations, verdict.late), (0, 0));
    assert_eq!((verdict.lost, verdict.stray), (0, 0));
}

#[test]
fn no_write_through_the_layer_is_without_permission() {
    support::test(async |database| {
        let verdict = race(&database, Way::Layer, Isolation::Serializable, 10_000).await;
        assert_none_too_many(&verdict);
        assert!(
            verdict.attempts.unwrap().most > 1,
            "no request met a conflict"
        );
    });
}

#[test]
fn no_conditional_write_is_without_permission() {
    support::test(async |database| {
        let verdict = race(&database, Way::Conditional, Isolation::Serializable, 10_000).await;
        assert_none_too_many(&verdict);
    });
}

async fn race_behind_the_guard(database: Database, way: Way) {
    if database.kind() != Kind::PostgreSql {
        return println!("the guard is for PostgreSQL");
    }
    let verdict = race(&database, way, Isolation::Guarded, 1_000).await;
    assert_none_too_many(&verdict);
    assert_eq!(verdict.refused, verdict.revoked);
}

#[test]
fn behind_the_guard_no_write_through_the_layer_is_without_permission() {
    support::test(async |database| race_behind_the_guard(database, Way::Layer).await);
}

#[test]
fn behind_the_guard_no_conditional_write_is_without_permission() {
    support::test(async |database| race_behind_the_guard(database, Way::Conditional).await);
}

/// The judge does find what there is to find, also by its milder measure.
#[test]
fn check_then_write_on_the_pool_writes_without_permission() {
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
        panic!("the naive way did not fail: the race has proved nothing");
    });
}
