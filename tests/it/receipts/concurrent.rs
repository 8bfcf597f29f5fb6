//! Copies of a request at the same time, and requests that have nothing in common.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, extract::Path, http::StatusCode, routing::post};
use futures::{StreamExt as _, future::join_all, stream};
use support::{Fault, Kind, Moment, Proxy, ServerError};
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Tx};

use super::{
    add_effect, assert_created, count_effects, count_receipts, idempotent, is_replayed, keyed,
    keyed_of, make_tables, prepare, until_blocked, with_receipts,
};
use crate::kit::{self, TestResponse, committing, send, slow_commit, test, test_with_pool, traced};

#[test]
fn concurrent_copies_in_two_processes_have_one_effect_and_one_response() {
    test_with_pool(8, async |kit| {
        let first = idempotent(&prepare(&kit).await);
        let second = kit::pool(&kit.database, 8);
        let second = idempotent(&with_receipts(Interlock::builder(second)).build());
        for round in 0..20 {
            let copies = (0..8).map(|copy| {
                let app = if copy % 2 == 0 { &first } else { &second };
                send(app, keyed(round, "a"))
            });
            let copies = join_all(copies).await;
            copies.iter().for_each(|copy| assert_created(copy, round));
            let replayed = copies.iter().filter(|copy| is_replayed(copy)).count();
            assert_eq!(replayed, 7);
            assert_eq!(count_effects(&kit, round).await, 1);
        }
        assert_eq!(count_receipts(&kit).await, (20, 0));
    });
}

/// The original is still in its COMMIT when the fence asks for it. The fence waits, and does not stop
/// it: PostgreSQL ends a session whose connection is closed.
#[test]
fn slow_commit_succeeds_beside_the_fence_that_waits_for_it() {
    test(async |kit| {
        make_tables(&kit).await;
        let Some(lock) = slow_commit(&kit).await else {
            return;
        };
        let interlock = with_receipts(kit.builder())
            .deadline(Duration::from_secs(2))
            .grace(Duration::from_secs(8))
            .build();
        let app = kit::guarded(interlock.require(kit::anyone), kit::write);
        let request = kit::put(&app, "/1", "");
        let release = async {
            let committing = tokio::time::timeout(Duration::from_secs(20), committing(&kit));
            committing.await.expect("no COMMIT waits");
            until_blocked(&kit, "%(key, attempt, status, expires_at)%").await;
            // PostgreSQL looks for closed connections once a second.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            drop(lock);
        };
        let (response, ()) = tokio::join!(request, release);
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(
            (response.outcome(), response.report().attempts()),
            (Outcome::Committed, 1)
        );
        interlock.drain().await;
        assert_eq!(kit.notes().await, [1]);
        assert_eq!(count_receipts(&kit).await, (1, 0));
    });
}

const CLIENTS: usize = 16;
const REQUESTS: i64 = 320;
const COPIES: usize = 5;

/// What the clients were told.
#[derive(Debug, Default)]
struct Told {
    succeeded: AtomicUsize,
    replayed: AtomicUsize,
    nothing_changed: AtomicUsize,
    unknown: AtomicUsize,
}

impl Told {
    /// Whether the client repeats the request.
    fn record(&self, response: &TestResponse) -> bool {
        let kind = response.error().map(Error::kind);
        let counter = match kind {
            None if is_replayed(response) => &self.replayed,
            None => &self.succeeded,
            Some(ErrorKind::OutcomeUnknown) => &self.unknown,
            Some(_) => &self.nothing_changed,
        };
        counter.fetch_add(1, Relaxed);
        kind.is_some()
    }
}

