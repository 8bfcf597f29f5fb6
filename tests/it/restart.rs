//! The database server is shut down and comes back: under load, in the middle of COMMIT, and while
//! nothing goes on. Beside ours stands a transaction written by hand.

mod ways;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body, http::Request};
use futures::future::join_all;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool, postgres::PgPoolOptions};
use support::{Server, Shutdown};
use tokio::{
    runtime,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Report};

use self::ways::Hooks;
use crate::kit::{Answer, Kit, send};

/// Runs a test on a server of its own that can be restarted, with the default pool.
fn test(body: impl AsyncFnOnce(&Arc<Server>, &Kit)) {
    let server = Arc::new(Server::start().unwrap());
    match server.restart(Shutdown::Fast) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
            return println!("skipped: cannot restart {server}");
        }
        restarted => restarted.unwrap(),
    }
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let database = server.create_database("restart").await.unwrap();
        database.run(ways::SCHEMA).await;
        let outside = database.pool(4).await;
        let pool = Interlock::pool_options().connect_lazy_with(database.options());
        let interlock = Interlock::new(pool.clone());
        let kit = Kit {
            database,
            outside,
            pool,
            interlock,
        };
        body(&server, &kit).await;
        kit.interlock.drain().await;
        kit.assert_nothing_leaked().await;
        assert_eq!(sessions(&kit, "state LIKE 'idle in transaction%'").await, 0);
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn restart(server: &Arc<Server>, shutdown: Shutdown) {
    let server = Arc::clone(server);
    let restarted = spawn_blocking(move || server.restart(shutdown)).await;
    restarted.unwrap().unwrap();
}

async fn put(app: &Router, user: i64, request: i64) -> Answer {
    let path = format!("/{user}/{request}");
    send(app, Request::put(path).body(Body::empty()).unwrap()).await
}

/// What an answer says about the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Stored,
    Denied,
    Unknown,
    /// Not stored, because the database was away.
    Unavailable,
    /// An error that says nothing.
    Error,
}

impl Said {
    fn by(answer: &Answer) -> Self {
        let error = answer.response.extensions().get::<Error>();
        match (answer.status.as_u16(), error.map(Error::kind)) {
            (200, None) => Self::Stored,
            (403, None | Some(ErrorKind::Denied)) => Self::Denied,
            (500, Some(ErrorKind::OutcomeUnknown)) => Self::Unknown,
            (503, Some(ErrorKind::Unavailable)) => Self::Unavailable,
            (500, None) => Self::Error,
            (status, _) => panic!("{status}: {error:?}"),
        }
    }
}

/// How often each request is stored. Half a write fails the test.
async fn stored(kit: &Kit) -> BTreeMap<i64, i64> {
    let rows: Vec<(i64, i64, i64)> = sqlx::query_as(
        "SELECT request, count(CASE half WHEN 0 THEN 1 END), count(CASE half WHEN 1 THEN 1 END)
         FROM halves GROUP BY request",
    )
    .fetch_all(&kit.outside)
    .await
    .unwrap();
    let whole = rows.into_iter().map(|(request, first, second)| {
        assert_eq!(first, second, "half of request {request} is stored");
        (request, first)
    });
    whole.collect()
}

/// How many sessions of this database are in a state.
async fn sessions(kit: &Kit, which: &'static str) -> i64 {
    let mut count = sqlx::QueryBuilder::new(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND ",
    );
    count.push(which);
    let count = count.build_query_scalar().fetch_one(&kit.outside);
    count.await.unwrap()
}

mod under_load {
    use super::*;

    const CLIENTS: usize = 12;
    const SHUTDOWNS: [Shutdown; 6] = [
        Shutdown::Fast,
        Shutdown::Immediate,
        Shutdown::Immediate,
        Shutdown::Fast,
        Shutdown::Fast,
        Shutdown::Immediate,
    ];
    /// Answers of 200 between two of them, of each way.
    const BETWEEN: usize = 100;
    /// Until the first answer of 200, once the server takes connections again.
    const BACK: Duration = Duration::from_secs(10);

    /// One way under load, and how many answers of 200 it has given.
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

