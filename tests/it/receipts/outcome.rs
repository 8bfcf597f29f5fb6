//! COMMITs that are not acknowledged are decided.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::Path, routing::post};
use support::{Fault, Moment, Proxy, ServerError};
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Tx};

use super::{EXPIRE, add_effect, count_effects, count_receipts, keyed, make_tables, with_receipts};
use crate::kit::{Kit, anyone, put, send, test, traced};

/// A route with a hook, through a proxy.
struct Scene {
    kit: Kit,
    proxy: Proxy,
    interlock: Interlock,
    app: Router,
    hooks: Arc<AtomicU32>,
}

impl Scene {
    async fn new(kit: &Kit) -> Self {
        make_tables(kit).await;
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options()
            .max_connections(2)
            .connect_lazy_with(proxy.options());
        let kit = Kit {
            pool,
            ..kit.clone()
        };
        let interlock = with_receipts(kit.builder())
            .deadline(Duration::from_secs(5))
            .grace(Duration::from_secs(3))
            .build();
        let hooks = Arc::new(AtomicU32::new(0));
        let app = app(&interlock, &hooks);
        Self {
            kit,
            proxy,
            interlock,
            app,
            hooks,
        }
    }

    /// The effects and the hooks, when everything is over.
    async fn effects(&self, request: i64) -> (i64, u32) {
        self.interlock.drain().await;
        (
            count_effects(&self.kit, request).await,
            self.hooks.load(Relaxed),
        )
    }
}

fn app(interlock: &Interlock, hooks: &Arc<AtomicU32>) -> Router {
    let hooks = Arc::clone(hooks);
    let handler = async move |Path(request): Path<i64>, mut tx: Tx| {
        add_effect(&mut tx, request).await?;
        tx.after_commit(async move {
            hooks.fetch_add(1, Relaxed);
        });
        Ok::<_, Error>("done")
    };
    let route = axum::routing::put(handler).route_layer(interlock.require(anyone));
    Router::new().route("/effects/{request}", route)
}

#[test]
fn lost_commit_that_the_server_has_done_is_a_success() {
    for fault in [
        Fault::CutAfter,
        Fault::Swallow,
        Fault::Misreport(ServerError::fatal("57P02", "crash shutdown")),
    ] {
        test(async |kit| {
            let scene = Scene::new(&kit).await;
            scene.proxy.inject(Moment::Commit, fault.clone());
            let response = put(&scene.app, "/effects/1", "").await;
            assert_eq!((response.status.as_u16(), &*response.body), (200, "done"));
            assert_eq!(
                (response.outcome(), response.report().attempts()),
                (Outcome::Committed, 1)
            );
            assert_eq!(scene.effects(1).await, (1, 1));
            assert_eq!(count_receipts(&kit).await, (1, 0));
        });
    }
}

/// It is given up late, so there is no time for another attempt.
#[test]
fn commit_that_the_server_never_gets_changes_nothing_and_says_so() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        scene.proxy.inject(Moment::Commit, Fault::Stall);
        let response = put(&scene.app, "/effects/1", "").await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_eq!(scene.effects(1).await, (0, 0));
    });
}

#[test]
fn lost_commit_that_the_server_has_not_seen_is_retried() {
    for fault in [Fault::CutBefore, Fault::Terminate(ServerError::SHUTDOWN)] {
        test(async |kit| {
            let scene = Scene::new(&kit).await;
            scene.proxy.inject(Moment::Commit, fault.clone());
            let response = put(&scene.app, "/effects/1", "").await;
            assert_eq!(response.status, 200, "{fault:?} {}", response.body);
            assert_eq!(
                (response.outcome(), response.report().attempts()),
                (Outcome::Committed, 2)
            );
            assert_eq!(scene.effects(1).await, (1, 1));
            assert_eq!(count_receipts(&kit).await, (1, 1));
        });
    }
}