/// Every client repeats a request until it knows that it has succeeded, and once more.
#[test]
fn repeated_requests_under_random_cuts_have_one_effect_each() {
    test_with_pool(8, async |kit| {
        make_tables(&kit).await;
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options().max_connections(8);
        let pool = pool.connect_lazy_with(proxy.options());
        let interlock = with_receipts(Interlock::builder(pool))
            .deadline(Duration::from_secs(5))
            .grace(Duration::from_secs(5))
            .build();
        let app = idempotent(&interlock);
        let told = Told::default();
        let next = AtomicI64::new(0);
        let clients = join_all((0..CLIENTS).map(async |_| {
            let mut answered = BTreeMap::new();
            loop {
                let request = next.fetch_add(1, Relaxed);
                if request >= REQUESTS {
                    return answered;
                }
                answered.insert(request, repeat(&app, request, &told).await);
            }
        }));
        let disturbed = async {
            let answered = tokio::select! {
                answered = clients => answered,
                () = disturb(&proxy) => unreachable!("it never ends"),
            };
            proxy.relent();
            interlock.drain().await;
            answered
        };
        let (answered, log) = traced(disturbed).await;
        for (request, succeeded) in answered.into_iter().flatten() {
            let effects = count_effects(&kit, request).await;
            assert!(
                effects == i64::from(succeeded) || (!succeeded && effects <= 1),
                "{request}: {effects}"
            );
        }
        let fenced = log.find("COMMIT was not acknowledged");
        let decided = |as_what| {
            fenced
                .iter()
                .filter(|it| it.get("fenced") == Some(as_what))
                .count()
        };
        let (committed, void) = (decided("Committed"), decided("Void"));
        eprintln!("{told:?}, {} faults", proxy.counts().faults);
        eprintln!("COMMITs decided: {committed} committed, {void} void");
        assert!(committed > 0 && void > 0, "not tested");
        assert_eq!(committed + void, fenced.len());
        assert!(proxy.counts().faults > 0);
        assert!(told.succeeded.load(Relaxed) > 0 && told.replayed.load(Relaxed) > 0);
        assert_eq!(told.unknown.load(Relaxed), 0, "{told:?}");
    });
}

/// Sends copies of a request. Whether one of them has succeeded.
async fn repeat(app: &Router, request: i64, told: &Told) -> bool {
    let mut succeeded = false;
    for _ in 0..COPIES {
        let response = send(app, keyed(request, "a")).await;
        let repeats = told.record(&response);
        if !repeats {
            assert_created(&response, request);
            if succeeded {
                assert!(is_replayed(&response));
                return true;
            }
            succeeded = true;
        }
    }
    succeeded
}

/// Injects faults of all kinds, most of them at COMMIT, for ever.
///
/// The next one waits until the last one is over and some statements have passed: a slow server
/// meets as many of them as a fast one.
async fn disturb(proxy: &Proxy) {
    let faults = [
        Fault::CutBefore,
        Fault::CutSent,
        Fault::CutAfter,
        Fault::Terminate(ServerError::SHUTDOWN),
        Fault::Misreport(ServerError::fatal("57P02", "crash shutdown")),
    ];
    let moments = [
        Moment::Commit,
        Moment::Commit,
        Moment::Statement(1),
        Moment::Text("AS receipt (key"),
    ];
    let at = |items: usize| fastrand::usize(..items);
    loop {
        proxy.relent();
        proxy.inject(
            moments[at(moments.len())].clone(),
            faults[at(faults.len())].clone(),
        );
        let next = proxy.counts().statements + fastrand::usize(1..STATEMENTS_BETWEEN_FAULTS);
        while proxy.counts().statements < next {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if fastrand::u32(..20) == 0 {
            proxy.cut();
        }
    }
}

const STATEMENTS_BETWEEN_FAULTS: usize = 20;

/// Requests of different principals with different keys, on different rows. On PostgreSQL a look at
/// the key inside of the transaction locks a page of the index, on which they all meet.
#[test]
fn unrelated_requests_do_not_conflict_because_of_receipts() {
    test_with_pool(16, async |kit| {
        let interlock = prepare(&kit).await;
        let inside = async |Path(request): Path<i64>, mut tx: Tx| {
            let find = sqlx::query("SELECT status FROM interlock_receipts WHERE key = $1");
            find.bind(request.to_be_bytes()).execute(&mut tx).await?;
            add_effect(&mut tx, request).await?;
            Ok::<_, Error>(StatusCode::CREATED)
        };
        let layer = interlock.require(kit::anyone);
        let inside = Router::new().route("/effects/{request}", post(inside).route_layer(layer));
        let retried = retried(&idempotent(&interlock)).await;
        let retried_inside = self::retried(&inside).await;
        eprintln!("{retried} of 800 were retried, with a look inside {retried_inside}");
        assert!(retried <= 24, "{retried} of 800 were retried");
        if kit.database.kind() == Kind::PostgreSql {
            assert!(
                retried_inside > retried,
                "{retried_inside} of 800 were retried"
            );
        }
    });
}

/// How many of 800 requests were retried.
async fn retried(app: &Router) -> usize {
    let requests = (0..800).map(|request| {
        let user = request.to_string();
        send(app, keyed_of(&user, request, "a"))
    });
    let responses: Vec<_> = stream::iter(requests).buffer_unordered(16).collect().await;
    let retried = responses.iter().filter(|it| it.report().attempts() > 1);
    retried.count()
}