        /// Sends one request after the other, a quarter of them without the grant.
        async fn client(&self, requests: &AtomicI64, stop: &AtomicBool) -> Vec<Sent> {
            let mut all = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let request = requests.fetch_add(1, Ordering::Relaxed);
                let granted = fastrand::u8(..4) > 0;
                let answer = put(&self.app, if granted { 1 } else { 2 }, request).await;
                let report = answer.response.extensions().get::<Report>();
                let sent = Sent {
                    request,
                    granted,
                    said: Said::by(&answer),
                    attempts: report.map_or(1, Report::attempts),
                };
                if sent.said == Said::Stored {
                    self.successes.fetch_add(1, Ordering::Relaxed);
                }
                all.push(sent);
            }
            all
        }

        /// Waits for so many more answers of 200.
        async fn succeeds(&self, times: usize) {
            let enough = self.successes.load(Ordering::Relaxed) + times;
            while self.successes.load(Ordering::Relaxed) < enough {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// What came of the requests of one way.
    #[derive(Debug, Default)]
    struct Figures {
        stored: usize,
        /// The requests among these that were run again.
        run_again: usize,
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
                        figures.run_again += usize::from(sent.attempts > 1);
                    }
                    Said::Denied => {
                        assert!(!sent.granted, "denied with the grant");
                        figures.denied += 1;
                    }
                    Said::Unavailable => {
                        assert_eq!(times, 0, "stored, and said to be not");
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
    fn no_write_is_lost_and_no_connection_is_kept() {
        test(async |server, kit| {
            let durable = sqlx::query_scalar("SELECT current_setting('synchronous_commit')");
            let durable: String = durable.fetch_one(&kit.outside).await.unwrap();
            assert_eq!(durable, "on");
            let hooks = Hooks::default();
            let interlock = kit.interlock.clone().handoff();
            let layer = Load::new(ways::layer(&interlock, &hooks));
            let conditional = Load::new(ways::conditional(&interlock));
            let by_hand = Load::new(ways::by_hand(kit.database.pool(10).await));

            let (requests, stop) = (AtomicI64::new(0), AtomicBool::new(false));
            let ours = async |times| {
                tokio::join!(layer.succeeds(times), conditional.succeeds(times));
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
            let (of_layer, of_conditional, of_hand, ()) = tokio::join!(
                layer.clients(&requests, &stop),
                conditional.clients(&requests, &stop),
                by_hand.clients(&requests, &stop),
                operator
            );
            kit.interlock.drain().await;

            let stored = stored(kit).await;
            let layer = Figures::of(&of_layer, &stored);
            let conditional = Figures::of(&of_conditional, &stored);
            let by_hand = Figures::of(&of_hand, &stored);
            println!("layer: {layer:?}");
            println!("conditional write: {conditional:?}");
            println!("by hand: {by_hand:?}");
            assert_eq!(layer.errors + conditional.errors, 0);
            assert!(layer.run_again > 0, "no request was hit");
            assert!(layer.unknown + layer.unavailable < by_hand.errors);

            let mut hooks = hooks.lock().unwrap().clone();
            hooks.sort_unstable();
            let acknowledged = of_layer.iter().filter(|sent| sent.said == Said::Stored);
            let mut acknowledged: Vec<_> = acknowledged.map(|sent| sent.request).collect();
            acknowledged.sort_unstable();
            assert_eq!(hooks, acknowledged, "hooks belong to acknowledged writes");
        });
    }
}

mod in_the_middle_of_commit {
    use super::*;

    const EACH: i64 = 3;

    /// From here on no COMMIT is answered: each waits for a standby that does not exist. What it
    /// commits is stored by then.
    async fn hold_commits(kit: &Kit) {
        let hold = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'";
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
    fn the_write_is_stored_once_and_the_answer_is_that_nobody_knows() {
        test(async |server, kit| {
            for (round, shutdown) in (0..).zip([Shutdown::Fast, Shutdown::Immediate]) {
                let hooks = Hooks::default();
                let apps = [
                    ways::layer(&kit.interlock, &hooks),
                    ways::conditional(&kit.interlock),
                    ways::by_hand(kit.database.pool(4).await),
                    ways::by_hand_again(kit.database.pool(4).await),
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
                let (answers, ()) = tokio::join!(join_all(requests), operator);

                let stored = stored(kit).await;
                let expected = [
                    (Said::Unknown, 1),
                    (Said::Unknown, 1),
                    (Said::Error, 1),
                    (Said::Stored, 2),
                ];
                for ((answer, request), way) in answers.iter().zip(first..).zip(0..) {
                    let seen = (Said::by(answer), stored[&request]);
                    assert_eq!(seen, expected[way / EACH as usize], "{shutdown:?}, {way}");
                }
                let layer = &answers[0];
                assert_eq!(layer.outcome(), Outcome::Unknown);
                assert_eq!(layer.report().attempts(), 1);
                assert!(hooks.lock().unwrap().is_empty());
            }
        });
    }
}

mod while_nothing_goes_on {
    use super::*;

    const REQUESTS: usize = 15;

    /// Connects all of a pool, and lets them lie.
    async fn fill(pool: &PgPool) {
        let size = pool.options().get_max_connections();
        let all = join_all((0..size).map(|_| pool.acquire())).await;
        drop(all.into_iter().collect::<Result<Vec<_>, _>>().unwrap());
        while pool.num_idle() < size as usize {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// A conditional write on such a connection cannot tell that from one that dies under it, and
    /// says so. A pool that tests its connections spares it that.
    #[test]
    fn dead_connections_fail_no_request_of_the_layer() {
        test(async |server, kit| {
            for (round, shutdown) in (0..).zip([Shutdown::Fast, Shutdown::Immediate]) {
                let pool =
                    |options: PgPoolOptions| options.connect_lazy_with(kit.database.options());
                let untested = pool(Interlock::pool_options());
                let tested = pool(Interlock::pool_options().test_before_acquire(true));
                let by_hand = pool(Interlock::pool_options());
                let hooks = Hooks::default();
                let ways = [
                    (ways::layer(&kit.interlock, &hooks), None),
                    (
                        ways::conditional(&Interlock::new(untested.clone())),
                        Some(Said::Unknown),
                    ),
                    (ways::conditional(&Interlock::new(tested.clone())), None),
                    (ways::by_hand(by_hand.clone()), Some(Said::Error)),
                ];
                for (app, _) in &ways {
                    assert_eq!(Said::by(&put(app, 1, -1).await), Said::Stored);
                }
                join_all([&kit.pool, &untested, &tested, &by_hand].map(fill)).await;
                let dead = untested.num_idle();
                restart(server, shutdown).await;

                for ((app, failure), first) in ways.iter().zip((round * 100..).step_by(20)) {
                    let mut said = Vec::new();
                    for request in (first..).take(REQUESTS) {
                        said.push(Said::by(&put(app, 1, request).await));
                    }
                    let dead = failure.map_or(0, |_| dead);
                    let mut expected = vec![failure.unwrap_or(Said::Stored); dead];
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
}