/// R2: a second lost connection ends the work, but with a definite answer.
#[test]
fn second_lost_commit_changes_nothing_and_says_so() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        scene
            .proxy
            .inject_times(2, Moment::Commit, Fault::CutBefore);
        let response = put(&scene.app, "/effects/1", "").await;
        response.assert_problem(ErrorKind::Unavailable);
        assert_eq!(
            (response.outcome(), response.report().attempts()),
            (Outcome::RolledBack, 2)
        );
        assert_eq!(scene.effects(1).await, (0, 0));
        assert_eq!(count_receipts(&kit).await, (0, 2));
    });
}

#[test]
fn outcome_is_unknown_only_if_the_fence_cannot_reach_the_server() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        scene.proxy.inject(Moment::Commit, Fault::CutAfter);
        scene.proxy.inject_times(1_000, FENCE, Fault::CutBefore);
        let request = async {
            let response = put(&scene.app, "/effects/1", "").await;
            response.assert_problem(ErrorKind::OutcomeUnknown);
            assert_eq!(response.outcome(), Outcome::Unknown);
            // The fence goes on in the background, and the hook follows.
            scene.proxy.relent();
            assert_eq!(scene.effects(1).await, (1, 1));
        };
        let ((), log) = traced(request).await;
        let over = log.find("a COMMIT that was reported as unknown is over");
        assert_eq!(over.len(), 1);
        assert_eq!(over[0].get("outcome"), Some("committed"));
    });
}

/// A fence that was executed and not acknowledged has decided all the same.
#[test]
fn lost_fence_is_repeated() {
    for (commit, status) in [(Fault::CutAfter, 1), (Fault::CutBefore, 2)] {
        for fence in [Fault::CutBefore, Fault::CutSent, Fault::CutAfter] {
            test(async |kit| {
                let scene = Scene::new(&kit).await;
                scene.proxy.inject(Moment::Commit, commit.clone());
                scene.proxy.inject_times(2, FENCE, fence.clone());
                let response = put(&scene.app, "/effects/1", "").await;
                assert_eq!(
                    response.status, 200,
                    "{commit:?} {fence:?} {}",
                    response.body
                );
                assert_eq!(response.report().attempts(), status);
                assert_eq!(scene.effects(1).await, (1, 1));
            });
        }
    }
}

const FENCE: Moment = Moment::Text("VALUES ($1, $2, 0, now()");

/// A request that is not repeatable is not retried, but its outcome is known.
#[test]
fn lost_commit_of_a_request_with_one_attempt_changes_nothing() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        let layer = scene.interlock.require(anyone).max_attempts(1);
        let app = Router::new().route(
            "/effects/{request}",
            post(super::effect).put(super::effect).route_layer(layer),
        );
        scene.proxy.inject(Moment::Commit, Fault::CutBefore);
        let response = put(&app, "/effects/1", "").await;
        response.assert_problem(ErrorKind::Unavailable);
        assert_eq!(scene.effects(1).await, (0, 0));
    });
}

/// Its client has gone. The fence goes on in the background.
#[test]
fn dropped_request_is_decided_in_the_background() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        scene.proxy.inject(Moment::Commit, Fault::Swallow);
        let request = put(&scene.app, "/effects/1", "");
        let dropped = tokio::time::timeout(Duration::from_millis(800), request).await;
        assert!(dropped.is_err());
        assert_eq!(scene.effects(1).await, (1, 1));
    });
}

#[test]
fn transaction_is_decided_as_a_request_is() {
    for (fault, attempts) in [(Fault::CutAfter, 1), (Fault::CutBefore, 2)] {
        test(async |kit| {
            let scene = Scene::new(&kit).await;
            scene.proxy.inject(Moment::Commit, fault.clone());
            let attempt = scene
                .interlock
                .transact(async |mut tx: Tx| {
                    add_effect(&mut tx, 1).await?;
                    Ok::<_, Error>(tx.attempt())
                })
                .await;
            assert_eq!(attempt.unwrap(), attempts);
            assert_eq!(scene.effects(1).await, (1, 0));
        });
    }
}

/// The first attempt's COMMIT is unknown; the same without receipts.
#[test]
fn without_receipts_the_outcome_is_unknown() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        let without = scene.kit.builder().build();
        let app = app(&without, &scene.hooks);
        scene.proxy.inject(Moment::Commit, Fault::CutAfter);
        let response = put(&app, "/effects/1", "").await;
        response.assert_problem(ErrorKind::OutcomeUnknown);
        without.drain().await;
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

