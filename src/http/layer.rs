//! The Tower layer.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use crate::{
    attempt::{Engine, Limits},
    database::Access,
    http::{
        idempotency::Idempotency,
        options::Options,
        policy::ErasedPolicy,
        route::{BodyMode, Route},
        service::AuthorizeService,
    },
};

/// Checks a policy and runs the inner service in one transaction, from
/// [`Interlock::require`](crate::Interlock::require).
///
/// Apply it with
/// [`Router::route_layer`](https://docs.rs/axum/latest/axum/struct.Router.html#method.route_layer).
/// Under `Router::layer` it also runs for paths that no route matches: a client then learns which
/// paths exist, and every unknown path costs a check. `get(a).route_layer(x).put(b).route_layer(y)`
/// wraps `a` in both layers; give each method its own `Router::route`.
///
/// It wraps any `Service<Request<Body>>` whose response has a body, and keeps its error type. To
/// retry a request, it calls the service again, each time after it was ready.
///
/// # When it commits
///
/// The first rule that applies decides. The numbers are those of
/// [the contract](https://docs.rs/crate/tower-interlock/latest/source/docs/contract.md).
///
/// 1. On a panic the transaction is rolled back and the panic resumes.
/// 2. If a [`Tx`](crate::Tx) is still alive, the transaction is rolled back: 500.
/// 3. After a serialization failure, a lost connection, or a constraint violation that may be one
///    in disguise, wherever it occurred, the transaction is rolled back, and policy and handler are
///    retried.
/// 4. If a policy denied, the transaction is rolled back: the policy's response.
/// 5. If a policy failed, the transaction is rolled back and the handler does not run: 5xx.
/// 6. A response of 4xx or 5xx, or of 1xx except for 101, rolls back, unless
///    [`commit_on_client_error`](crate::Tx::commit_on_client_error) keeps a 4xx.
/// 7. A success (2xx, 3xx or 101) over a recorded error that no savepoint has cleared rolls back:
///    500.
/// 8. A success over the 4xx or 5xx of an inner layer rolls back: 500.
/// 9. [`rollback_only`](crate::TxExecutor::rollback_only) and
///    [`dry_run`](crate::InterlockBuilder::dry_run) roll back.
/// 10. Everything else is committed, and the response leaves after the database has acknowledged
///     the COMMIT.
///
/// A serialization failure of COMMIT retries policy and handler as well. Any other failure of it
/// that does not prove that nothing was kept is
/// [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown), and is never retried.
///
/// # What is not retried
///
/// A request that asks for an upgrade, such as `WebSocketUpgrade`, has one attempt, because all
/// copies of it share one connection; an upgrade to `h2c` does not count. A request with another
/// value in its extensions that works only once, such as the sender of a channel, needs
/// [`max_attempts(1)`](Self::max_attempts): each attempt gets a clone of the extensions.
///
/// # Nesting
///
/// Inside of another layer of the same [`Interlock`](crate::Interlock) it joins that layer's
/// transaction. The outermost layer settles, and its settings apply.
///
/// A request that is made while the task has the transaction of another one open, and does not
/// carry its extensions, is [`Misconfigured`](crate::ErrorKind::Misconfigured).
///
/// # Cancellation
///
/// When the client disconnects, policy and handler are dropped wherever they are, and the
/// transaction is rolled back. A BEGIN, COMMIT or ROLLBACK that was sent is finished in the
/// background, and so are the hooks of a COMMIT.
#[doc(alias = "commit")]
#[derive(Clone)]
#[must_use = "it protects nothing until it is applied: `.route_layer(layer)`"]
pub struct AuthorizeLayer(Arc<Route>);

impl AuthorizeLayer {
    pub(crate) fn new(
        engine: Arc<Engine>,
        limits: Limits,
        options: Options,
        policy: Arc<dyn ErasedPolicy>,
    ) -> Self {
        let name = policy.type_name();
        Self(Arc::new(Route {
            engine,
            limits,
            options,
            policy,
            reads: Arc::default(),
            name,
            access: Access::ReadWrite,
            body: BodyMode::Buffered,
            idempotency: Idempotency::Unsupported,
        }))
    }

    /// Names the policy, such as `"documents.edit"`: for the [`Report`](crate::Report), the log,
    /// the observer and audits. Default: its type name, whose text is not stable.
    pub fn named(self, name: &'static str) -> Self {
        self.change(|route| route.name = name)
    }

