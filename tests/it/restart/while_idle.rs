//! The server is restarted while no request is running.

use std::time::Duration;

use futures::future::join_all;
use sqlx::{PgPool, postgres::PgPoolOptions};
use support::Shutdown;
use tokio::time::sleep;
use tower_interlock::Interlock;

use super::{
    Said, put, restart, stored, test,
    ways::{self, Hooks},
};

const REQUESTS: usize = 15;

/// Opens all connections of a pool and returns them to it.
async fn fill(pool: &PgPool) {
    let size = pool.options().get_max_connections();
    let all = join_all((0..size).map(|_| pool.acquire())).await;
    drop(all.into_iter().collect::<Result<Vec<_>, _>>().unwrap());
    while pool.num_idle() < size as usize {
        sleep(Duration::from_millis(1)).await;
    }
}

/// A conditional write cannot tell a dead connection from one that is lost during the write, so it
/// reports an unknown outcome. If the server has sent its reason before the end of the connection,
/// the write is retried once, and meets the next dead connection. A pool that tests its connections
/// avoids that.
#[test]
fn restart_while_idle_fails_no_request_of_the_layer() {
    test(async |server, kit| {
        for (round, shutdown) in (0..).zip([Shutdown::Fast, Shutdown::Immediate]) {
            let pool = |options: PgPoolOptions| options.connect_lazy_with(kit.database.options());
            let without_test = || {
                pool(Interlock::pool_options().before_acquire(|_, _| Box::pin(async { Ok(true) })))
            };
            let recommended = pool(Interlock::pool_options());
            let untested = without_test();
            let tested = pool(Interlock::pool_options().test_before_acquire(true));
            let by_hand = without_test();
            let hooks = Hooks::default();
            let ways = [
                (ways::layer(&kit.interlock, &hooks), None),
                (
                    ways::conditional(&Interlock::new(untested.clone())),
                    Some(match shutdown {
                        Shutdown::Fast => (Said::Unavailable, 2),
                        Shutdown::Immediate => (Said::Unknown, 1),
                    }),
                ),
                (ways::conditional(&Interlock::new(tested.clone())), None),
                (
                    ways::conditional(&Interlock::new(recommended.clone())),
                    None,
                ),
                (ways::by_hand(by_hand.clone()), Some((Said::Error, 1))),
            ];
            for (app, _) in &ways {
                assert_eq!(Said::by(&put(app, 1, -1).await), Said::Stored);
            }
            join_all([&kit.pool, &untested, &tested, &recommended, &by_hand].map(fill)).await;
            let dead = untested.num_idle();
            restart(server, shutdown).await;
            // The recommended pool tests what was idle for a second.
            sleep(Duration::from_millis(1100)).await;

            for ((app, failure), first) in ways.iter().zip((round * 100..).step_by(20)) {
                let mut said = Vec::new();
                for request in (first..).take(REQUESTS) {
                    said.push(Said::by(&put(app, 1, request).await));
                }
                // How many dead connections a request meets.
                let (failure, met) = failure.unwrap_or((Said::Stored, 1));
                let mut expected = vec![failure; dead / met];
                expected.resize(REQUESTS, Said::Stored);
                assert_eq!(said, expected);
                let stored = stored(kit).await;
                for (request, said) in (first..).zip(said) {
                    assert_eq!(stored.contains_key(&request), said == Said::Stored);
                }
            }
        }
    });
}
