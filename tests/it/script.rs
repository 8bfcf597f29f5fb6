//! A request as data: what its policies and its handler do, step by step. [`model`](crate::model)
//! predicts its result.

use std::{
    error::Error as _,
    future::pending,
    mem,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    middleware::map_response,
    response::{IntoResponse as _, Response},
    routing::any,
};
use futures::{FutureExt as _, TryStreamExt as _, future::BoxFuture, poll};
use sqlx::{AssertSqlSafe, Executor, PgPool, Postgres};
use tokio::{sync::Notify, time::sleep};
use tower_interlock::{
    AuthorizeLayer, Denied, Error, ErrorKind, Interlock, InterlockBuilder, Savepoint, Tx,
};

use crate::kit::Recorder;

/// A request that can be run, predicted and printed.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) settings: Settings,
    pub(crate) outer: Layer,
    /// A layer of the same `Interlock` inside the outer one.
    pub(crate) inner: Option<Layer>,
    pub(crate) handler: Part,
    /// A middleware between the layers turns every response into a 200.
    pub(crate) covered: bool,
    /// A middleware around the handler turns a panic into a 200.
    pub(crate) caught: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) max_attempts: u32,
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) dry_run: bool,
    /// A 202 is no success.
    pub(crate) commit_if: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) read_only: bool,
    pub(crate) policy: Part,
}

