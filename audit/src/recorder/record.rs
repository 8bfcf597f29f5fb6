//! The recorder.

use std::{convert::Infallible, fmt, sync::Arc};

use axum::{extract::Request, response::Response};
use http::Extensions;
use tower::{Service, ServiceExt as _};

use crate::{
    recorder::{
        events,
        service::{ExchangeId, RecorderLayer},
        store::{State, Store},
    },
    trace::{Exchange, Trace},
};

/// Records every statement of every request: those of the interlock's transactions, through its
/// observer, and all others, through the events of sqlx.
///
/// ```
/// use tower_interlock::Interlock;
/// use tower_interlock_audit::Recorder;
///
/// # fn app(interlock: &Interlock) -> axum::Router { axum::Router::new() }
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # let pool = sqlx::PgPool::connect_lazy("postgres://root@localhost:26257/app").unwrap();
/// let recorder = Recorder::new();
/// let interlock = Interlock::builder(pool).observe(recorder.clone()).build();
/// let app = app(&interlock).layer(recorder.layer());
/// // … send requests …
/// let trace = recorder.trace();
/// # }
/// ```
///
/// # What it sees
///
/// A statement belongs to the request whose task runs it. A task that a handler spawns belongs to
/// it if the task keeps the span, as with `.in_current_span()`. All others are
/// [elsewhere](Trace::elsewhere).
///
/// It does not see statements of other clients than sqlx and on pools that do not log their
/// statements, nor a COPY. A function that a statement calls may write unseen. Statements on
/// [`Tx::connection`](tower_interlock::Tx::connection) are seen, and cannot be told from statements
/// on the pool that run before the next one on the `Tx`.
///
/// # Blindness
///
/// A log filter can hide the events of sqlx. So each statement that the interlock reports has to
/// come as an event too, and each request begins with an event of the recorder's own. If one is
/// missing, the exchange is [blind](Exchange::blind), and no test passes on it. It is blind as well
/// if its layer belongs to an interlock that the recorder does not observe.
#[derive(Clone)]
pub struct Recorder(pub(super) Arc<Store>);

impl Recorder {
    /// Returns a recorder.
    ///
    /// If the process has no global tracing subscriber, it gets one that has
    /// [`Events`](crate::recording::Events) only. A process with a subscriber of its own adds
    /// `Events` to it.
    #[must_use]
    pub fn new() -> Self {
        events::install();
        let store = Store::new();
        events::listen_elsewhere(&store.elsewhere);
        Self(Arc::new(store))
    }

    /// Returns the layer that records requests. Make it the outermost one, with
    /// [`Router::layer`](axum::Router::layer).
    pub fn layer(&self) -> RecorderLayer {
        RecorderLayer::new(&self.0)
    }

    /// Returns the trace so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        let mut state = self.0.lock();
        let State {
            exchanges, texts, ..
        } = &mut *state;
        let exchanges = exchanges.iter().map(|open| open.snapshot(texts)).collect();
        Trace {
            exchanges,
            elsewhere: self.0.elsewhere.snapshot(texts).statements,
            elsewhere_blind: self.0.elsewhere.missing(),
        }
    }

    /// Sends a request to an app with the [`layer`](Self::layer), and returns the response with
    /// what was recorded of the request.
    pub async fn send<S>(&self, app: &S, request: Request) -> (Response, Option<Exchange>)
    where
        S: Service<Request, Response = Response, Error = Infallible> + Clone,
    {
        let sent = app.clone().oneshot(request);
        let response = match sent.await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let exchange = self.exchange(response.extensions());
        (response, exchange)
    }

    /// What was recorded of the request whose response has these extensions.
    fn exchange(&self, extensions: &Extensions) -> Option<Exchange> {
        let ExchangeId(id) = extensions.get()?;
        let mut state = self.0.lock();
        let State {
            exchanges, texts, ..
        } = &mut *state;
        let open = exchanges.iter().rev().find(|open| open.id() == *id)?;
        Some(open.snapshot(texts))
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("exchanges", &self.0.lock().exchanges.len())
            .finish_non_exhaustive()
    }
}
