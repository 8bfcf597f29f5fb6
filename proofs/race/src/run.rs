//! One race: many writers, all in one way, against administrators.

use std::{
    collections::HashMap,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Router, body::Body};
use http::{Request, StatusCode};
use support::{Database, Kind};
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};
use tower::ServiceExt as _;
use tower_interlock::{Report, schema::SERIALIZABLE_GUARD};

use crate::{
    administrator::{self, Administrator, Isolation, Revocation},
    way::{self, Steps, Way, Write},
};

/// How many documents are written to at a time, each in a lane of its own.
const LANES: i64 = 4;
const WRITERS_PER_LANE: usize = 8;
/// Fewer than writers, as in any service under load.
const CONNECTIONS: u32 = 16;

/// The longest time that a grant exists. If it were much shorter than a request takes, hardly any
/// request would be accepted.
fn granted_for(server: Kind) -> Duration {
    Duration::from_millis(match server {
        Kind::PostgreSql => 4,
        Kind::CockroachDb => 60,
    })
}

/// The records of writers and administrators.
#[derive(Debug)]
pub struct Race {
    pub(crate) exchanges: Vec<Exchange>,
    /// By document.
    pub(crate) revocations: HashMap<i64, Revocation>,
}

/// One request and its response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exchange {
    pub(crate) write: Write,
    pub(crate) status: StatusCode,
    pub(crate) sent: Instant,
    pub(crate) received: Instant,
    /// Reported by [`Way::Layer`].
    pub(crate) attempts: Option<u32>,
    /// Reported by [`Way::OnThePool`].
    pub(crate) steps: Option<Steps>,
}

type Failure = Box<dyn Error + Send + Sync>;

/// Runs a race of at least `requests` requests in an empty database. Calls `watch` regularly with
/// the fraction of requests that were sent.
///
/// # Errors
///
/// Returns an error if the setup or an administrator fails. A failed request is not an error.
pub async fn race(
    database: &Database,
    way: Way,
    isolation: Isolation,
    requests: i64,
    watch: impl Fn(f64),
) -> Result<Race, Failure> {
    database.run(way::SCHEMA).await;
    database.run(administrator::SCHEMA).await;
    if isolation == Isolation::Guarded {
        database.run(SERIALIZABLE_GUARD).await;
        database.run(way::GUARD).await;
    }
    let pool = way.pool_options().max_connections(CONNECTIONS);
    let pool = pool.connect_with(database.options()).await?;
    let service = way.service(pool.clone());

    let requests = Arc::new(Requests::new(requests));
    let (mut administrators, mut writers) = (JoinSet::new(), JoinSet::new());
    for number in 0..LANES {
        let lane = Arc::new(Lane::new(number, &requests));
        let administrator = Administrator::connect(database, isolation).await?;
        let granted_for = granted_for(database.kind());
        administrators.spawn(administer(administrator, granted_for, Arc::clone(&lane)));
        for _ in 0..WRITERS_PER_LANE {
            writers.spawn(write(service.clone(), Arc::clone(&lane)));
        }
    }
    let mut tick = interval(Duration::from_millis(100));
    while !requests.all_sent() {
        tick.tick().await;
        watch(requests.fraction_sent());
    }
    let exchanges: Result<Vec<_>, _> = writers.join_all().await.into_iter().collect();
    let revocations: Result<Vec<_>, _> = administrators.join_all().await.into_iter().collect();
    pool.close().await;
    Ok(Race {
        exchanges: exchanges?.concat(),
        revocations: revocations?.into_iter().flatten().collect(),
    })
}

/// How many requests there are to send, and how many were sent.
struct Requests {
    total: i64,
    sent: AtomicI64,
}

impl Requests {
    fn new(total: i64) -> Self {
        Self {
            total,
            sent: AtomicI64::new(0),
        }
    }

    fn all_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed) >= self.total
    }

    fn fraction_sent(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / self.total as f64
    }
}

/// An administrator grants and revokes one document after the other, and writers follow it.
struct Lane {
    requests: Arc<Requests>,
    /// The document that was granted last.
    document: AtomicI64,
}

impl Lane {
    fn new(number: i64, requests: &Arc<Requests>) -> Self {
        Self {
            requests: Arc::clone(requests),
            // Far apart, so that lanes share no index page.
            document: AtomicI64::new(number * 1_000_000_000),
        }
    }
}

async fn administer(
    mut administrator: Administrator,
    granted_for: Duration,
    lane: Arc<Lane>,
) -> Result<HashMap<i64, Revocation>, tower_interlock::Error> {
    let mut revocations = HashMap::new();
    while !lane.requests.all_sent() {
        let document = lane.document.load(Ordering::Relaxed) + 1;
        administrator.grant(document).await?;
        lane.document.store(document, Ordering::Relaxed);
        sleep(granted_for.mul_f64(fastrand::f64())).await;
        revocations.insert(document, administrator.revoke(document).await?);
    }
    Ok(revocations)
}

async fn write(service: Router, lane: Arc<Lane>) -> Result<Vec<Exchange>, http::Error> {
    let mut exchanges = Vec::new();
    while !lane.requests.all_sent() {
        let write = Write {
            document: lane.document.load(Ordering::Relaxed),
            id: lane.requests.sent.fetch_add(1, Ordering::Relaxed),
        };
        let path = format!("/{}/{}", write.document, write.id);
        let request = Request::put(path).body(Body::empty())?;
        let sent = Instant::now();
        let Ok(response) = service.clone().oneshot(request).await;
        let extensions = response.extensions();
        exchanges.push(Exchange {
            write,
            status: response.status(),
            sent,
            received: Instant::now(),
            attempts: extensions.get().map(Report::attempts),
            steps: extensions.get().copied(),
        });
    }
    Ok(exchanges)
}
