//! A server that is silent, and clients that disconnect. No connection, no lock and no `drain`
//! waits for them forever.

use std::time::{Duration, Instant};

use axum::Router;
use futures::future::join_all;
use sqlx::Connection as _;
use support::{Fault, Kind, Moment};
use tokio::time::{sleep, timeout};
use tower_interlock::{Error, ErrorKind, Interlock, InterlockBuilder, Tx};

use super::{LONG, behind_a_proxy, fill, is_postgres, updating, write};
use crate::kit::{Event, Kit, anyone, can_edit, guarded, put, test, test_with_pool, traced};

const DEADLINE: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_millis(300);

/// A silent connection is closed within this time after deadline and grace.
const GIVEN_UP: Duration = Duration::from_secs(8);

/// A connection that was idle for so long is pinged before it is used.
const IDLE: Duration = Duration::from_millis(1100);

/// The statement of a client that has disconnected is stopped within this time.
const STOPPED: Duration = Duration::from_secs(4);

fn in_a_hurry(kit: &Kit) -> Interlock {
    hasty(kit.builder())
}

fn hasty(builder: InterlockBuilder) -> Interlock {
    builder.deadline(DEADLINE).grace(GRACE).build()
}

/// Sends requests until one succeeds.
async fn assert_recovers(app: &Router) {
    let asked = Instant::now();
    let mut last;
    loop {
        last = put(app, "/1", "").await;
        if last.status == 200 || asked.elapsed() > GIVEN_UP {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(last.status, 200, "still after {:?}", asked.elapsed());
}

async fn assert_drains(interlock: &Interlock) {
    let drained = timeout(GIVEN_UP, interlock.drain()).await;
    drained.expect("drain does not end");
}

#[test]
fn unacknowledged_commits_give_their_connections_up() {
    unacknowledged_commits(|builder| builder);
}

#[test]
fn unacknowledged_commits_give_their_connections_up_with_handoff() {
    unacknowledged_commits(|builder| builder.handoff(true));
}

fn unacknowledged_commits(set_up: fn(InterlockBuilder) -> InterlockBuilder) {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 2);
        let interlock = hasty(set_up(kit.builder()));
        let app = updating(&interlock);
        proxy.inject_times(2, Moment::Commit, Fault::Swallow);
        for response in join_all([(), ()].map(|()| put(&app, "/1", ""))).await {
            response.assert_problem(ErrorKind::OutcomeUnknown);
        }
        assert_recovers(&app).await;
        assert_drains(&interlock).await;
        kit.assert_nothing_leaked().await;
    });
}

#[test]
fn unacknowledged_commit_does_not_hold_drain_up() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 2);
        let interlock = in_a_hurry(&kit);
        proxy.inject(Moment::Commit, Fault::Swallow);
        let ((), log) = traced(async {
            let response = put(&updating(&interlock), "/1", "").await;
            response.assert_problem(ErrorKind::OutcomeUnknown);
            assert_drains(&interlock).await;
        })
        .await;
        let outcome = |event: &Event| event.fields.get("outcome").cloned();
        let outcomes: Vec<_> = log.events.iter().filter_map(outcome).collect();
        assert_eq!(outcomes, ["unknown"], "{log:?}");
    });
}

#[test]
fn unacknowledged_conditional_writes_give_their_connections_up() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 2);
        let interlock = in_a_hurry(&kit);
        proxy.inject_times(2, Moment::Text("UPDATE documents"), Fault::Swallow);
        for written in join_all([(), ()].map(|()| write(&interlock))).await {
            assert_eq!(written.unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        }
        assert_recovers(&updating(&interlock)).await;
        assert_drains(&interlock).await;
        kit.assert_nothing_leaked().await;
    });
}

#[test]
fn unacknowledged_rollbacks_give_their_connections_up() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 2);
        let interlock = in_a_hurry(&kit);
        proxy.inject_times(2, Moment::Rollback, Fault::Swallow);
        let app = guarded(interlock.require(can_edit), super::update);
        for response in join_all([(), ()].map(|()| put(&app, "/2", ""))).await {
            assert_eq!(response.status, 403);
        }
        assert_recovers(&app).await;
        assert_drains(&interlock).await;
        kit.assert_nothing_leaked().await;
    });
}

/// sqlx pings a connection when it is returned to the pool, and waits for the response without a
/// limit.
#[test]
fn silence_on_the_way_into_the_pool_gives_the_connections_up() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 2);
        let interlock = in_a_hurry(&kit);
        let app = updating(&interlock);
        proxy.inject_times(2, Moment::Ping, Fault::Stall);
        for response in join_all([(), ()].map(|()| put(&app, "/1", ""))).await {
            assert!([200, 503].contains(&response.status.as_u16()));
        }
        assert_recovers(&app).await;
        kit.assert_nothing_leaked().await;
    });
}

/// The pool gives up after five seconds, and has no other connection.
#[test]
fn silent_connection_on_the_way_into_the_pool_does_not_use_up_the_time_of_the_next_request() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 1);
        let app = updating(&kit.interlock);
        proxy.inject(Moment::Ping, Fault::Stall);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        let asked = Instant::now();
        assert_eq!(put(&app, "/1", "").await.status, 200);
        assert!(asked.elapsed() < Duration::from_secs(4));
        kit.assert_nothing_leaked().await;
    });
}

/// A firewall drops the packets of the connections, so neither a response nor an end comes.
#[test]
fn silent_pooled_connections_do_not_use_up_the_deadline() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 4);
        fill(&kit.pool).await;
        proxy.inject_times(4, Moment::Begin, Fault::Stall);
        let interlock = kit.builder().deadline(Duration::from_secs(7)).build();
        let app = updating(&interlock);
        let asked = Instant::now();
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200, "after {:?}", asked.elapsed());
        proxy.relent();
        assert_recovers(&app).await;
        assert_drains(&interlock).await;
        kit.assert_nothing_leaked().await;
    });
}

