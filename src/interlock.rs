//! The handle.

use std::{fmt, sync::Arc};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    attempt::{Engine, Limits},
    builder::InterlockBuilder,
    database,
    error::{Error, ErrorKind},
    http::{
        AuthorizeLayer, MarkLayer, Options, Policy, PolicyWithState,
        probe::{ProbedCondition, Protection},
    },
    jobs::{Jobs, Worker},
    receipts,
    transact::TransactionBuilder,
    tx::{Tx, scope},
    write::{self, ConditionalWrite},
};

/// The handle that makes [layers](AuthorizeLayer) and runs transactions: a pool, and the settings.
///
/// Clones are cheap and belong together: their layers may be nested and then share one transaction.
///
/// ```
/// use std::time::Duration;
/// use tower_interlock::Interlock;
///
/// # #[tokio::main] async fn main() -> Result<(), sqlx::Error> {
/// let pool = Interlock::pool_options()
///     .max_connections(16)
///     .connect_lazy("postgres://root@localhost:26257/app")?;
/// let interlock = Interlock::builder(pool).deadline(Duration::from_secs(5)).build();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Interlock {
    engine: Arc<Engine>,
    limits: Limits,
    options: Arc<Options>,
}

impl Interlock {
    /// Returns an interlock on `pool` with the defaults of each [setting](InterlockBuilder).
    ///
    /// Any pool will do; [`pool_options`](Self::pool_options) makes the recommended one. Nothing is
    /// sent yet. The first transaction inspects the server once: it is rejected as
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured) if a setting of the session breaks a
    /// promise of this crate (`autocommit_before_ddl`, `default_transaction_use_follower_reads`,
    /// `force_savepoint_restart`), and a warning is logged for a setting that weakens one.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self::builder(pool).build()
    }

    /// Returns a builder for an interlock on `pool`.
    pub fn builder(pool: PgPool) -> InterlockBuilder {
        InterlockBuilder::new(pool, false)
    }

    /// Connects to `url` with the recommended pool of 10 connections, and inspects the server.
    ///
    /// No other code has the pool, so connections pass from request to request: see
    /// [`handoff`](InterlockBuilder::handoff).
    ///
    /// # Errors
    ///
    /// Returns [`Misconfigured`](crate::ErrorKind::Misconfigured) if `url` is malformed or a
    /// setting of the server breaks a promise, and [`Unavailable`](crate::ErrorKind::Unavailable)
    /// if there is no connection.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let options: PgConnectOptions = url
            .parse()
            .map_err(|error| Error::database(ErrorKind::Misconfigured, error))?;
        let interlock = Self::connect_with(options, 10).build();
        interlock.engine.database.inspect().await?;
        Ok(interlock)
    }

    /// Returns a builder for an interlock with the recommended pool of `max_connections`, which
    /// connects when it is first used. [`handoff`](InterlockBuilder::handoff) is on.
    pub fn connect_with(options: PgConnectOptions, max_connections: u32) -> InterlockBuilder {
        let pool = Self::pool_options().max_connections(max_connections);
        InterlockBuilder::new(pool.connect_lazy_with(options), true)
    }

    /// Returns the recommended options for a pool, to be completed with its size.
    ///
    /// * `test_before_acquire(false)`: the ping would cost a round trip for each request, and a
    ///   dead connection at BEGIN is replaced anyway.
    /// * A `before_acquire` that pings a connection that was idle for a second or longer, for a
    ///   second at most: a statement that is its own COMMIT cannot be repeated on another
    ///   connection.
    /// * `acquire_timeout(5 s)`: half of the default [`deadline`](InterlockBuilder::deadline), so
    ///   that an exhausted pool is reported as such.
    /// * An `after_connect` that sets, each where the server knows it:
    ///   * `default_transaction_isolation = 'serializable'`, so that queries on the pool respect
    ///     the permissions that the layer checks as well;
    ///   * `statement_timeout = '20s'`, the server's side of the default deadline. It is longer,
    ///     because CockroachDB applies it to COMMIT as well, whose outcome it then leaves unknown;
    ///   * `idle_in_transaction_session_timeout = '30s'`, for the locks of a process that hangs;
    ///   * `client_connection_check_interval = '1s'` (PostgreSQL 14): a statement whose connection
    ///     was closed, because its client disconnected or its deadline has passed, is stopped
    ///     within a second. PostgreSQL 13 finishes it, and keeps its locks meanwhile;
    ///   * `autocommit_before_ddl = off`: [on by
    ///     default](https://www.cockroachlabs.com/docs/stable/session-variables) since CockroachDB
    ///     v25.1, it commits half a request when a handler sends DDL.
    ///
    /// Your own `after_connect` and `before_acquire` replace these.
    #[must_use]
    pub fn pool_options() -> PgPoolOptions {
        database::pool_options()
    }

    /// Returns the layer that lets a request pass if `policy` allows it.
    ///
    /// For a policy whose extractors need state, use
    /// [`require_with_state`](Self::require_with_state).
    pub fn require<P, M>(&self, policy: P) -> AuthorizeLayer
    where
        P: Policy<M, ()>,
        M: 'static,
    {
        self.require_with_state((), policy)
    }

    /// Returns the layer that lets a request pass if `policy` allows it, with `state` for the
    /// policy's extractors.
    pub fn require_with_state<S, P, M>(&self, state: S, policy: P) -> AuthorizeLayer
    where
        P: Policy<M, S>,
        S: Send + Sync + 'static,
        M: 'static,
    {
        AuthorizeLayer::new(
            Arc::clone(&self.engine),
            self.limits,
            Options::clone(&self.options),
            Arc::new(PolicyWithState::new(policy, state)),
        )
    }

    /// Returns the mark of a route that needs no policy because everyone may use it, and says why.
    ///
    /// It checks nothing, and requests pass unchanged. Audits are told: see
    /// [`probe`](crate::probe).
    pub fn public(&self, reason: &'static str) -> MarkLayer {
        MarkLayer::new(Protection::Public { reason })
    }

    /// Returns the mark of a route that needs no policy because its handler checks and writes with
    /// `write`.
    ///
    /// It checks nothing, and requests pass unchanged. Audits are told: see
    /// [`probe`](crate::probe).
    pub fn conditional(&self, write: &'static ConditionalWrite) -> MarkLayer {
        let conditions = write
            .conditions()
            .iter()
            .map(|condition| ProbedCondition::new(condition.kind, condition.status, condition.sql));
        MarkLayer::new(Protection::Conditional {
            statement: write.statement(),
            conditions: conditions.collect(),
        })
    }

    /// Runs `work` in a SERIALIZABLE transaction outside of a request. It commits if `work` returns
    /// `Ok`, and rolls back if it returns `Err`.
    ///
    /// The promises, limits, retries and hooks are those of a request. After a serialization
    /// failure `work` is called again with a new [`Tx`], so it must have no other effects; use
    /// [`Tx::after_commit`](crate::TxExecutor::after_commit) for those. Permissions are checked
    /// inside of `work`, by the same functions that the policies of requests call.
    ///
    /// ```
    /// use tower_interlock::{Denied, Error, Interlock, Tx};
    ///
    /// async fn may_purge(tx: &mut Tx, user: i64) -> Result<(), Error> {
    ///     let rule = "SELECT EXISTS (SELECT 1 FROM administrators WHERE user_id = $1)";
    ///     let allowed: bool = sqlx::query_scalar(rule).bind(user).fetch_one(tx).await?;
    ///     Ok(Denied::unless(allowed, "no administrator")?)
    /// }
    ///
    /// async fn purge(interlock: &Interlock, user: i64) -> Result<u64, Error> {
    ///     interlock
    ///         .transact(async |mut tx: Tx| {
    ///             may_purge(&mut tx, user).await?;
    ///             let purged = sqlx::query("DELETE FROM documents WHERE deleted").execute(&mut tx).await?;
    ///             Ok::<_, Error>(purged.rows_affected())
    ///         })
    ///         .await
    /// }
    /// ```
    ///
    /// For a future that is `Send`, pass `async |mut tx: Tx| { … }` without `move`, or a closure
    /// that returns an `async move` block.
    ///
    /// # Nesting
    ///
    /// While the task has a [`Tx`] on the same pool open, it is
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured). It does not join that transaction, since
    /// it could then neither commit nor be retried on its own.
    ///
    /// # Errors
    ///
    /// Returns the error of `work`, or an [`Error`] converted to it:
    /// [`RetriesExhausted`](crate::ErrorKind::RetriesExhausted),
    /// [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded),
    /// [`ConstraintViolation`](crate::ErrorKind::ConstraintViolation),
    /// [`TransactionAborted`](crate::ErrorKind::TransactionAborted) if `work` returned `Ok`
    /// although a statement had failed, [`TxEscaped`](crate::ErrorKind::TxEscaped) if its `Tx` is
    /// still alive, and [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown). Nothing was kept
    /// unless [`Error::outcome`] says so.
    ///
    /// # Cancellation
    ///
    /// Dropped, it rolls back. A COMMIT that was sent is finished in the background, with its
    /// hooks.
    #[doc(alias = "begin")]
    pub async fn transact<T, E, F, Fut>(&self, work: F) -> Result<T, E>
    where
        F: FnMut(Tx) -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send,
        T: Send,
        E: From<Error> + Send + 'static,
    {
        self.transaction().run(work).await
    }

    /// Returns a transaction with settings of its own: a name, a deadline, READ ONLY.
    ///
    /// ```
    /// # use tower_interlock::{Error, Interlock, Tx};
    /// # async fn count(interlock: &Interlock) -> Result<i64, Error> {
    /// let count = interlock.transaction().named("documents.count").read_only();
    /// count
    ///     .run(async |mut tx: Tx| {
    ///         let count = sqlx::query_scalar("SELECT count(*) FROM documents").fetch_one(&mut tx).await?;
    ///         Ok::<_, Error>(count)
    ///     })
    ///     .await
    /// # }
    /// ```
    pub fn transaction(&self) -> TransactionBuilder<'_> {
        TransactionBuilder::new(&self.engine, self.limits)
    }

    /// Returns a worker, which runs the jobs that [`Tx::enqueue`](crate::TxExecutor::enqueue) has
    /// stored. See [`jobs`](crate::jobs).
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.engine), self.limits)
    }

    /// Returns the queue of jobs, for operators: its state, and the jobs that have ended without
    /// being done.
    #[must_use]
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs::new(&self.engine.database, self.limits)
    }

    /// Removes expired [receipts](crate::Receipts), and returns how many: those whose removal was
    /// acknowledged.
    ///
    /// It removes a thousand at a time, each thousand in a transaction of its own, until none is
    /// left or the [`deadline`](InterlockBuilder::deadline) has passed. Call it now and then, such
    /// as once an hour. CockroachDB from v22.2 on can do it alone: see
    /// [`schema::RECEIPTS`](crate::schema::RECEIPTS).
    ///
    /// # Errors
    ///
    /// Returns the error of the database, [`Misconfigured`](crate::ErrorKind::Misconfigured) while the
    /// task has a [`Tx`] open, and [`Unavailable`](crate::ErrorKind::Unavailable) after
    /// [`drain`](Self::drain). Those that were removed stay removed.
    ///
    /// # Cancellation
    ///
    /// Dropped, it stops. The thousand under way is finished in the background.
    pub async fn purge_receipts(&self) -> Result<u64, Error> {
        scope::check_may_begin(&self.engine.database)?;
        let limit = tokio::time::Instant::now() + self.limits.deadline;
        receipts::purge(&self.engine.database, limit).await
    }

    /// Returns how many denials were not recorded, because too many were waiting or the database
    /// rejected them, since the interlock was made. See
    /// [`record_denials`](crate::Receipts::record_denials).
    #[must_use]
    pub fn unrecorded_denials(&self) -> u64 {
        self.engine.denials.unrecorded()
    }

    /// Rejects new work with [`Unavailable`](crate::ErrorKind::Unavailable), and waits for the work
    /// under way, its COMMITs and ROLLBACKs, and its hooks.
    ///
    /// A conditional write or a `transact` of accepted work, or of a hook, is not new: it is made.
    /// In a task that such work has spawned it is.
    ///
    /// It applies to all clones, and cannot be undone. Call it after the server's graceful shutdown
    /// and before the pool is closed. Dropping the future stops the waiting only.
    pub async fn drain(&self) {
        self.engine.drain().await;
    }
}

impl InterlockBuilder {
    /// Returns the interlock.
    #[must_use]
    pub fn build(self) -> Interlock {
        let (engine, limits, options) = self.into_parts();
        Interlock {
            engine: Arc::new(engine),
            limits,
            options: Arc::new(options),
        }
    }
}

impl write::sealed::Target for &Interlock {
    const UNREADABLE: write::Unreadable = write::Unreadable::Kept;

    async fn run(self, statement: write::BoundStatement) -> Result<Option<write::Written>, Error> {
        write::run_autocommit(&self.engine, &self.limits, &statement).await
    }
}

impl fmt::Debug for Interlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interlock")
            .field("deadline", &self.limits.deadline)
            .field("max_attempts", &self.limits.max_attempts)
            .field("dry_run", &self.limits.dry_run)
            .finish_non_exhaustive()
    }
}
