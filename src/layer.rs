//! The Tower layer and its service.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum_core::{
    BoxError,
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_core::future::BoxFuture;
use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    attempt,
    error::{Error, ErrorKind},
    interlock::Interlock,
    policy::Check,
    slot::{Slot, Verdict},
};

/// Checks a policy and runs the inner service in one transaction, from [`Interlock::require`].
///
/// Apply it with [`Router::route_layer`](https://docs.rs/axum/latest/axum/struct.Router.html#method.route_layer).
/// Under `Router::layer` it also runs for paths that no route matches: strangers then learn which
/// paths exist, and every typo costs a check. `get(a).route_layer(x).put(b).route_layer(y)` wraps
/// `a` in both: give each method its own `Router::route`.
///
/// It wraps any `Service<Request<Body>>` whose response has a body, and keeps its error type. If the
/// request may be replayed, the service is called again, each time after it was ready.
///
/// # When it commits
///
/// The first line that applies:
///
/// 1. A panic rolls back and goes on.
/// 2. A [`Tx`](crate::Tx) that is still around rolls back: 500.
/// 3. A serialization failure, wherever it came up, rolls back and runs policy and handler again.
/// 4. A denial rolls back: the policy's answer.
/// 5. A policy that failed rolls back, and the handler does not run: 5xx.
/// 6. A success over an error that no savepoint healed rolls back: 500.
/// 7. An answer of 4xx or 5xx rolls back, save [`commit_on_error`](crate::Tx::commit_on_error).
/// 8. [`rollback_only`](crate::Tx::rollback_only) and [`dry_run`](Interlock::dry_run) roll back.
/// 9. Everything else is committed, and the answer leaves after the database has acknowledged it.
///
/// A serialization failure of COMMIT runs policy and handler again as well. Any other failure of it
/// that does not prove that nothing was kept is
/// [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown), and is never repeated.
///
/// # Nesting
///
/// Inside another layer of the same [`Interlock`] it joins the transaction that is there. The
/// outermost one settles, and its settings count.
///
/// # Cancellation
///
/// When the client disconnects, policy and handler are dropped wherever they are and the
/// transaction is rolled back. A BEGIN, COMMIT or ROLLBACK that was sent is finished in the
/// background, and so are the hooks of a COMMIT.
#[derive(Clone)]
#[must_use]
pub struct AuthorizeLayer {
    pub(crate) interlock: Interlock,
    pub(crate) policy: Arc<dyn Check>,
    pub(crate) read_only: bool,
    pub(crate) unbuffered: bool,
}

impl AuthorizeLayer {
    pub(crate) fn new(interlock: Interlock, policy: Arc<dyn Check>) -> Self {
        Self {
            interlock,
            policy,
            read_only: false,
            unbuffered: false,
        }
    }

    /// Makes the transaction READ ONLY: the database refuses every write.
    ///
    /// Inside a layer that may write, everything from here on is read-only. A layer that may
    /// write inside this one is [`Misconfigured`](crate::ErrorKind::Misconfigured).
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Lets the body stream to the handler, for uploads. There is then one attempt only, and the
    /// [`deadline`](Interlock::deadline) runs from the start.
    ///
    /// A slow client holds a connection from the first statement on: let the handler read first.
    pub fn unbuffered(mut self) -> Self {
        self.unbuffered = true;
        self
    }
}

impl<S> Layer<S> for AuthorizeLayer {
    type Service = Authorize<S>;

    fn layer(&self, inner: S) -> Authorize<S> {
        Authorize {
            inner,
            layer: self.clone(),
        }
    }
}

impl fmt::Debug for AuthorizeLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizeLayer")
            .field("policy", &format_args!("{}", self.policy.name()))
            .field("read_only", &self.read_only)
            .field("unbuffered", &self.unbuffered)
            .finish_non_exhaustive()
    }
}

/// The service of an [`AuthorizeLayer`].
#[derive(Debug, Clone)]
pub struct Authorize<S> {
    inner: S,
    layer: AuthorizeLayer,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Authorize<S>
where
    S: Service<Request<Body>, Response = http::Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    ReqBody: http_body::Body<Data = Bytes> + Send + 'static,
    ReqBody::Error: Into<BoxError>,
    ResBody: http_body::Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = ResponseFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The one that is ready has to be called; the clone may not be.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        let request = request.map(Body::new);
        // Of a request that is over: somebody has used its extensions for another one.
        let slot = request.extensions().get::<Arc<Slot>>();
        let slot = slot.filter(|slot| !slot.is_closed()).cloned();
        ResponseFuture {
            inner: match slot {
                Some(slot) => Box::pin(join(layer, slot, inner, request)),
                None => Box::pin(attempt::run(layer, inner, request)),
            },
        }
    }
}

/// Runs inside the transaction of an outer layer.
async fn join<S, B>(
    layer: AuthorizeLayer,
    slot: Arc<Slot>,
    mut inner: S,
    request: Request<Body>,
) -> Result<Response, S::Error>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let joined = if slot.is_of(&layer.interlock.shared) {
        slot.join(layer.read_only)
    } else {
        let cause = "a layer inside a layer of another Interlock: two transactions in one request";
        Err(Error::because(ErrorKind::Misconfigured, cause))
    };
    if let Err(error) = joined {
        slot.verdict(Verdict::Failed);
        return Ok(error.into_response());
    }
    let mut refusal = Refusal {
        slot: &slot,
        stands: true,
    };
    let response = attempt::visit(&*layer.policy, &slot, &mut inner, request).await?;
    refusal.stands = response.status().is_client_error() || response.status().is_server_error();
    Ok(response)
}

/// A joined layer's refusal: it stands unless the answer is a success, also when there is no
/// answer because of an error, a panic or a timeout inside.
struct Refusal<'s> {
    slot: &'s Slot,
    stands: bool,
}

impl Drop for Refusal<'_> {
    fn drop(&mut self) {
        if self.stands {
            self.slot.verdict(Verdict::Refused);
        }
    }
}

/// The response future of [`Authorize`].
pub struct ResponseFuture<E> {
    inner: BoxFuture<'static, Result<Response, E>>,
}

impl<E> Future for ResponseFuture<E> {
    type Output = Result<Response, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl<E> fmt::Debug for ResponseFuture<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
