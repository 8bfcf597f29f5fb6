//! The layer that records requests.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use futures_util::future::BoxFuture;
use http::Request;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument as _;

use crate::recorder::{
    events::{EXCHANGE, send_canary},
    store::Store,
};

/// The layer that records requests, from [`Recorder::layer`](crate::Recorder::layer).
#[derive(Debug, Clone)]
#[must_use]
pub struct RecorderLayer {
    store: Arc<Store>,
}

impl RecorderLayer {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
        }
    }
}

impl<S> Layer<S> for RecorderLayer {
    type Service = RecorderService<S>;

    fn layer(&self, inner: S) -> RecorderService<S> {
        RecorderService {
            inner,
            store: Arc::clone(&self.store),
        }
    }
}

/// The Tower service of a [`RecorderLayer`].
#[derive(Debug, Clone)]
pub struct RecorderService<S> {
    inner: S,
    store: Arc<Store>,
}

/// The number of an exchange, in the extensions of its response.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExchangeId(pub(super) u64);

impl<S> Service<Request<Body>> for RecorderService<S>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let exchange = self.store.begin(&request);
        let responding = EXCHANGE.sync_scope(Arc::clone(&exchange), || {
            send_canary();
            let span = tracing::error_span!("recorded");
            self.inner.call(request).instrument(span)
        });
        let responding: BoxFuture<'static, _> = Box::pin(responding);
        Box::pin(EXCHANGE.scope(Arc::clone(&exchange), async move {
            let mut response = responding.await?;
            exchange.responded(response.status().as_u16());
            response.extensions_mut().insert(ExchangeId(exchange.id()));
            Ok(response)
        }))
    }
}
