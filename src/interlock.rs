//! The settings handle.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum_core::response::Response;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::task::TaskTracker;

use crate::{
    error::Error,
    handoff::Handoff,
    layer::AuthorizeLayer,
    policy::{Policy, Stateful},
    retry::Backoff,
    server::{self, Kind},
    turn::Turns,
};

/// The handle that makes [layers](AuthorizeLayer): a pool, and the settings for requests.
///
/// Clones are cheap and belong together: their layers may be nested and then share one
/// transaction. A clone can be given other settings, for a route that needs them; of nested layers
/// the outermost one's count.
///
/// ```
/// use std::time::Duration;
/// use tower_interlock::Interlock;
///
/// # #[tokio::main] async fn main() -> Result<(), sqlx::Error> {
/// let pool = Interlock::pool_options()
///     .max_connections(16)
///     .connect_lazy("postgres://root@localhost:26257/app")?;
/// let interlock = Interlock::new(pool);
/// let reports = interlock.clone().deadline(Duration::from_secs(60));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Interlock {
    pub(crate) shared: Arc<Shared>,
    pub(crate) settings: Arc<Settings>,
}

/// What all clones of one `Interlock` have in common.
pub(crate) struct Shared {
    pub(crate) pool: PgPool,
    /// Filled by the first transaction.
    pub(crate) server: OnceLock<Kind>,
    pub(crate) handoff: OnceLock<Arc<Handoff>>,
    pub(crate) turns: Turns,
    /// Requests, transactions and hooks under way. Closed by `drain`.
    pub(crate) running: TaskTracker,
}

type CommitIf = dyn Fn(&Response) -> bool + Send + Sync;
type RenderError = dyn Fn(&Error) -> Response + Send + Sync;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) body_limit: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) dry_run: bool,
    pub(crate) commit_if: Option<Arc<CommitIf>>,
    pub(crate) error_response: Option<Arc<RenderError>>,
}

