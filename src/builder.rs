//! The settings of an `Interlock`.

use std::{fmt, sync::Arc, time::Duration};

use axum_core::response::Response;
use http::request::Parts;
use sqlx::PgPool;

use crate::{
    attempt::{Backoff, Engine, Limits},
    error::Error,
    http::Options,
    jobs,
    observe::Observer,
    receipts::Receipts,
};

/// The settings of an [`Interlock`](crate::Interlock), from
/// [`Interlock::builder`](crate::Interlock::builder).
///
/// [`AuthorizeLayer`](crate::AuthorizeLayer) and
/// [`TransactionBuilder`](crate::transact::TransactionBuilder) override some of them.
#[must_use = "call build() for the Interlock"]
pub struct InterlockBuilder {
    pool: PgPool,
    handoff: bool,
    limits: Limits,
    options: Options,
    receipts: Option<Receipts>,
    jobs: bool,
    observer: Option<Arc<dyn Observer>>,
}

impl InterlockBuilder {
    pub(crate) fn new(pool: PgPool, handoff: bool) -> Self {
        Self {
            pool,
            handoff,
            limits: Limits::default(),
            options: Options::default(),
            receipts: None,
            jobs: false,
            observer: None,
        }
    }

    /// Sets how long work may take from the end of the request's body to the response, all attempts
    /// included. Default: 10 seconds, well above what a transaction should take, well below what a
    /// proxy waits.
    ///
    /// Past the deadline the handler is cancelled, the transaction is rolled back, and the response
    /// is [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded). Only a COMMIT that was already
    /// sent gets the [`grace`](Self::grace) period.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.set_deadline(deadline);
        self
    }

    /// Sets how long to wait for COMMIT after the [`deadline`](Self::deadline). Default: 5 seconds,
    /// more than a COMMIT takes that will be acknowledged at all.
    ///
    /// Then the response is [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown). The COMMIT goes
    /// on, and its outcome is logged. After another 5 seconds without a reply its connection is
    /// closed, and the outcome stays unknown.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.limits.set_grace(grace);
        self
    }

    /// Sets the maximum number of attempts; 0 counts as 1. Default: 100. Under contention the
    /// [`deadline`](Self::deadline) should be what ends the attempts.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.limits.set_max_attempts(attempts);
        self
    }

    /// Sets the pauses after a serialization failure. Default: 2 ms, up to 100 ms.
    ///
    /// Requests that meet a serialization failure are queued by path, transactions by name. On
    /// PostgreSQL two at a time are retried, on CockroachDB one, first at once, then with jittered
    /// pauses. While 8 or more are queued, new requests for the path wait too. No wait exceeds the
    /// longest pause. From its second serialization failure on, work also waits in one queue for
    /// all paths and names, which retries one at a time.
    ///
    /// No connection is held meanwhile, with one exception: on PostgreSQL the one that is next in a
    /// queue begins its transaction before its turn, if the pool has a connection to spare.
    ///
    /// Each process has its own queues. A conditional write only pauses.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.limits.backoff = backoff;
        self
    }

    /// Rolls back always, for tests. Deferred constraints are checked first, so that the response
    /// is that of a commit. Default: off.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.limits.dry_run = dry_run;
        self
    }

    /// Passes a released connection to the next waiting request, bypassing the pool. Default: off
    /// with a pool of your own, on with [`Interlock::connect`](crate::Interlock::connect).
    ///
    /// sqlx pings each connection that returns to the pool, and lends it to no request meanwhile:
    /// under load that is one round trip in five. A connection returns to the pool if no request is
    /// waiting, and at the latest 100 ms after it was acquired. The pool's `before_acquire` and
    /// `after_release` do not run for connections that bypass it.
    ///
    /// If a request already waits when another one commits, its BEGIN travels with that COMMIT, which
    /// saves it a round trip. A ROLLBACK travels with the BEGIN of the request that takes the
    /// connection next. BEGIN is never sent before its request has come, so `now()`, and on
    /// CockroachDB the snapshot, are not older than the request.
    pub fn handoff(mut self, handoff: bool) -> Self {
        self.handoff = handoff;
        self
    }

    /// Sets how many bytes of a request body are kept in memory, to be replayed. Default: axum's
    /// own limit, which is 2 MiB unless a
    /// [`DefaultBodyLimit`](https://docs.rs/axum/latest/axum/extract/struct.DefaultBodyLimit.html)
    /// outside of the layer changes it.
    ///
    /// It takes the place of a `DefaultBodyLimit` outside of the layer, also of a smaller one. One
    /// inside of the layer applies as well. Where a `DefaultBodyLimit` is disabled, set this limit.
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.options.body_limit = Some(bytes);
        self
    }

    /// Sets how long a client may take to send its body. Default: 30 seconds.
    ///
    /// No connection is acquired before the body has arrived, so slow clients only cost memory.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.options.body_timeout = timeout;
        self
    }

    /// Decides which responses of 2xx, 3xx and 101 are successes. Default: all of them.
    ///
    /// It is for protocols such as gRPC and GraphQL, which respond with 200 to errors. Where it
    /// returns false, the transaction is rolled back and the response is sent.
    pub fn commit_if(
        mut self,
        condition: impl Fn(&Response) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.commit_if = Some(Arc::new(condition));
        self
    }

    /// Renders errors: those of the layer itself, and each [`Error`] or [`Denied`](crate::Denied)
    /// of a policy or handler. Default: problem documents.
    ///
    /// The response has its status and its body. Headers that the response had before, such as
    /// `Set-Cookie`, `WWW-Authenticate` or `Retry-After`, remain, except for those that describe
    /// its body; a header that `render` sets replaces the one of the same name.
    ///
    /// Do not put the error's source into the response: it may contain database text.
    pub fn error_response(
        mut self,
        render: impl Fn(&Error) -> Response + Send + Sync + 'static,
    ) -> Self {
        self.options.error_response = Some(Arc::new(render));
        self
    }

    /// Reads who a request is recorded for, from what authentication has left in the request.
    /// Default: no one.
    ///
    /// It is called once per request. The principal is for the observer, for audits and for
    /// [`Tx::principal`](crate::TxExecutor::principal). It is an identity for records, never an
    /// authorization.
    pub fn principal(
        mut self,
        principal: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.options.principal = Some(Arc::new(principal));
        self
    }

    /// Stores a receipt with each COMMIT; see [`Receipts`]. Default: none, at no cost.
    ///
    /// All interlocks and processes that serve one route need it, or none: a copy of a request that
    /// meets an interlock without receipts is executed again.
    pub fn receipts(mut self, receipts: Receipts) -> Self {
        self.receipts = Some(receipts);
        self
    }

    /// Uses the queue of [jobs](crate::jobs), whose table is made by
    /// [`schema::JOBS`](crate::schema::JOBS). Default: none, at no cost.
    ///
    /// If the table is missing, the first work is rejected as
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured).
    pub fn jobs(mut self) -> Self {
        self.jobs = true;
        self
    }

    /// Installs an observer. Default: none, at no cost.
    pub fn observe(mut self, observer: impl Observer) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    pub(crate) fn into_parts(self) -> (Engine, Limits, Options) {
        if self.pool.options().get_test_before_acquire() {
            tracing::info!(
                "the pool pings each connection before use, which costs each request a round trip: \
                 make the pool with Interlock::pool_options()"
            );
        }
        let jobs = self.jobs.then_some(jobs::REQUIRED_TABLE);
        let engine = Engine::new(self.pool, self.handoff, self.receipts, jobs, self.observer);
        (engine, self.limits, self.options)
    }
}

impl fmt::Debug for InterlockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterlockBuilder")
            .field("handoff", &self.handoff)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
