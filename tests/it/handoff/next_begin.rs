//! The BEGIN of a request that waits travels with the COMMIT or the ROLLBACK of the one before it.

use std::{cell::Cell, time::Duration};

use axum::{Router, extract::Path, http::StatusCode, routing::put};
use futures::future::join_all;
use support::{Database, Fault, Moment, Proxy, ServerError};
use tokio::time::{sleep, timeout};
use tower_interlock::{Denied, Error, ErrorKind, Interlock, Tx};

use super::{WAITING, app, behind_a_proxy};
use crate::kit::{self, DEFERRED, Kit, anyone, note, test};

/// `PUT /{id}` adds a note.
fn notes(interlock: &Interlock) -> Router {
    let add = async |Path(id): Path<i64>, mut tx: Tx| {
        note(&mut tx, id).await?;
        Ok::<_, Error>(())
    };
    Router::new().route("/{id}", put(add).route_layer(interlock.require(anyone)))
}

fn on_one_connection(database: &Database) -> (Proxy, Interlock) {
    let (proxy, pool) = behind_a_proxy(database);
    let builder = Interlock::builder(pool).handoff(true);
    let interlock = builder
        .deadline(Duration::from_secs(3))
        .grace(Duration::from_millis(600))
        .build();
    (proxy, interlock)
}

/// The round trips of many requests that wait for one connection. On a busy machine the connection
/// now and then takes the way through the pool, so the best of several tries counts.
async fn fewest_round_trips(app: &Router, proxy: &Proxy, path: &str, status: StatusCode) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..10 {
        let before = proxy.counts().round_trips;
        for response in join_all((0..WAITING).map(|_| kit::put(app, path, ""))).await {
            assert_eq!(response.status, status);
        }
        fewest = fewest.min(proxy.counts().round_trips - before);
    }
    fewest
}

#[test]
fn waiting_requests_take_three_round_trips() {
    test(async |kit: Kit| {
        let (proxy, interlock) = on_one_connection(&kit.database);
        let app = app(&interlock);
        // The first runs of a policy take one more, and statements are prepared.
        for _ in 0..10 {
            assert_eq!(kit::put(&app, "/1", "").await.status, StatusCode::OK);
        }
        let begins = proxy.counts().begins;
        let trips = fewest_round_trips(&app, &proxy, "/1", StatusCode::OK).await;
        assert!((3 * WAITING..3 * WAITING + 12).contains(&trips), "{trips}");
        assert_eq!((proxy.counts().begins - begins) % WAITING, 0);
    });
}

/// The time of its transaction is not before that of its request, also if another request was
/// waiting when BEGIN was sent, and has left.
#[test]
fn no_begin_is_sent_before_its_request_has_come() {
    test(async |kit: Kit| {
        let proxy = Proxy::with_delay(&kit.database, Duration::from_millis(40));
        let options = Interlock::pool_options().max_connections(1);
        let pool = options.connect_lazy_with(proxy.options());
        let interlock = Interlock::builder(pool).handoff(true).build();
        let clock = async |mut tx: Tx| {
            let now = sqlx::query_scalar::<_, f64>("SELECT extract(epoch FROM now())::FLOAT8");
            Ok::<_, Error>(now.fetch_one(&mut tx).await?.to_string())
        };
        let clock = put(clock).route_layer(interlock.require(anyone));
        let app = notes(&interlock).route("/clock", clock);
        let mut in_between = 0;
        for number in 1..=20 {
            in_between += usize::from(come_behind(&kit, &app, &proxy, number).await);
        }
        assert!(
            in_between > 0,
            "no request has come between BEGIN and its reply"
        );
    });
}