/// A policy, or the handler.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) steps: Vec<Step>,
    pub(crate) end: End,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Do(Statement, OnError),
    /// An error that is passed on drops the savepoint.
    Savepoint(Vec<Step>, Close, OnError),
    /// A statement, and another one that is dropped while the server runs it.
    Abandon,
    RollbackOnly,
    Hook,
    Sleep,
    /// Waits until the deadline. If there is none, the client disconnects.
    Hang,
    Panic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    Swallow,
    PassOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    Release,
    RollBack,
    Drop,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Statement {
    Plain(Plain),
    /// On the raw connection. Not on savepoints.
    Raw(Plain),
    /// A row stream that is dropped at its first row. An error may follow that row.
    Stream {
        fails: bool,
    },
    /// Two writes in one text.
    Several,
    /// A ROLLBACK after another statement in one text.
    HiddenEnd,
    /// COMMIT.
    Control,
    /// On another `Tx` of the same policy or handler.
    Rival,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Plain {
    /// A write of a row.
    Write,
    Read,
    /// A row that does not exist.
    Missing,
    /// A division by zero.
    Fail,
    /// A serialization failure in the first attempts, as many as given.
    Conflict(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// A policy grants. A handler responds with 200.
    Pass,
    /// A policy denies with this status. A handler responds with it.
    Respond(u16),
    /// The same with `commit_on_error`.
    Keep(u16),
    /// As `Pass`, and the `Tx` escapes.
    Escape,
}

/// The table that scripts write to. It has no key, so a row that is written twice is stored twice.
pub(crate) const EFFECTS: &str =
    "CREATE TABLE effects (request INT8 NOT NULL, number INT8 NOT NULL)";

/// The deadline of a client that waits.
pub(crate) const FOREVER: Duration = Duration::MAX;

/// The state of one request, and the effects that it leaves.
pub(crate) struct Stage {
    /// The number of the request.
    request: i64,
    outside: PgPool,
    /// The number of writes of the attempt so far, which numbers them.
    writes: AtomicI64,
    /// The number of calls of the outer policy.
    attempts: AtomicU32,
    hooks: Mutex<Vec<i64>>,
    escaped: Mutex<Vec<Tx>>,
    /// Notified when the client is to disconnect.
    hung: Notify,
}

impl Script {
    /// A service behind layers of `interlock` that runs this script.
    pub(crate) fn app(&self, builder: InterlockBuilder, stage: &Arc<Stage>) -> (Router, Interlock) {
        let settings = &self.settings;
        let mut builder = builder
            .max_attempts(settings.max_attempts)
            .deadline(settings.deadline)
            .grace(settings.grace)
            .dry_run(settings.dry_run);
        if settings.commit_if {
            builder = builder.commit_if(|response| response.status() != StatusCode::ACCEPTED);
        }
        let interlock = builder.build();
        let handler = any({
            let (part, caught) = (Arc::new(self.handler.clone()), self.caught);
            let stage = Arc::clone(stage);
            move |tx: Tx, rival: Tx| handle(part, caught, tx, rival, stage)
        });
        let mut app = Router::new().route("/", handler);
        if let Some(inner) = &self.inner {
            app = app.route_layer(inner.build(&interlock, stage, false));
        }
        if self.covered {
            app = app.route_layer(map_response(async |_: Response| StatusCode::OK));
        }
        let app = app.route_layer(self.outer.build(&interlock, stage, true));
        (app, interlock)
    }

    /// A service whose handler runs the handler's part of this script in `transact`, without a
    /// layer.
    pub(crate) fn transact_app(
        &self,
        builder: InterlockBuilder,
        stage: &Arc<Stage>,
    ) -> (Router, Interlock) {
        let recorder = Recorder::default();
        let settings = &self.settings;
        let interlock = builder
            .max_attempts(settings.max_attempts)
            .deadline(settings.deadline)
            .grace(settings.grace)
            .dry_run(settings.dry_run)
            .observe(recorder.clone())
            .build();
        let handler = any({
            let (part, stage) = (Arc::new(self.handler.clone()), Arc::clone(stage));
            let (interlock, read_only) = (interlock.clone(), self.outer.read_only);
            move || transact(interlock, read_only, part, stage, recorder)
        });
        (Router::new().route("/", handler), interlock)
    }

    /// Leaves what a closure has as well: no policy, no response of its own, one `Tx`.
    pub(crate) fn keep_handler_only(&mut self) {
        fn without_rival(steps: &mut Vec<Step>) {
            steps.retain(|step| !matches!(step, Step::Do(Statement::Rival, _)));
            for step in steps {
                if let Step::Savepoint(steps, ..) = step {
                    without_rival(steps);
                }
            }
        }
        self.outer.policy = Part {
            steps: Vec::new(),
            end: End::Pass,
        };
        self.inner = None;
        (self.covered, self.caught, self.settings.commit_if) = (false, false, false);
        without_rival(&mut self.handler.steps);
        if let End::Keep(status) = self.handler.end {
            self.handler.end = End::Respond(status);
        }
    }

    /// Whether the number of its statements depends on chance, and so the moment of a fault.
    pub(crate) fn abandons(&self) -> bool {
        fn any(steps: &[Step]) -> bool {
            steps.iter().any(|step| match step {
                Step::Abandon => true,
                Step::Savepoint(steps, ..) => any(steps),
                _ => false,
            })
        }
        let policies = [Some(&self.outer), self.inner.as_ref()]
            .into_iter()
            .flatten();
        let mut parts = policies.map(|layer| &layer.policy).chain([&self.handler]);
        parts.any(|part| any(&part.steps))
    }

    pub(crate) fn request() -> Request<Body> {
        Request::put("/").body(Body::from("body")).unwrap()
    }
}

impl Layer {
    fn build(&self, interlock: &Interlock, stage: &Arc<Stage>, first: bool) -> AuthorizeLayer {
        let policy = Arc::new(self.policy.clone());
        let stage = Arc::clone(stage);
        let layer = interlock.require(move |tx: Tx, rival: Tx| {
            if first {
                stage.begin_attempt();
            }
            check(policy, tx, Some(rival), stage)
        });
        if self.read_only {
            layer.read_only()
        } else {
            layer
        }
    }
}

impl Stage {
    pub(crate) fn new(request: i64, outside: &PgPool) -> Arc<Self> {
        Arc::new(Self {
            request,
            outside: outside.clone(),
            writes: AtomicI64::new(0),
            attempts: AtomicU32::new(0),
            hooks: Mutex::default(),
            escaped: Mutex::default(),
            hung: Notify::new(),
        })
    }

    fn begin_attempt(&self) {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        self.writes.store(0, Ordering::SeqCst);
    }

    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::SeqCst)
    }

    /// The hooks that ran, by their numbers.
    pub(crate) fn hooks(&self) -> Vec<i64> {
        self.hooks.lock().unwrap().clone()
    }

    /// Waits until the client is to disconnect.
    pub(crate) async fn hung(&self) {
        self.hung.notified().await;
    }

    /// Drops the escaped `Tx`.
    pub(crate) fn let_go(&self) {
        drop(mem::take(&mut *self.escaped.lock().unwrap()));
    }

    /// The stored writes, as another session sees them.
    pub(crate) async fn rows(&self) -> Vec<i64> {
        sqlx::query_scalar("SELECT number FROM effects WHERE request = $1 ORDER BY number")
            .bind(self.request)
            .fetch_all(&self.outside)
            .await
            .unwrap()
    }

    /// A hook whose number is the number of writes before it.
    fn hook(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let stage = Arc::clone(self);
        let number = self.writes.load(Ordering::SeqCst);
        async move { stage.hooks.lock().unwrap().push(number) }
    }

    fn next_write(&self) -> i64 {
        self.writes.fetch_add(1, Ordering::SeqCst)
    }
}

