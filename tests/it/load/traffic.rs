//! Requests that a service would rather not get, many at once: `PUT /{request}` writes two rows in
//! a transaction, and `PUT /alone/{request}` in one statement, unless something befalls it.

use std::{
    convert::Infallible,
    future::poll_fn,
    panic,
    pin::pin,
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

pub(crate) const SCHEMA: &str = "
    CREATE TABLE callers (id INT8 PRIMARY KEY);
    CREATE TABLE written (request INT8, half INT8, PRIMARY KEY (request, half));
    INSERT INTO callers VALUES (1);
";

/// What befalls a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Calm,
    /// Calm, and written in one statement.
    Alone,
    /// By the policy.
    Denied,
    /// In the policy or the handler; before, between or after their statements.
    Panics,
    PanicsInHook,
    /// Its work takes longer than its deadline, in the handler or on the server.
    Outlasted,
    /// The client goes away.
    Left,
}

impl Fate {
    /// The fates go round.
    pub(crate) fn of(request: i64) -> Self {
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

    pub(crate) fn deadline(self) -> Duration {
        match self {
            Self::Outlasted => Duration::from_millis(250),
            _ => Duration::from_secs(10),
        }
    }
}

/// The requests whose hooks have run.
pub(crate) type Hooks = Arc<Mutex<Vec<i64>>>;

pub(crate) fn app(interlock: &Interlock, hooks: &Hooks) -> Router {
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
    let hurried = interlock.clone().deadline(Fate::Outlasted.deadline());
    Router::new()
        .route("/alone/{request}", put(alone))
        .route(
            "/{request}",
            put(handler.clone()).route_layer(interlock.require(may_write)),
        )
        .route(
            "/hurried/{request}",
            put(handler).route_layer(hurried.require(may_write)),
        )
}

static ALONE: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO written SELECT $1::INT8, half FROM (VALUES (0), (1)) AS halves (half) WHERE {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM callers WHERE id = $2)",
    )],
);

/// The policy's statement.
pub(crate) async fn check<C>(on: &mut C, request: i64) -> Result<bool, sqlx::Error>
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

/// The handler's statements.
pub(crate) async fn write<C>(on: &mut C, request: i64) -> Result<(), sqlx::Error>
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

/// Each request that is to panic does so at one of five moments.
fn panic_at(moment: i64, request: i64) {
    if Fate::of(request) == Fate::Panics && request / 10 % 5 == moment {
        quiet_panic();
    }
}

/// Hundreds of them need not be printed.
fn quiet_panic() -> ! {
    panic::resume_unwind(Box::new("the request's fate"))
}

/// A request that is over.
pub(crate) struct Sent {
    pub(crate) request: i64,
    pub(crate) fate: Fate,
    pub(crate) end: End,
    /// Since the end of its body.
    pub(crate) took: Duration,
}

pub(crate) enum End {
    Answered(Response),
    Panicked,
    /// Nobody is left to be answered.
    Left,
}

/// Sends all of `requests` at once, and waits for the end of each.
pub(crate) async fn send(app: &Router, requests: impl Iterator<Item = i64>) -> Vec<Sent> {
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
    let answer = app.oneshot(Request::put(path).body(body(&read)).unwrap());
    let request_ends = async move {
        match fate {
            Fate::Left => drop_after(fastrand::u32(1..14), answer).await,
            _ => Some(answer.await),
        }
    };
    // A task of its own, as a server has it: a panic ends no other request.
    let end = match tokio::spawn(request_ends).await {
        Ok(Some(answer)) => End::Answered(answer.unwrap()),
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

/// Polls `future` so many times and drops it, wherever it then is.
async fn drop_after<F: Future>(mut polls: u32, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        polls -= 1;
        match future.as_mut().poll(cx) {
            Poll::Pending if polls == 0 => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

/// A body that takes its time, and says when it was `read` to its end.
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
