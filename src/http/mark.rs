//! Marks for routes that need no policy.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use axum_core::response::Response;
use http::Request;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::probe::{Probe, Protection};

/// Says of a route why it has no policy, from [`Interlock::public`](crate::Interlock::public) and
/// [`Interlock::conditional`](crate::Interlock::conditional).
///
/// It checks nothing. Requests pass unchanged, without an allocation. Only a
/// [`Probe`](crate::probe::Probe) is told.
#[derive(Clone)]
#[must_use = "it marks nothing until it is applied: `.route_layer(mark)`"]
pub struct MarkLayer(Protection);

impl MarkLayer {
    pub(crate) fn new(protection: Protection) -> Self {
        Self(protection)
    }
}

impl<S> Layer<S> for MarkLayer {
    type Service = MarkService<S>;

    fn layer(&self, inner: S) -> MarkService<S> {
        MarkService {
            inner,
            protection: self.0.clone(),
        }
    }
}

impl fmt::Debug for MarkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MarkLayer").field(&self.0).finish()
    }
}

/// The Tower service of a [`MarkLayer`].
#[derive(Debug, Clone)]
pub struct MarkService<S> {
    inner: S,
    protection: Protection,
}

impl<S, B> Service<Request<B>> for MarkService<S>
where
    S: Service<Request<B>, Response = Response>,
{
    type Response = Response;
    type Error = S::Error;
    type Future = MarkFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let passed = match Probe::of(request.extensions()) {
            Some(probe) => {
                probe.note(self.protection.clone());
                None
            }
            None => Some(self.inner.call(request)),
        };
        MarkFuture { passed }
    }
}

pin_project! {
    /// The response future of a [`MarkService`].
    pub struct MarkFuture<F> {
        // `None` for a probe.
        #[pin]
        passed: Option<F>,
    }
}

impl<F, E> Future for MarkFuture<F>
where
    F: Future<Output = Result<Response, E>>,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().passed.as_pin_mut() {
            Some(passed) => passed.poll(cx),
            None => Poll::Ready(Ok(Probe::response())),
        }
    }
}

impl<F> fmt::Debug for MarkFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MarkFuture").finish_non_exhaustive()
    }
}
