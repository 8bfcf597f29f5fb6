//! The server is restarted several times under load.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use axum::Router;
use futures::future::{join, join_all};
use support::Shutdown;
use tokio::time::{sleep, timeout};
use tower_interlock::{Interlock, Receipts, Report, schema};

use crate::kit;

use super::{
    Said, put, restart, stored, test,
    ways::{self, Hooks},
};

const CLIENTS: usize = 12;
const SHUTDOWNS: [Shutdown; 6] = [
    Shutdown::Fast,
    Shutdown::Immediate,
    Shutdown::Immediate,
    Shutdown::Fast,
    Shutdown::Fast,
    Shutdown::Immediate,
];
/// The number of 200 responses of each service between two shutdowns.
const BETWEEN: usize = 100;
/// The time until the first 200 response after the server accepts connections.
const BACK: Duration = Duration::from_secs(10);

/// One service under load, and the number of its 200 responses.
struct Load {
    app: Router,
    successes: AtomicUsize,
}

struct Sent {
    request: i64,
    granted: bool,
    said: Said,
    attempts: u32,
}

impl Load {
    fn new(app: Router) -> Self {
        let successes = AtomicUsize::new(0);
        Self { app, successes }
    }

    async fn clients(&self, requests: &AtomicI64, stop: &AtomicBool) -> Vec<Sent> {
        let sent = (0..CLIENTS).map(|_| self.client(requests, stop));
        join_all(sent).await.into_iter().flatten().collect()
    }

    /// Sends requests in sequence, a quarter of them without the grant.
    async fn client(&self, requests: &AtomicI64, stop: &AtomicBool) -> Vec<Sent> {
        let mut all = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let request = requests.fetch_add(1, Ordering::Relaxed);
            let granted = fastrand::u8(..4) > 0;
            let response = put(&self.app, if granted { 1 } else { 2 }, request).await;
            let report = response.try_report();
            let sent = Sent {
                request,
                granted,
                said: Said::by(&response),
                attempts: report.map_or(1, Report::attempts),
            };
            if sent.said == Said::Stored {
                self.successes.fetch_add(1, Ordering::Relaxed);
            }
            all.push(sent);
        }
        all
    }

    /// Waits for `times` more 200 responses.
    async fn succeeds(&self, times: usize) {
        let enough = self.successes.load(Ordering::Relaxed) + times;
        while self.successes.load(Ordering::Relaxed) < enough {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The results of the requests to one service.
#[derive(Debug, Default)]
struct Figures {
    stored: usize,
    /// The stored requests that were retried.
    retried: usize,
    denied: usize,
    unavailable: usize,
    unknown: usize,
    unknown_but_stored: usize,
    errors: usize,
}

impl Figures {
    fn of(sent: &[Sent], stored: &BTreeMap<i64, i64>) -> Self {
        let mut figures = Self::default();
        for sent in sent {
            let times = stored.get(&sent.request).copied().unwrap_or_default();
            assert!(times < 2, "stored twice");
            assert!(sent.granted || times == 0, "stored without the grant");
            match sent.said {
                Said::Stored => {
                    assert_eq!(times, 1, "a write is lost");
                    figures.stored += 1;
                    figures.retried += usize::from(sent.attempts > 1);
                }
                Said::Denied => {
                    assert!(!sent.granted, "denied with the grant");
                    figures.denied += 1;
                }
                Said::Unavailable => {
                    assert_eq!(times, 0, "stored, but reported as not stored");
                    figures.unavailable += 1;
                }
                Said::Unknown => {
                    figures.unknown += 1;
                    figures.unknown_but_stored += usize::from(times == 1);
                }
                Said::Error => figures.errors += 1,
            }
        }
        figures
    }
}

#[test]
fn restarts_under_load_lose_no_write_and_leak_no_connection() {
    test(async |server, kit| {
        let durable = sqlx::query_scalar("SELECT current_setting('synchronous_commit')");
        let durable: String = durable.fetch_one(&kit.outside).await.unwrap();
        assert_eq!(durable, "on");
        let hooks = Hooks::default();
        let interlock = kit.builder().handoff(true).build();
        let layer = Load::new(ways::layer(&interlock, &hooks));
        let conditional = Load::new(ways::conditional(&interlock));
        // On a pool of its own, as another process.
        kit.database.run(schema::RECEIPTS).await;
        let receipt_hooks = Hooks::default();
        let receipts = Interlock::builder(kit::pool(&kit.database, 10));
        let receipts = receipts.receipts(Receipts::new()).build();
        let decided = Load::new(ways::layer(&receipts, &receipt_hooks));
        let by_hand = Load::new(ways::by_hand(kit.database.pool(10).await));

        let (requests, stop) = (AtomicI64::new(0), AtomicBool::new(false));
        let ours = async |times| {
            let others = join(conditional.succeeds(times), decided.succeeds(times));
            join(layer.succeeds(times), others).await;
        };
        let operator = async {
            for shutdown in SHUTDOWNS {
                tokio::join!(ours(BETWEEN), by_hand.succeeds(BETWEEN));
                restart(server, shutdown).await;
                let up = Instant::now();
                let back = timeout(BACK, ours(1)).await;
                back.expect("the service is not back");
                println!("{shutdown:?}: back after {:?}", up.elapsed());
            }
            tokio::join!(ours(BETWEEN), by_hand.succeeds(BETWEEN));
            stop.store(true, Ordering::Relaxed);
        };
        let (of_layer, of_conditional, of_decided, of_hand, ()) = tokio::join!(
            layer.clients(&requests, &stop),
            conditional.clients(&requests, &stop),
            decided.clients(&requests, &stop),
            by_hand.clients(&requests, &stop),
            operator
        );
        interlock.drain().await;
        receipts.drain().await;

        let stored = stored(kit).await;
        let layer = Figures::of(&of_layer, &stored);
        let conditional = Figures::of(&of_conditional, &stored);
        let decided = Figures::of(&of_decided, &stored);
        let by_hand = Figures::of(&of_hand, &stored);
        println!("layer: {layer:?}");
        println!("layer with receipts: {decided:?}");
        println!("conditional write: {conditional:?}");
        println!("by hand: {by_hand:?}");
        assert_eq!(layer.errors + conditional.errors + decided.errors, 0);
        assert_eq!(decided.unknown, 0, "a receipt could not decide");
        assert!(layer.retried > 0, "no request was retried");
        assert!(layer.unknown + layer.unavailable < by_hand.errors);

        assert_hooks(&hooks, &of_layer);
        assert_hooks(&receipt_hooks, &of_decided);
    });
}

/// Hooks belong to acknowledged writes.
#[track_caller]
fn assert_hooks(hooks: &Hooks, sent: &[Sent]) {
    let mut hooks = hooks.lock().unwrap().clone();
    hooks.sort_unstable();
    let acknowledged = sent.iter().filter(|sent| sent.said == Said::Stored);
    let mut acknowledged: Vec<_> = acknowledged.map(|sent| sent.request).collect();
    acknowledged.sort_unstable();
    assert_eq!(hooks, acknowledged);
}
