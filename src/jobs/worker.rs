//! The worker.

use std::{collections::HashMap, fmt, pin::pin, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    attempt::{Backoff, Engine, Limits},
    error::{Error, ErrorKind},
    jobs::{
        claims::Claims,
        dispatch::Dispatcher,
        failure::BoxError,
        handler::{ErasedHandler, RunningJob, TypedHandler},
        runner::Runner,
    },
    tx::Tx,
};

/// Runs jobs, from [`Interlock::worker`](crate::Interlock::worker).
///
/// Any number of workers, in any number of processes, share one queue. Each may have handlers for
/// other kinds: a job whose kind no worker knows waits, and is in the way of no other one.
///
/// # A run
///
/// A worker claims a job that is due: for the time of the [lease](Self::lease) no other worker
/// takes it. The claim counts the run before it begins. Then the handler is called with a [`Tx`],
/// as a closure of [`transact`](crate::Interlock::transact) is, and retried after a serialization
/// failure. In the same transaction the row of the job is deleted. So the effects in the database
/// happen once. Any other effect may be repeated: use the [id](RunningJob::id) of the job as an
/// idempotency key, or [`Tx::after_commit`](crate::TxExecutor::after_commit).
///
/// | end of the run | the job |
/// |---|---|
/// | `Ok`, committed | is done, and its row is gone |
/// | `Err` with a [`Denied`](crate::Denied) | has ended as denied, for that reason, and never runs again |
/// | any other `Err`, a panic, `rollback_only` | is retried after the [backoff](Self::backoff), and parked after [`max_runs`](Self::max_runs) |
/// | the payload does not fit the handler | is parked at once |
/// | its deadline passes | as for any other `Err` |
/// | the lease ends, because the process was killed or has lost the database | is due again, for any worker. A late run commits nothing |
/// | the outcome of COMMIT is unknown | is done if its row is gone, and is retried otherwise |
///
/// All times are those of the database. If its clock jumps, a job runs sooner or later than it
/// should, and its effects still happen once.
#[must_use = "it does nothing until it runs"]
pub struct Worker {
    engine: Arc<Engine>,
    limits: Limits,
    handlers: HashMap<&'static str, Arc<dyn ErasedHandler>>,
    lease: Duration,
    max_runs: u32,
    backoff: Backoff,
    concurrency: usize,
    poll_interval: Duration,
}

impl Worker {
    pub(crate) fn new(engine: Arc<Engine>, limits: Limits) -> Self {
        Self {
            engine,
            limits,
            handlers: HashMap::new(),
            lease: Duration::from_secs(60),
            max_runs: 25,
            backoff: Backoff::new(Duration::from_secs(5), Duration::from_secs(60 * 60)),
            concurrency: 4,
            poll_interval: Duration::from_secs(1),
        }
    }

    /// Adds the handler for jobs of `kind`, or replaces it.
    ///
    /// It gets the job, whose payload is a `T`, and the transaction. It calls the rule first: the
    /// same function that the policy of the request has called. It is called again for each
    /// attempt.
    pub fn on<T, E, F, Fut>(mut self, kind: &'static str, handler: F) -> Self
    where
        F: Fn(RunningJob<T>, Tx) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        T: DeserializeOwned + Send + Sync + 'static,
        E: Into<BoxError> + 'static,
    {
        self.handlers
            .insert(kind, Arc::new(TypedHandler::new(handler)));
        self
    }

    /// Sets how long a job is leased for a run, all attempts included. Default: a minute. At least
    /// 100 ms.
    ///
    /// It is the time after which a job whose worker was killed is due again. The deadline of the
    /// run, instead of [`InterlockBuilder::deadline`](crate::InterlockBuilder::deadline), is an
    /// eighth of it earlier, and at most a second: the end of the run is recorded in that time.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease.clamp(SHORTEST_LEASE, LONGEST_LEASE);
        self
    }

    /// Sets after how many runs a job is parked. Default: 25. At least 1.
    pub fn max_runs(mut self, runs: u32) -> Self {
        self.max_runs = runs.max(1);
        self
    }

    /// Sets the pauses after a run that has failed. Default: 5 seconds, up to an hour.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets how many jobs run at a time. Default: 4. At least 1.
    ///
    /// Each has a connection of the pool while it runs, and the worker keeps one for its claims, so
    /// with a pool of `n` connections at most `n - 1` run at a time. Leave some for the requests.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs.clamp(1, MOST_JOBS);
        self
    }

    /// Sets how often an idle worker looks for jobs that other processes have enqueued, or that have
    /// become due. Default: about once a second.
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.poll_interval = interval.clamp(SHORTEST_POLL, LONGEST_LEASE);
        self
    }

    /// Runs jobs until `shutdown` is ready or the interlock is
    /// [drained](crate::Interlock::drain), and then returns once the jobs that are running have
    /// ended.
    ///
    /// While the database is not available, it looks again at each poll.
    ///
    /// # Errors
    ///
    /// Returns [`Misconfigured`](crate::ErrorKind::Misconfigured) without a handler, without
    /// [`InterlockBuilder::jobs`](crate::InterlockBuilder::jobs), with
    /// [`dry_run`](crate::InterlockBuilder::dry_run), with a pool of one connection, if the table is
    /// missing or a setting of the server breaks a promise.
    ///
    /// # Cancellation
    ///
    /// Dropped, the runs are rolled back, except for a COMMIT that was sent. Their jobs are due
    /// again when their leases end.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let misconfigured = |cause: &str| Error::because(ErrorKind::Misconfigured, cause);
        let Some(enqueued) = self.engine.enqueued.as_ref() else {
            return Err(misconfigured("a worker needs InterlockBuilder::jobs()"));
        };
        if self.handlers.is_empty() {
            return Err(misconfigured("a worker needs a handler: Worker::on"));
        }
        if self.limits.dry_run {
            return Err(misconfigured(
                "a worker has no dry run: no job would ever be done",
            ));
        }
        // One is kept for the claims.
        let connections = self.engine.database.connections();
        let connections = usize::try_from(connections)
            .unwrap_or(usize::MAX)
            .saturating_sub(1);
        if connections == 0 {
            return Err(misconfigured("a worker needs a pool of two connections"));
        }
        let concurrency = self.concurrency.min(connections);
        let wake = enqueued.subscribe();
        let claims = Claims::new(
            Arc::clone(&self.engine.database),
            self.handlers.keys().copied().collect(),
            self.lease,
            concurrency,
        );
        let runner = Runner {
            engine: self.engine,
            limits: self.limits,
            handlers: self.handlers,
            max_runs: self.max_runs,
            backoff: self.backoff,
        };
        let dispatcher = Dispatcher::new(
            Arc::new(runner),
            claims,
            concurrency,
            self.poll_interval,
            wake,
        );
        dispatcher.run(pin!(shutdown)).await
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("kinds", &self.handlers.keys())
            .field("lease", &self.lease)
            .field("max_runs", &self.max_runs)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

const SHORTEST_LEASE: Duration = Duration::from_millis(100);
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 60 * 60);
const SHORTEST_POLL: Duration = Duration::from_millis(10);
const MOST_JOBS: usize = 1_000;