impl Interlock {
    /// An interlock on `pool`, with the defaults named at each setting.
    ///
    /// Any pool will do; [`pool_options`](Self::pool_options) makes the one we recommend. Nothing
    /// is sent yet. The first transaction looks at the server once: it is refused as
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured) if a setting of the session breaks a
    /// promise of this crate (`autocommit_before_ddl`, `default_transaction_use_follower_reads`, `force_savepoint_restart`),
    /// and a warning is logged for one that weakens it.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            shared: Arc::new(Shared {
                pool,
                server: OnceLock::new(),
                handoff: OnceLock::new(),
                turns: Turns::default(),
                running: TaskTracker::new(),
            }),
            settings: Arc::new(Settings::default()),
        }
    }

    /// Options for the pool, to be completed with its size.
    ///
    /// * `test_before_acquire(false)`: the ping would cost a round trip for each request, and a
    ///   dead connection at BEGIN is replaced anyway.
    /// * `acquire_timeout(5 s)`: half of the default [`deadline`](Self::deadline), so that a full
    ///   pool is answered as such.
    /// * An `after_connect` that sets, each where the server knows it:
    ///   * `default_transaction_isolation = 'serializable'`, so that queries on the pool, too,
    ///     respect the permissions that the layer checks;
    ///   * `statement_timeout = '20s'`, the server's side of the default deadline. It is longer,
    ///     because CockroachDB applies it to COMMIT as well, whose outcome it then leaves unknown;
    ///   * `idle_in_transaction_session_timeout = '30s'`, for locks of a process that hangs;
    ///   * `autocommit_before_ddl = off`: [on by default](https://www.cockroachlabs.com/docs/stable/session-variables)
    ///     since CockroachDB v25.1, it commits half a request when a handler sends DDL.
    ///
    ///   An `after_connect` of your own replaces this one.
    #[must_use]
    pub fn pool_options() -> PgPoolOptions {
        server::pool_options()
    }

    /// The layer that lets a request pass if `policy` does.
    ///
    /// For a policy whose extractors need state, see
    /// [`require_with_state`](Self::require_with_state).
    pub fn require<P, M>(&self, policy: P) -> AuthorizeLayer
    where
        P: Policy<M, ()>,
        M: 'static,
    {
        self.require_with_state((), policy)
    }

    /// The layer that lets a request pass if `policy` does, with `state` for its extractors.
    pub fn require_with_state<S, P, M>(&self, state: S, policy: P) -> AuthorizeLayer
    where
        P: Policy<M, S>,
        S: Send + Sync + 'static,
        M: 'static,
    {
        AuthorizeLayer::new(self.clone(), Arc::new(Stateful::new(policy, state)))
    }

    /// How long a request may take from the end of its body to its answer, all attempts included.
    /// Default: 10 seconds, well above what a transaction should take, well below what a proxy waits.
    ///
    /// Past it the handler is cancelled, the transaction is rolled back, and the answer is
    /// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded). Only a COMMIT that was already
    /// sent gets [`grace`](Self::grace).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.change().deadline = deadline;
        self
    }

    /// How long past the [`deadline`](Self::deadline) the answer to a COMMIT is awaited.
    /// Default: 5 seconds, more than a COMMIT needs that will be acknowledged at all.
    ///
    /// Then the answer is [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown). The COMMIT goes
    /// on, and its outcome is logged.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.change().grace = grace;
        self
    }

    /// How many bytes of a request body are kept in memory, to be replayed.
    /// Default: 2 MiB, as axum's own limit.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.change().body_limit = bytes;
        self
    }

    /// How long a client may take to send its body. Default: 30 seconds.
    ///
    /// No connection is taken before the body is there, so slow clients cost memory only.
    #[must_use]
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.change().body_timeout = timeout;
        self
    }

    /// How often a request is run at most; 0 counts as 1. Default: 100; under contention the
    /// [`deadline`](Self::deadline) is what should end it.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.change().max_attempts = attempts.max(1);
        self
    }

    /// How requests wait that have met a serialization failure. Default: 2 ms and 100 ms.
    ///
    /// They stand in a line with those for the same path, for of those who want one row only one can
    /// commit. Whose turn it is runs again at once, and after some failures more with pauses: full
    /// jitter up to `base`, doubled for each, up to `cap`. Nobody waits for a turn longer than
    /// `cap`. While the line is a crowd, those who have not begun yet wait as long, for it to disperse.
    /// No connection is held meanwhile.
    ///
    /// Lines are those of this process. A conditional write only pauses.
    #[must_use]
    pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
        self.change().backoff = Backoff { base, cap };
        self
    }

    /// Hands a connection that a request is done with straight to the next one. Off by default.
    ///
    /// sqlx pings each connection that comes back to its pool, and nobody has it until that is answered.
    /// Without the trip through the pool, a full one serves up to twice as many conditional writes,
    /// and a quarter more requests that make four round trips.
    ///
    /// **In between, the pool's `after_release` and `before_acquire` do not run**, and it tests nothing.
    /// Leave it off if they take back what a request may leave on its connection, as with `RESET ALL`.
    ///
    /// A connection is handed on only when it is known to be in step with the server, outside of a
    /// transaction. It goes to the pool when no request wants it at once, and from the request that
    /// has it 100 ms after it came from there, so that others who wait get their turn. Holds for all
    /// clones of this one.
    #[must_use]
    pub fn handoff(self) -> Self {
        self.shared.handoff.get_or_init(Arc::default);
        self
    }

    /// Always rolls back, after having checked the deferred constraints. For tests.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.change().dry_run = true;
        self
    }

    /// Says which answers of 2xx and 3xx are successes. Default: all of them.
    ///
    /// For protocols like gRPC or GraphQL that answer 200 for errors. Where it says no, the
    /// transaction is rolled back and the answer goes out.
    #[must_use]
    pub fn commit_if(
        mut self,
        condition: impl Fn(&Response) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.change().commit_if = Some(Arc::new(condition));
        self
    }

    /// Renders errors: those of the layer itself, and each [`Error`] or
    /// [`Denied`](crate::Denied) that a policy or a handler answers with.
    /// Default: problem+json. Take care to keep an [`Error`]'s source to yourself.
    #[must_use]
    pub fn error_response(
        mut self,
        render: impl Fn(&Error) -> Response + Send + Sync + 'static,
    ) -> Self {
        self.change().error_response = Some(Arc::new(render));
        self
    }

    /// Stops: new requests are answered with [`Unavailable`](crate::ErrorKind::Unavailable), and the
    /// returned future waits for those under way, for their COMMITs and ROLLBACKs and for their hooks.
    ///
    /// For all clones, and for good. Call it after the server's graceful shutdown and before the
    /// pool is closed. Dropping the future stops the waiting only.
    pub async fn drain(&self) {
        self.shared.running.close();
        self.shared.running.wait().await;
    }

    fn change(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            body_limit: 2 * 1024 * 1024,
            body_timeout: Duration::from_secs(30),
            max_attempts: 100,
            backoff: Backoff {
                base: Duration::from_millis(2),
                cap: Duration::from_millis(100),
            },
            dry_run: false,
            commit_if: None,
            error_response: None,
        }
    }
}

impl fmt::Debug for Interlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interlock")
            .field("deadline", &self.settings.deadline)
            .field("max_attempts", &self.settings.max_attempts)
            .field("dry_run", &self.settings.dry_run)
            .finish_non_exhaustive()
    }
}
