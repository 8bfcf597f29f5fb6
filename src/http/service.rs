//! The Tower service of the layer.

use std::{
    fmt,
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum_core::{
    BoxError,
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_core::future::BoxFuture;
use http::Request;
use tower_service::Service;

use crate::{
    error::{Error, ErrorKind},
    http::{
        idempotency::Idempotency,
        probe::Probe,
        route::Route,
        work::{self, authorize_and_call},
    },
    tx::{Slot, Verdict},
};

/// The service of an [`AuthorizeLayer`](crate::AuthorizeLayer).
#[derive(Debug, Clone)]
pub struct AuthorizeService<S> {
    inner: S,
    route: Arc<Route>,
}

impl<S> AuthorizeService<S> {
    pub(crate) fn new(inner: S, route: Arc<Route>) -> Self {
        Self { inner, route }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for AuthorizeService<S>
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
        if let Some(probe) = Probe::of(request.extensions()) {
            probe.note(self.route.protection());
            return ResponseFuture {
                inner: Box::pin(ready(Ok(Probe::response()))),
            };
        }
        // The service that is ready must be called; its clone may not be ready.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let route = Arc::clone(&self.route);
        let request = request.map(Body::new);
        // A closed slot is that of an earlier request whose extensions were reused.
        let slot = request.extensions().get::<Arc<Slot>>();
        let slot = slot.filter(|slot| !slot.is_closed()).cloned();
        ResponseFuture {
            inner: match slot {
                Some(slot) => Box::pin(join(route, slot, inner, request)),
                None => Box::pin(work::run(route, inner, request)),
            },
        }
    }
}

/// Runs inside of the transaction of an outer layer.
async fn join<S, B>(
    route: Arc<Route>,
    slot: Arc<Slot>,
    mut inner: S,
    request: Request<Body>,
) -> Result<Response, S::Error>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let joined = if route.idempotency != Idempotency::Unsupported {
        let cause =
            "an idempotent layer inside of another one: idempotent() belongs on the outermost";
        Err(Error::because(ErrorKind::Misconfigured, cause))
    } else if slot.is_of(&route.engine.database) {
        slot.join(route.access)
    } else {
        let cause =
            "a layer inside of a layer of another Interlock: two transactions in one request";
        Err(Error::because(ErrorKind::Misconfigured, cause))
    };
    if let Err(error) = joined {
        slot.add_verdict(Verdict::Failed);
        return Ok(error.into_response());
    }
    let mut rejection = RejectionGuard {
        slot: &slot,
        stands: true,
    };
    let response = authorize_and_call(&route, &slot, &mut inner, request).await?;
    let status = response.status();
    rejection.stands = status.is_client_error() || status.is_server_error();
    Ok(response)
}

/// The rejection of a joined layer. It stands unless the response is a success, also when there is
/// no response because of an error, a panic or a timeout inside.
struct RejectionGuard<'s> {
    slot: &'s Slot,
    stands: bool,
}

impl Drop for RejectionGuard<'_> {
    fn drop(&mut self) {
        if self.stands {
            self.slot.add_verdict(Verdict::Rejected);
        }
    }
}

/// The response future of [`AuthorizeService`].
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