    /// Makes the transaction READ ONLY: the database rejects every write.
    ///
    /// Inside of a layer that may write, everything from here on is read-only. A layer that may
    /// write inside of this one is [`Misconfigured`](crate::ErrorKind::Misconfigured).
    pub fn read_only(self) -> Self {
        self.change(|route| route.access = Access::ReadOnly)
    }

    /// Streams the body to the handler, for uploads. There is one attempt only, and the
    /// [`deadline`](Self::deadline) runs from the start.
    ///
    /// With a slow client, the connection is in use from the first statement on: read the body
    /// before the first statement of the handler.
    pub fn unbuffered(self) -> Self {
        self.change(|route| route.body = BodyMode::Streamed)
    }

    /// Makes each request have one effect, however often the client repeats it: the header
    /// `Idempotency-Key` tells its copies. It needs [`receipts`](crate::InterlockBuilder::receipts)
    /// and a [`principal`](crate::InterlockBuilder::principal).
    ///
    /// * The key is used up exactly if the request commits. After a denial, an error or a timeout
    ///   the client may repeat the request with the same key, and it is executed.
    /// * A request that was committed before gets the response of then: its status, headers and
    ///   body, and the header `Idempotent-Replayed: true`. Policy and handler do not run; what the
    ///   response tells was authorized when it was committed. The headers of one connection,
    ///   `Date`, `Set-Cookie` and headers that are marked sensitive are not kept.
    /// * Copies that run at the same time wait for each other in the database, and all of them get
    ///   the response of the one that commits.
    /// * A key belongs to the principal, the method and the path. The same key with another query,
    ///   content type or body is [`IdempotencyKeyReused`](crate::ErrorKind::IdempotencyKeyReused),
    ///   422. The principal must be unique among all that share the table of receipts.
    /// * If the response is longer than
    ///   [`response_limit`](crate::Receipts::response_limit), or of unknown length, a copy of the
    ///   request is [`AlreadyDone`](crate::ErrorKind::AlreadyDone), 409. It is not executed again.
    /// * A request without a key is
    ///   [`InvalidIdempotencyKey`](crate::ErrorKind::InvalidIdempotencyKey), 400. Requests with safe
    ///   methods need none, and their keys are ignored.
    ///
    /// The key is a String of [RFC 8941](https://www.rfc-editor.org/rfc/rfc8941#section-3.3.3), as in
    /// the [draft of the header](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/),
    /// or the same without quotes, of 1 to 255 characters.
    ///
    /// It belongs on the outermost layer of a route, under axum's `Router`, and excludes
    /// [`read_only`](Self::read_only) and [`unbuffered`](Self::unbuffered).
    pub fn idempotent(self) -> Self {
        self.change(|route| route.idempotency = Idempotency::Required)
    }

    /// Does the same as [`idempotent`](Self::idempotent) for requests that have a key, and lets
    /// others pass.
    pub fn idempotency_optional(self) -> Self {
        self.change(|route| route.idempotency = Idempotency::Optional)
    }

    /// Overrides [`InterlockBuilder::deadline`](crate::InterlockBuilder::deadline) for this route.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.change(|route| route.limits.set_deadline(deadline))
    }

    /// Overrides [`InterlockBuilder::grace`](crate::InterlockBuilder::grace) for this route.
    pub fn grace(self, grace: Duration) -> Self {
        self.change(|route| route.limits.set_grace(grace))
    }

    /// Overrides [`InterlockBuilder::max_attempts`](crate::InterlockBuilder::max_attempts) for this
    /// route.
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.change(|route| route.limits.set_max_attempts(attempts))
    }

    /// Overrides [`InterlockBuilder::body_limit`](crate::InterlockBuilder::body_limit), and axum's
    /// limit, for this route.
    pub fn body_limit(self, bytes: usize) -> Self {
        self.change(|route| route.options.body_limit = Some(bytes))
    }

    /// Overrides [`InterlockBuilder::body_timeout`](crate::InterlockBuilder::body_timeout) for this
    /// route.
    pub fn body_timeout(self, timeout: Duration) -> Self {
        self.change(|route| route.options.body_timeout = timeout)
    }

    fn change(mut self, change: impl FnOnce(&mut Route)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = AuthorizeService<S>;

    fn layer(&self, inner: S) -> AuthorizeService<S> {
        AuthorizeService::new(inner, Arc::clone(&self.0))
    }
}

impl fmt::Debug for AuthorizeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
