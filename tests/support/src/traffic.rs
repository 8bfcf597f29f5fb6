//! Many concurrent requests, most of which fail in some way.
//!
//! `PUT /{request}` writes two rows in a transaction, `PUT /alone/{request}` in one statement. The
//! [`Fate`] of a request says how it ends.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{
    convert::Infallible,
    panic,
    sync::{Arc, Mutex, OnceLock},
    task::Poll,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    http::Request,
    response::Response,
    routing::put,
};
use futures::{StreamExt as _, future::join_all, stream};
use sqlx::PgExecutor;
use tokio::time::sleep;
use tower::ServiceExt as _;
use tower_interlock::{Condition, ConditionalWrite, Denied, Error, Interlock, Tx};

use crate::drop_after;

/// The tables.
pub const SCHEMA: &str = "
    CREATE TABLE callers (id INT8 PRIMARY KEY);
    CREATE TABLE written (request INT8, half INT8, PRIMARY KEY (request, half));
    INSERT INTO callers VALUES (1);
";

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It succeeds.
    Calm,
    /// It succeeds, and writes in one statement.
    Alone,
    /// The policy denies it.
    Denied,
    /// The policy or the handler panics, before, between or after its statements.
    Panics,
    /// Its hook panics.
    PanicsInHook,
    /// It takes longer than its deadline, in the handler or on the server.
    Outlasted,
    /// The client disconnects.
    Left,
}

impl Fate {
    /// The fate of a request. It depends on the last digit of its number.
    pub fn of(request: i64) -> Self {
        match request % 10 {
            0 | 1 => Self::Calm,
            2 | 3 => Self::Alone,
            4 => Self::Denied,
            5 => Self::Panics,
            6 => Self::PanicsInHook,
            7 => Self::Outlasted,
            _ => Self::Left,
        }
    }

    /// The deadline of such a request.
    pub fn deadline(self) -> Duration {
        match self {
            Self::Outlasted => Duration::from_millis(250),
            _ => Duration::from_secs(10),
        }
    }
}

/// The requests whose hooks ran.
pub type Hooks = Arc<Mutex<Vec<i64>>>;

/// The service that the requests are sent to.
pub fn app(interlock: &Interlock, hooks: &Hooks) -> Router {
    let hooks = Arc::clone(hooks);
    let handler = async move |Path(request): Path<i64>, mut tx: Tx| {
        write(&mut tx, request).await?;
        let hooks = Arc::clone(&hooks);
        tx.after_commit(async move {
            hooks.lock().unwrap().push(request);
            if Fate::of(request) == Fate::PanicsInHook {
                quiet_panic();
            }
        });
        Ok::<_, Error>(())
    };
    let may_write = async |Path(request): Path<i64>, mut tx: Tx| {
        let allowed = check(&mut tx, request).await?;
        Denied::unless(allowed, "not a caller").map_err(Error::from)
    };
    let alone = {
        let interlock = interlock.clone();
        async move |Path(request): Path<i64>| {
            ALONE.bind(request).bind(1_i64).execute(&interlock).await?;
            Ok::<_, Error>(())
        }
    };
    let hurried = interlock
        .require(may_write)
        .deadline(Fate::Outlasted.deadline());
    Router::new()
        .route("/alone/{request}", put(alone))
        .route(
            "/{request}",
            put(handler.clone()).route_layer(interlock.require(may_write)),
        )
        .route("/hurried/{request}", put(handler).route_layer(hurried))
}

static ALONE: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO written SELECT $1::INT8, half FROM (VALUES (0), (1)) AS halves (half) WHERE {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM callers WHERE id = $2)",
    )],
);

/// The statement of the policy.
///
/// # Errors
///
/// The error of the database.
pub async fn check<C>(on: &mut C, request: i64) -> Result<bool, sqlx::Error>
where
    for<'c> &'c mut C: PgExecutor<'c>,
{
    panic_at(0, request);
    let known = Fate::of(request) != Fate::Denied;
    let check = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM callers WHERE id = $1)");
    let check = check.bind(if known { 1_i64 } else { 2 });
    let allowed = check.fetch_one(on).await?;
    panic_at(1, request);
    Ok(allowed)
}

