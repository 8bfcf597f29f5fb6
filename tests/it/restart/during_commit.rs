//! The server is restarted while COMMITs wait for their acknowledgement.

use std::time::Duration;

use futures::future::join_all;
use sqlx::{Connection as _, Executor as _, PgConnection};
use support::Shutdown;
use tokio::time::{sleep, timeout};
use tower_interlock::Outcome;

use super::{
    Said, put, restart, sessions, stored, test,
    ways::{self, Hooks},
};
use crate::kit::Kit;

const EACH: i64 = 3;

/// Lets every COMMIT wait for a standby that does not exist, after it has stored the rows.
async fn hold_commits(kit: &Kit) {
    let hold = "ALTER SYSTEM SET synchronous_standby_names = 'missing'";
    kit.outside.execute(hold).await.unwrap();
    reload(kit).await;
    let mut probe = PgConnection::connect_with(&kit.database.options())
        .await
        .unwrap();
    let write = "INSERT INTO grants SELECT max(user_id) + 1 FROM grants";
    while timeout(Duration::from_millis(100), probe.execute(write))
        .await
        .is_ok()
    {}
    probe.close_hard().await.unwrap();
}

async fn let_commits_go(kit: &Kit) {
    let go = "ALTER SYSTEM RESET synchronous_standby_names";
    kit.outside.execute(go).await.unwrap();
    reload(kit).await;
}

async fn reload(kit: &Kit) {
    kit.outside
        .execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
}

#[test]
fn restart_during_commit_is_outcome_unknown_and_stored_once() {
    test(async |server, kit| {
        for (round, shutdown) in (0..).zip([Shutdown::Fast, Shutdown::Immediate]) {
            let hooks = Hooks::default();
            let apps = [
                ways::layer(&kit.interlock, &hooks),
                ways::conditional(&kit.interlock),
                ways::by_hand(kit.database.pool(4).await),
                ways::by_hand_with_retry(kit.database.pool(4).await),
            ];
            hold_commits(kit).await;
            let first = round * 100;
            let requests = apps.iter().zip(0..).flat_map(|(app, way)| {
                let number = first + way * EACH;
                (number..number + EACH).map(move |request| put(app, 1, request))
            });
            let operator = async {
                let all = 1 + EACH * apps.len() as i64;
                while sessions(kit, "wait_event = 'SyncRep'").await < all {
                    sleep(Duration::from_millis(5)).await;
                }
                restart(server, shutdown).await;
                let_commits_go(kit).await;
            };
            let (responses, ()) = tokio::join!(join_all(requests), operator);

            let stored = stored(kit).await;
            let expected = [
                (Said::Unknown, 1),
                (Said::Unknown, 1),
                (Said::Error, 1),
                (Said::Stored, 2),
            ];
            for ((response, request), way) in responses.iter().zip(first..).zip(0..) {
                let seen = (Said::by(response), stored[&request]);
                assert_eq!(seen, expected[way / EACH as usize], "{shutdown:?}, {way}");
            }
            let layer = &responses[0];
            assert_eq!(layer.outcome(), Outcome::Unknown);
            assert_eq!(layer.report().attempts(), 1);
            assert!(hooks.lock().unwrap().is_empty());
        }
    });
}