async fn check(
    part: Arc<Part>,
    tx: Tx,
    rival: Option<Tx>,
    stage: Arc<Stage>,
) -> Result<(), Response> {
    match part.play(tx, rival, &stage).await {
        Ok(None) => Ok(()),
        Ok(Some(status)) => Err(status.into_response()),
        Err(error) => Err(error.into_response()),
    }
}

async fn handle(part: Arc<Part>, caught: bool, tx: Tx, rival: Tx, stage: Arc<Stage>) -> Response {
    let played = AssertUnwindSafe(part.play(tx, Some(rival), &stage));
    match played.catch_unwind().await {
        Ok(Ok(status)) => status.unwrap_or_default().into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(_) if caught => StatusCode::OK.into_response(),
        Err(panic) => resume_unwind(panic),
    }
}

/// Runs a part in `transact`, and responds as the layer would.
async fn transact(
    interlock: Interlock,
    read_only: bool,
    part: Arc<Part>,
    stage: Arc<Stage>,
    recorder: Recorder,
) -> Response {
    let mut transaction = interlock.transaction();
    if read_only {
        transaction = transaction.read_only();
    }
    let (part, stage) = (&part, &stage);
    let result = transaction
        .run(async |tx: Tx| {
            stage.begin_attempt();
            match part.play(tx, None, stage).await?.unwrap_or_default() {
                status if status.is_success() || status.is_redirection() => Ok(status),
                status => Err(Error::from(Denied::new(status.as_u16().to_string()))),
            }
        })
        .await;
    let mut response = match result {
        Ok(status) => status.into_response(),
        Err(error) if error.kind() == ErrorKind::Denied => {
            let status = error.source().map(ToString::to_string);
            let status = StatusCode::from_bytes(status.unwrap().as_bytes());
            status.unwrap().into_response()
        }
        Err(error) => error.into_response(),
    };
    response.extensions_mut().insert(recorder);
    response
}

impl Part {
    async fn play(
        &self,
        mut tx: Tx,
        mut rival: Option<Tx>,
        stage: &Arc<Stage>,
    ) -> Result<Option<StatusCode>, Error> {
        for step in &self.steps {
            step.play(On::Tx(&mut tx), &mut rival, stage).await?;
        }
        let status = |code| StatusCode::from_u16(code).unwrap();
        Ok(match self.end {
            End::Pass => None,
            End::Respond(code) => Some(status(code)),
            End::Keep(code) => {
                tx.commit_on_client_error();
                Some(status(code))
            }
            End::Escape => {
                stage.escaped.lock().unwrap().push(tx);
                None
            }
        })
    }
}

/// The executor of a step.
enum On<'a, 't> {
    Tx(&'a mut Tx),
    Savepoint(&'a mut Savepoint<'t>),
}

impl Step {
    fn play<'a, 't: 'a>(
        &'a self,
        on: On<'a, 't>,
        rival: &'a mut Option<Tx>,
        stage: &'a Arc<Stage>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let done = match (self, on) {
                (Self::Do(statement, on_error), on) => {
                    (statement.play(on, rival, stage).await, *on_error)
                }
                (Self::Savepoint(steps, close, on_error), On::Tx(tx)) => {
                    let opened = tx.savepoint().await;
                    (inside(opened, steps, *close, rival, stage).await, *on_error)
                }
                (Self::Savepoint(steps, close, on_error), On::Savepoint(savepoint)) => {
                    let opened = savepoint.savepoint().await;
                    (inside(opened, steps, *close, rival, stage).await, *on_error)
                }
                (Self::Abandon, On::Tx(tx)) => (abandon(tx, stage).await, OnError::Swallow),
                (Self::Abandon, On::Savepoint(savepoint)) => {
                    (abandon(savepoint, stage).await, OnError::Swallow)
                }
                (Self::RollbackOnly, On::Tx(tx)) => {
                    tx.rollback_only();
                    return Ok(());
                }
                (Self::RollbackOnly, On::Savepoint(_)) => unreachable!("not on a savepoint"),
                (Self::Hook, On::Tx(tx)) => {
                    tx.after_commit(stage.hook());
                    return Ok(());
                }
                (Self::Hook, On::Savepoint(savepoint)) => {
                    savepoint.after_commit(stage.hook());
                    return Ok(());
                }
                (Self::Sleep, _) => {
                    sleep(Duration::from_millis(1)).await;
                    return Ok(());
                }
                (Self::Hang, _) => {
                    stage.hung.notify_one();
                    return pending().await;
                }
                // It prints nothing.
                (Self::Panic, _) => resume_unwind(Box::new("as written")),
            };
            match done {
                (Err(error), OnError::PassOn) => Err(error),
                _ => Ok(()),
            }
        })
    }
}