/// The statements of the handler.
///
/// # Errors
///
/// The error of the database.
pub async fn write<C>(on: &mut C, request: i64) -> Result<(), sqlx::Error>
where
    for<'c> &'c mut C: PgExecutor<'c>,
{
    panic_at(2, request);
    write_half(on, request, 0).await?;
    panic_at(3, request);
    match Fate::of(request) {
        Fate::Outlasted if request % 20 < 10 => sleep(Duration::from_secs(3)).await,
        Fate::Outlasted => {
            let sleep = sqlx::query("SELECT pg_sleep(0.5)");
            sleep.execute(&mut *on).await?;
        }
        _ => {}
    }
    write_half(on, request, 1).await?;
    panic_at(4, request);
    Ok(())
}

async fn write_half<C>(on: &mut C, request: i64, half: i64) -> Result<(), sqlx::Error>
where
    for<'c> &'c mut C: PgExecutor<'c>,
{
    let write = sqlx::query("INSERT INTO written VALUES ($1, $2)");
    write.bind(request).bind(half).execute(on).await.map(drop)
}

/// Panics if that is the fate of the request, at one of five moments.
fn panic_at(moment: i64, request: i64) {
    if Fate::of(request) == Fate::Panics && request / 10 % 5 == moment {
        quiet_panic();
    }
}

/// Panics without printing. There are hundreds of these panics.
fn quiet_panic() -> ! {
    panic::resume_unwind(Box::new("the request's fate"))
}

/// A finished request.
#[derive(Debug)]
pub struct Sent {
    /// Its number.
    pub request: i64,
    /// How it had to end.
    pub fate: Fate,
    /// How it did end.
    pub end: End,
    /// The time since the end of its body.
    pub took: Duration,
}

/// How a request did end.
#[derive(Debug)]
pub enum End {
    /// With a response.
    Responded(Response),
    /// With a panic.
    Panicked,
    /// The client disconnected.
    Left,
}

/// Sends all of `requests` concurrently, and waits for the end of each.
pub async fn send(app: &Router, requests: impl Iterator<Item = i64>) -> Vec<Sent> {
    join_all(requests.map(|request| send_one(app.clone(), request))).await
}

async fn send_one(app: Router, request: i64) -> Sent {
    let fate = Fate::of(request);
    let path = match fate {
        Fate::Alone => format!("/alone/{request}"),
        Fate::Outlasted => format!("/hurried/{request}"),
        _ => format!("/{request}"),
    };
    let read = Arc::new(OnceLock::new());
    let response = app.oneshot(Request::put(path).body(body(&read)).unwrap());
    let request_ends = async move {
        match fate {
            Fate::Left => drop_after(fastrand::i64(1..14), response).await,
            _ => Some(response.await),
        }
    };
    // Each request has its own task, as in a server, so a panic ends only that request.
    let end = match tokio::spawn(request_ends).await {
        Ok(Some(response)) => End::Responded(response.unwrap()),
        Ok(None) => End::Left,
        Err(_) => End::Panicked,
    };
    let took = read.get().map(Instant::elapsed).unwrap_or_default();
    Sent {
        request,
        fate,
        end,
        took,
    }
}

/// A body that arrives late, and records when it was `read` to its end.
fn body(read: &Arc<OnceLock<Instant>>) -> Body {
    let read = Arc::clone(read);
    let data = stream::once(async {
        sleep(Duration::from_millis(fastrand::u64(..50))).await;
        Ok::<_, Infallible>(Bytes::from_static(b"body"))
    });
    let end = stream::poll_fn(move |_| {
        read.get_or_init(Instant::now);
        Poll::Ready(None)
    });
    Body::from_stream(data.chain(end))
}