/// The key of an earlier request has expired, and its receipt is still there.
#[test]
fn lost_commit_over_an_expired_receipt_is_decided() {
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        test(async |kit| {
            let scene = Scene::new(&kit).await;
            let app = super::idempotent(&scene.interlock);
            let first = send(&app, keyed(1, "a")).await;
            assert_eq!(first.outcome(), Outcome::Committed);
            kit.database.run(EXPIRE).await;
            scene.proxy.inject(Moment::Commit, fault.clone());
            let response = send(&app, keyed(1, "a")).await;
            assert_eq!(
                response.outcome(),
                Outcome::Committed,
                "{fault:?} {response:?}"
            );
            assert_eq!(scene.effects(1).await, (2, 0), "{fault:?} {response:?}");
        });
    }
}

/// A client that leaves while the receipt waits must not hold the locks for long.
#[test]
fn request_dropped_while_its_receipt_is_stored_frees_its_locks() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        let app = super::idempotent(&scene.interlock);
        scene.proxy.inject(
            Moment::Text("AS receipt (key, attempt, status, fingerprint"),
            Fault::Stall,
        );
        let request = send(&app, keyed(1, "a"));
        assert!(
            tokio::time::timeout(Duration::from_millis(500), request)
                .await
                .is_err()
        );
        let begin = std::time::Instant::now();
        scene.interlock.drain().await;
        assert!(
            begin.elapsed() < Duration::from_secs(3),
            "{:?}",
            begin.elapsed()
        );
    });
}

/// The fence of the first copy finds the receipt of the second one, which is no success of the
/// first: its hooks must not run.
#[test]
fn fence_that_finds_another_copy_is_no_success() {
    test(async |kit| {
        let scene = Scene::new(&kit).await;
        let idempotent = |interlock: &Interlock, hooks: &Arc<AtomicU32>| {
            let hooks = Arc::clone(hooks);
            let handler = async move |Path(request): Path<i64>, mut tx: Tx| {
                add_effect(&mut tx, request).await?;
                tx.after_commit(async move {
                    hooks.fetch_add(1, Relaxed);
                });
                Ok::<_, Error>("done")
            };
            let layer = interlock.require(anyone).idempotent();
            Router::new().route("/effects/{request}", post(handler).route_layer(layer))
        };
        let (first_hooks, second_hooks) = (Arc::default(), Arc::default());
        let first = idempotent(&scene.interlock, &first_hooks);
        let other = with_receipts(Interlock::builder(kit.pool.clone())).build();
        let second = idempotent(&other, &second_hooks);
        scene.proxy.inject(Moment::Commit, Fault::CutBefore);
        scene
            .proxy
            .inject(FENCE, Fault::Delay(Duration::from_millis(800)));
        let copy = async {
            // The first one has lost its COMMIT, and its fence is on its way.
            while scene.proxy.counts().faults < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            send(&second, keyed(1, "a")).await
        };
        let (first, second) = tokio::join!(send(&first, keyed(1, "a")), copy);
        assert_eq!(
            (second.status.as_u16(), second.outcome()),
            (200, Outcome::Committed)
        );
        assert_eq!(
            (first.status.as_u16(), first.outcome()),
            (200, Outcome::Replayed)
        );
        scene.interlock.drain().await;
        other.drain().await;
        assert_eq!(
            (first_hooks.load(Relaxed), second_hooks.load(Relaxed)),
            (0, 1)
        );
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

#[test]
fn lost_search_is_repeated() {
    for fault in [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Reject(ServerError::RESTART),
    ] {
        test(async |kit| {
            let scene = Scene::new(&kit).await;
            let app = super::idempotent(&scene.interlock);
            scene
                .proxy
                .inject(Moment::Text("AND status <> 0"), fault.clone());
            let response = send(&app, keyed(1, "a")).await;
            assert_eq!(
                (response.status.as_u16(), response.report().attempts()),
                (201, 1)
            );
            assert_eq!(scene.effects(1).await, (1, 0));
        });
    }
}