/// The server has ended the connections while they were idle. A conditional write on one of them
/// could not be repeated.
#[test]
fn dead_idle_connections_fail_no_conditional_write() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 2);
        let interlock = in_a_hurry(&kit);
        fill(&kit.pool).await;
        proxy.cut();
        sleep(IDLE).await;
        for expected in 1..=3 {
            assert_eq!(write(&interlock).await.unwrap(), expected);
        }
        kit.assert_nothing_leaked().await;
    });
}

#[test]
fn silent_idle_connections_fail_no_conditional_write() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 2);
        let interlock = kit.builder().deadline(Duration::from_secs(4)).build();
        fill(&kit.pool).await;
        sleep(IDLE).await;
        proxy.inject_times(2, Moment::Ping, Fault::Stall);
        for expected in 1..=2 {
            assert_eq!(write(&interlock).await.unwrap(), expected);
        }
        proxy.relent();
        kit.assert_nothing_leaked().await;
    });
}

/// Writes document 1, and runs a long statement.
async fn busy(mut tx: Tx) -> Result<(), Error> {
    sqlx::query("UPDATE documents SET body = 'busy' WHERE id = 1")
        .execute(&mut tx)
        .await?;
    sqlx::query("SELECT pg_sleep(20)").execute(&mut tx).await?;
    Ok(())
}

/// Asserts that the server soon runs no statement of another session. CockroachDB does not show it.
async fn assert_stopped(kit: &Kit) {
    if kit.database.kind() == Kind::CockroachDb {
        return;
    }
    let asked = Instant::now();
    loop {
        let running: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
             AND state = 'active' AND pid <> pg_backend_pid()",
        )
        .fetch_one(&kit.outside)
        .await
        .unwrap();
        if running == 0 {
            return;
        }
        assert!(asked.elapsed() < STOPPED, "{running} statements still run");
        sleep(Duration::from_millis(100)).await;
    }
}

/// PostgreSQL 13 has no `client_connection_check_interval`. Its statements continue until they time
/// out.
async fn notices_disconnects(kit: &Kit) -> bool {
    let notices = kit.database.kind() == Kind::CockroachDb || is_postgres(kit, 14).await;
    if !notices {
        println!("skipped: the server does not check whether its client is connected");
    }
    notices
}

/// Asserts that another client can soon write document 1.
async fn assert_unlocked(kit: &Kit) {
    let interlock = kit.builder().deadline(STOPPED).build();
    let response = put(&updating(&interlock), "/1", "").await;
    assert_eq!(response.status, 200, "document 1 is still locked");
    assert_eq!(kit.body(1).await, "new");
}

#[test]
fn disconnected_client_leaves_no_lock_and_no_statement() {
    test(async |kit| {
        if !notices_disconnects(&kit).await {
            return;
        }
        let app = guarded(kit.interlock.require(anyone), busy);
        let request = timeout(Duration::from_millis(400), put(&app, "/1", ""));
        assert!(request.await.is_err());
        assert_unlocked(&kit).await;
        assert_stopped(&kit).await;
    });
}

#[test]
fn request_past_its_deadline_leaves_no_lock_and_no_statement() {
    test(async |kit| {
        if !notices_disconnects(&kit).await {
            return;
        }
        let interlock = kit.builder().deadline(Duration::from_millis(400)).build();
        let app = guarded(interlock.require(anyone), busy);
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert_unlocked(&kit).await;
        assert_stopped(&kit).await;
    });
}

/// The statement would get the lock later, and hold it.
#[test]
fn disconnected_client_does_not_wait_for_a_lock() {
    test(async |kit| {
        if !is_postgres(&kit, 14).await {
            println!("skipped: only PostgreSQL from 14 on checks whether its client is connected");
            return;
        }
        let mut holder = sqlx::PgConnection::connect_with(&kit.database.options())
            .await
            .unwrap();
        let mut held = holder.begin().await.unwrap();
        sqlx::query("UPDATE documents SET body = 'held' WHERE id = 1")
            .execute(&mut *held)
            .await
            .unwrap();
        let app = updating(&kit.interlock);
        let request = timeout(Duration::from_millis(400), put(&app, "/1", ""));
        assert!(request.await.is_err());
        assert_stopped(&kit).await;
        held.rollback().await.unwrap();
    });
}

/// The server has few more sessions than the pool has connections, however many clients disconnect.
#[test]
fn disconnected_clients_do_not_pile_sessions_up() {
    test_with_pool(2, async |kit: Kit| {
        if !is_postgres(&kit, 14).await {
            println!("skipped: only PostgreSQL from 14 on checks whether its client is connected");
            return;
        }
        let app = guarded(kit.interlock.require(anyone), async |mut tx: Tx| {
            sqlx::query("SELECT pg_sleep(20)").execute(&mut tx).await?;
            Ok::<_, Error>(())
        });
        let asked = Instant::now();
        let mut most = 0;
        while asked.elapsed() < LONG {
            let request = || timeout(Duration::from_millis(300), put(&app, "/1", ""));
            join_all([request(), request()]).await;
            let asleep: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND query LIKE 'SELECT pg_sleep%'",
            )
            .fetch_one(&kit.outside)
            .await
            .unwrap();
            most = most.max(asleep);
        }
        // The sessions that the server is about to stop, and those that replace them.
        assert!(most <= 2 * 5, "{most} sessions for a pool of 2");
        assert_stopped(&kit).await;
    });
}
