//! The future that is finished when it is dropped.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;

/// A future that its runtime finishes when it is dropped.
///
/// BEGIN, COMMIT and ROLLBACK must not stop half-way: axum drops the future of a request when the
/// client disconnects, and sqlx 0.9.0 then returns a connection to the pool whose BEGIN is still
/// under way (<https://github.com/transact-rs/sqlx/issues/4393>).
///
/// It has no limit of its own: a future that waits for the server has one.
#[must_use]
pub(crate) struct Detached<T: Send + 'static> {
    future: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    runtime: Handle,
}

impl<T: Send + 'static> Detached<T> {
    /// Must be called on a runtime.
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            future: Some(Box::pin(future)),
            runtime: Handle::current(),
        }
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(future) = &mut self.future else {
            return Poll::Pending;
        };
        let output = future.as_mut().poll(cx);
        if output.is_ready() {
            self.future = None;
        }
        output
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            spawn_on(&self.runtime, async move { drop(future.await) });
        }
    }
}

/// Spawns `future` on a runtime that may be shutting down. It drops the future at once then, and
/// sqlx needs a runtime where a connection is dropped.
pub(crate) fn spawn_on(runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) {
    let _runtime = runtime.enter();
    runtime.spawn(future);
}