/// Sends a request, one that waits and leaves when BEGIN is sent for it, and one that comes then.
/// Returns whether it has come before the reply to that BEGIN.
async fn come_behind(kit: &Kit, app: &Router, proxy: &Proxy, number: i64) -> bool {
    let path = format!("/{number}");
    let begins = proxy.counts().begins + 2;
    let is_over = Cell::new(false);
    let first = async {
        let response = kit::put(app, &path, "").await;
        is_over.set(true);
        response
    };
    let third = async {
        let begun = async {
            while proxy.counts().begins < begins {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = kit::put(app, "/0", "") => {}
            () = begun => {}
        }
        // The server has COMMIT and BEGIN by now, and its reply is on the way.
        sleep(Duration::from_millis(25)).await;
        let clock = "SELECT extract(epoch FROM clock_timestamp())::FLOAT8";
        let come: f64 = sqlx::query_scalar(clock)
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        (come, is_over.get(), kit::put(app, "/clock", "").await)
    };
    let (first, (come, was_over, third)) = tokio::join!(first, third);
    assert_eq!(first.status, StatusCode::OK);
    let now: f64 = third.body.parse().unwrap();
    let early = come - now;
    assert!(
        early <= 0.0,
        "BEGIN was sent {early} s before its request came"
    );
    !was_over
}

#[test]
fn begin_has_the_access_of_its_request() {
    test(async |kit: Kit| {
        let (_proxy, interlock) = on_one_connection(&kit.database);
        let access = async |mut tx: Tx| {
            let query = sqlx::query_scalar::<_, String>("SHOW transaction_read_only");
            Ok::<_, Error>(query.fetch_one(&mut tx).await?)
        };
        let reading = interlock.require(anyone).read_only();
        let app = Router::new()
            .route("/write", put(access).route_layer(interlock.require(anyone)))
            .route("/read", put(access).route_layer(reading));
        let paths = (0..WAITING).map(|n| if n % 3 == 0 { "/read" } else { "/write" });
        let requests = paths.map(async |path| (path, kit::put(&app, path, "").await));
        for (path, response) in join_all(requests).await {
            let expected = if path == "/read" { "on" } else { "off" };
            assert_eq!(response.body, expected, "{path}");
        }
    });
}

/// What becomes of three requests on one connection, of which the second one waits for the COMMIT
/// of the first one. Each is answered, and each answer is right.
async fn assert_right(kit: &Kit, moment: Moment, fault: Fault, from: i64) -> Vec<StatusCode> {
    let (proxy, interlock) = on_one_connection(&kit.database);
    let app = notes(&interlock);
    assert_eq!(
        kit::put(&app, &format!("/{from}"), "").await.status,
        StatusCode::OK
    );
    sleep(Duration::from_millis(20)).await;
    proxy.inject(moment.clone(), fault.clone());
    let requests = (1..=3).map(async |n| {
        let id = from + n;
        (id, kit::put(&app, &format!("/{id}"), "").await)
    });
    let case = format!("{fault:?} at {moment:?}");
    let responses = timeout(Duration::from_secs(8), join_all(requests)).await;
    let responses = responses.unwrap_or_else(|_| panic!("{case}: no response"));
    // On a busy machine the connection may take the way through the pool.
    assert!(proxy.counts().faults <= 1, "{case}");
    drop(proxy);
    interlock.drain().await;
    let notes = kit.notes().await;
    for (id, response) in &responses {
        let stored = notes.contains(id);
        match response.status {
            StatusCode::OK => assert!(stored, "{case}: {id} is lost"),
            _ if response.error().map(Error::kind) == Some(ErrorKind::OutcomeUnknown) => {}
            status => assert!(
                !stored,
                "{case}: {id} is stored, but the answer is {status}"
            ),
        }
    }
    responses
        .into_iter()
        .map(|(_, response)| response.status)
        .collect()
}

fn faults() -> Vec<Fault> {
    let error = |code| ServerError::error(code, "a fault");
    let fatal = |code| ServerError::fatal(code, "a fault");
    vec![
        Fault::Delay(Duration::from_millis(20)),
        Fault::CutBefore,
        Fault::CutSent,
        Fault::CutAfter,
        Fault::Stall,
        Fault::Swallow,
        Fault::Reject(ServerError::RESTART),
        Fault::Reject(error("25006")),
        Fault::Reject(error("57014")),
        Fault::Reject(error("XX000")),
        Fault::Terminate(fatal("57P01")),
        Fault::Terminate(fatal("25P03")),
    ]
}

/// The BEGIN is of no concern to the request whose COMMIT was acknowledged, and the one that waits
/// takes another connection.
#[test]
fn begin_that_fails_behind_a_commit_fails_no_request() {
    test(async |kit: Kit| {
        for (fault, case) in faults().into_iter().zip(1..) {
            let name = format!("{fault:?}");
            let statuses = assert_right(&kit, Moment::NextBegin, fault, case * 10).await;
            assert_eq!(statuses, [StatusCode::OK; 3], "{name}");
        }
    });
}

#[test]
fn commit_that_fails_is_answered_as_without_a_begin_behind_it() {
    test(async |kit: Kit| {
        for (fault, case) in faults().into_iter().zip(1..) {
            let name = format!("{fault:?}");
            let statuses = assert_right(&kit, Moment::Commit, fault.clone(), case * 10).await;
            let accepted = statuses.iter().filter(|status| **status == StatusCode::OK);
            // Those that wait for the connection wait as long as it is silent.
            let is_silent = matches!(fault, Fault::Stall | Fault::Swallow);
            assert!(is_silent || accepted.count() >= 2, "{name}: {statuses:?}");
            if fault == Fault::Reject(ServerError::RESTART) {
                assert_eq!(statuses, [StatusCode::OK; 3], "{name}");
            }
        }
    });
}

/// A COMMIT that the server itself refuses: the BEGIN behind it is skipped.
#[test]
fn refused_commit_leaves_its_connection_outside_of_a_transaction() {
    test(async |kit: Kit| {
        if kit.database.kind() == support::Kind::CockroachDb {
            return; // It has no deferred constraints.
        }
        kit.database.run(DEFERRED).await;
        kit.database
            .run("INSERT INTO documents VALUES (3, ''), (4, '')")
            .await;
        let (proxy, interlock) = on_one_connection(&kit.database);
        let app = notes(&interlock);
        assert_eq!(kit::put(&app, "/2", "").await.status, StatusCode::OK);
        let paths = ["/1", "/3", "/1", "/4"];
        let responses = join_all(paths.map(|path| kit::put(&app, path, ""))).await;
        let accepted = responses
            .iter()
            .map(|response| response.status == StatusCode::OK);
        assert_eq!(accepted.collect::<Vec<_>>(), [false, true, false, true]);
        assert_eq!(kit.notes().await, [2, 3, 4]);
        assert_eq!(proxy.counts().connections, 1);
    });
}

/// `PUT /denied` is denied after its policy has locked the grants.
fn denying(interlock: &Interlock) -> Router {
    let deny = async |mut tx: Tx| {
        let lock = sqlx::query("SELECT user_id FROM grants FOR UPDATE");
        lock.execute(&mut tx).await?;
        Err::<(), _>(Error::from(Denied::new("never")))
    };
    let denied = put(kit::never).route_layer(interlock.require(deny));
    Router::new().route("/denied", denied)
}

#[test]
fn rollback_of_a_denied_request_travels_with_the_next_begin() {
    test(async |kit: Kit| {
        let (proxy, interlock) = on_one_connection(&kit.database);
        let app = notes(&interlock).merge(denying(&interlock));
        for _ in 0..10 {
            assert_eq!(
                kit::put(&app, "/denied", "").await.status,
                StatusCode::FORBIDDEN
            );
        }
        sleep(Duration::from_millis(50)).await;
        let before = proxy.counts();
        let trips = fewest_round_trips(&app, &proxy, "/denied", StatusCode::FORBIDDEN).await;
        assert!((2 * WAITING..2 * WAITING + 12).contains(&trips), "{trips}");
        sleep(Duration::from_millis(50)).await;
        let after = proxy.counts();
        assert_eq!(
            after.rollbacks - before.rollbacks,
            after.begins - before.begins
        );
    });
}

/// Also where nothing is handed on: the ROLLBACK travels with the ping of the pool.
#[test]
fn denied_request_releases_its_locks_at_once() {
    test(async |kit: Kit| {
        for handoff in [false, true] {
            let interlock = kit.builder().handoff(handoff).build();
            let app = notes(&interlock).merge(denying(&interlock));
            for _ in 0..20 {
                assert_eq!(
                    kit::put(&app, "/denied", "").await.status,
                    StatusCode::FORBIDDEN
                );
                let lock = sqlx::query("UPDATE grants SET user_id = user_id");
                let locked = timeout(Duration::from_secs(2), lock.execute(&kit.outside)).await;
                locked.expect("a lock is left").unwrap();
            }
        }
    });
}

#[test]
fn rollback_that_fails_fails_no_request() {
    test(async |kit: Kit| {
        for (fault, case) in faults().into_iter().zip(1..) {
            let name = format!("{fault:?}");
            let (proxy, interlock) = on_one_connection(&kit.database);
            let app = notes(&interlock).merge(denying(&interlock));
            assert_eq!(
                kit::put(&app, "/denied", "").await.status,
                StatusCode::FORBIDDEN
            );
            sleep(Duration::from_millis(20)).await;
            proxy.inject(Moment::Rollback, fault);
            let path = format!("/{case}");
            let requests = ["/denied", &path].map(|path| kit::put(&app, path, ""));
            let responses = timeout(Duration::from_secs(8), join_all(requests)).await;
            let responses = responses.unwrap_or_else(|_| panic!("{name}: no response"));
            let statuses: Vec<_> = responses.iter().map(|response| response.status).collect();
            assert_eq!(statuses, [StatusCode::FORBIDDEN, StatusCode::OK], "{name}");
            assert!(proxy.counts().faults <= 1, "{name}");
            drop(proxy);
            interlock.drain().await;
        }
        let expected: Vec<i64> = (1..=faults().len() as i64).collect();
        assert_eq!(kit.notes().await, expected);
    });
}

/// A conditional write gets a connection whose last transaction is rolled back.
#[test]
fn conditional_write_after_a_denial_is_outside_of_its_transaction() {
    test(async |kit: Kit| {
        let (proxy, interlock) = on_one_connection(&kit.database);
        let app = app(&interlock).merge(denying(&interlock));
        for _ in 0..5 {
            let requests = ["/denied", "/conditional/1"].map(|path| kit::put(&app, path, ""));
            let statuses = join_all(requests).await.into_iter().map(|it| it.status);
            assert_eq!(
                statuses.collect::<Vec<_>>(),
                [StatusCode::FORBIDDEN, StatusCode::OK]
            );
            assert_eq!(kit.body(1).await, "new");
            kit.database.run("UPDATE documents SET body = 'old'").await;
        }
        assert_eq!(proxy.counts().connections, 1);
    });
}
