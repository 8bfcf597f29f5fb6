//! One race: many writers, all in one way, against the administrator.

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
use tower_interlock::{Report, SERIALIZABLE_GUARD};

use super::{
    administrator::{self, Administrator, Isolation, Revocation},
    ways::{self, Steps, Way, Write},
};

/// How many documents are written to at a time.
const LANES: i64 = 4;
/// In each lane.
const WRITERS: usize = 8;
/// Fewer than writers, as in any service under load.
const CONNECTIONS: u32 = 16;
/// How long a grant stays at most: about as long as a request takes, or else hardly one would be accepted.
fn granted_for(server: Kind) -> Duration {
    Duration::from_millis(match server {
        Kind::PostgreSql => 4,
        Kind::CockroachDb => 60,
    })
}

/// What the writers and the administrator have noted of a race.
pub(crate) struct Race {
    pub(crate) answers: Vec<Answer>,
    /// By document.
    pub(crate) revocations: HashMap<i64, Revocation>,
}

/// The answer to one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) write: Write,
    pub(crate) status: StatusCode,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    /// Of the way that reports them.
    pub(crate) attempts: Option<u32>,
    /// Of the way that notes them.
    pub(crate) steps: Option<Steps>,
}

type Failure = Box<dyn Error + Send + Sync>;

/// Runs a race of so many requests in an empty database. `watch` is told from time to time which
/// part of them is made.
///
/// # Errors
///
/// Those of the administrator. What a writer meets is an answer.
pub(crate) async fn race(
    database: &Database,
    way: Way,
    isolation: Isolation,
    requests: i64,
    watch: impl Fn(f64),
) -> Result<Race, Failure> {
    database.run(ways::SCHEMA).await;
    database.run(administrator::SCHEMA).await;
    if isolation == Isolation::Guarded {
        database.run(SERIALIZABLE_GUARD).await;
        database.run(ways::GUARD).await;
    }
    let pool = way.pool_options().max_connections(CONNECTIONS);
    let pool = pool.connect_with(database.options()).await?;
    let service = way.service(pool.clone());

    let course = Arc::new(Course::new(requests));
    let (mut administrators, mut writers) = (JoinSet::new(), JoinSet::new());
    for number in 0..LANES {
        let lane = Arc::new(Lane::new(number, &course));
        let administrator = Administrator::connect(database, isolation).await?;
        let granted_for = granted_for(database.kind());
        administrators.spawn(administer(administrator, granted_for, Arc::clone(&lane)));
        for _ in 0..WRITERS {
            writers.spawn(write(service.clone(), Arc::clone(&lane)));
        }
    }
    let mut tick = interval(Duration::from_millis(100));
    while !course.is_over() {
        tick.tick().await;
        watch(course.done());
    }
    let answers: Result<Vec<_>, _> = writers.join_all().await.into_iter().collect();
    let revocations: Result<Vec<_>, _> = administrators.join_all().await.into_iter().collect();
    pool.close().await;
    Ok(Race {
        answers: answers?.concat(),
        revocations: revocations?.into_iter().flatten().collect(),
    })
}

/// How far it is.
struct Course {
    requests: i64,
    sent: AtomicI64,
}

impl Course {
    fn new(requests: i64) -> Self {
        Self {
            requests,
            sent: AtomicI64::new(0),
        }
    }

    fn is_over(&self) -> bool {
        self.sent.load(Ordering::Relaxed) >= self.requests
    }

    fn done(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / self.requests as f64
    }
}

/// Where an administrator grants and revokes one document after the other, and writers follow.
struct Lane {
    course: Arc<Course>,
    /// The one that was granted last.
    document: AtomicI64,
}

impl Lane {
    fn new(number: i64, course: &Arc<Course>) -> Self {
        Self {
            course: Arc::clone(course),
            // Far from the others', so that they have no index page in common.
            document: AtomicI64::new(number * 1_000_000_000),
        }
    }
}

async fn administer(
    mut administrator: Administrator,
    granted_for: Duration,
    lane: Arc<Lane>,
) -> Result<HashMap<i64, Revocation>, sqlx::Error> {
    let mut revocations = HashMap::new();
    while !lane.course.is_over() {
        let document = lane.document.load(Ordering::Relaxed) + 1;
        administrator.grant(document).await?;
        lane.document.store(document, Ordering::Relaxed);
        sleep(granted_for.mul_f64(fastrand::f64())).await;
        revocations.insert(document, administrator.revoke(document).await?);
    }
    Ok(revocations)
}

async fn write(service: Router, lane: Arc<Lane>) -> Result<Vec<Answer>, http::Error> {
    let mut answers = Vec::new();
    while !lane.course.is_over() {
        let write = Write {
            document: lane.document.load(Ordering::Relaxed),
            id: lane.course.sent.fetch_add(1, Ordering::Relaxed),
        };
        let path = format!("/{}/{}", write.document, write.id);
        let request = Request::put(path).body(Body::empty())?;
        let sent = Instant::now();
        let Ok(response) = service.clone().oneshot(request).await;
        let extensions = response.extensions();
        answers.push(Answer {
            write,
            status: response.status(),
            sent,
            answered: Instant::now(),
            attempts: extensions.get().map(Report::attempts),
            steps: extensions.get().copied(),
        });
    }
    Ok(answers)
}