/// Runs the steps in a savepoint, and closes it.
async fn inside(
    opened: Result<Savepoint<'_>, sqlx::Error>,
    steps: &[Step],
    close: Close,
    rival: &mut Option<Tx>,
    stage: &Arc<Stage>,
) -> Result<(), Error> {
    let mut savepoint = opened?;
    for step in steps {
        step.play(On::Savepoint(&mut savepoint), rival, stage)
            .await?;
    }
    match close {
        Close::Release => savepoint.release().await?,
        Close::RollBack => savepoint.rollback().await?,
        Close::Drop => drop(savepoint),
    }
    Ok(())
}

impl Statement {
    async fn play(
        self,
        on: On<'_, '_>,
        rival: &mut Option<Tx>,
        stage: &Arc<Stage>,
    ) -> Result<(), Error> {
        let attempt = stage.attempts();
        let done = match (self, on) {
            (Self::Rival, _) => {
                let rival = rival.as_mut().expect("a request has another Tx");
                Plain::Read.play(rival, attempt, stage).await
            }
            (Self::Raw(plain), On::Tx(tx)) => {
                plain.play(tx.connection().await?, attempt, stage).await
            }
            (Self::Raw(_), On::Savepoint(_)) => unreachable!("not on a savepoint"),
            (statement, On::Tx(tx)) => statement.play_on(tx, attempt, stage).await,
            (statement, On::Savepoint(savepoint)) => {
                statement.play_on(savepoint, attempt, stage).await
            }
        };
        Ok(done?)
    }

    async fn play_on<C>(self, on: &mut C, attempt: u32, stage: &Stage) -> Result<(), sqlx::Error>
    where
        for<'c> &'c mut C: Executor<'c, Database = Postgres>,
    {
        match self {
            Self::Plain(plain) => return plain.play(on, attempt, stage).await,
            Self::Stream { fails } => {
                let text = if fails {
                    "SELECT 1 / (2 - i) FROM generate_series(1, 2) AS numbers (i)"
                } else {
                    "SELECT i FROM generate_series(1, 2) AS numbers (i)"
                };
                on.fetch(text).try_next().await?;
            }
            Self::Several => {
                let request = stage.request;
                let (one, two) = (stage.next_write(), stage.next_write());
                let text = format!(
                    "INSERT INTO effects VALUES ({request}, {one}); \
                     INSERT INTO effects VALUES ({request}, {two})"
                );
                on.execute(AssertSqlSafe(text)).await?;
            }
            Self::HiddenEnd => {
                on.execute("SELECT 1; ROLLBACK").await?;
            }
            Self::Control => {
                on.execute("COMMIT").await?;
            }
            Self::Raw(_) | Self::Rival => unreachable!("on a connection of their own"),
        }
        Ok(())
    }
}

impl Plain {
    async fn play<C>(self, on: &mut C, attempt: u32, stage: &Stage) -> Result<(), sqlx::Error>
    where
        for<'c> &'c mut C: Executor<'c, Database = Postgres>,
    {
        match self {
            // It has values. It is prepared each time, so that the first one is like the others.
            Self::Write => {
                sqlx::query("INSERT INTO effects VALUES ($1, $2)")
                    .bind(stage.request)
                    .bind(stage.next_write())
                    .persistent(false)
                    .execute(on)
                    .await?;
            }
            Self::Missing => {
                on.fetch_one("SELECT 1 FROM grants WHERE user_id = -1")
                    .await?;
            }
            Self::Fail => {
                on.execute("SELECT 1 / 0").await?;
            }
            Self::Conflict(attempts) if attempt <= attempts => {
                const INCREMENT: &str = "UPDATE documents SET version = version + 1 WHERE id = 2";
                on.fetch_one("SELECT version FROM documents WHERE id = 2")
                    .await?;
                stage.outside.execute(INCREMENT).await?;
                on.execute(INCREMENT).await?;
            }
            Self::Read | Self::Conflict(_) => {
                on.fetch_one("SELECT 1 FROM grants").await?;
            }
        }
        Ok(())
    }
}

/// Polls a statement once and drops it.
///
/// A complete statement comes first, so that the dropped one does not have to begin the
/// transaction.
async fn abandon<C>(on: &mut C, stage: &Stage) -> Result<(), Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Postgres>,
{
    Plain::Read.play(on, 0, stage).await?;
    // On a busy machine the server may have finished within one poll.
    while poll!(on.execute("SELECT pg_sleep(0.002)")).is_ready() {}
    Ok(())
}
