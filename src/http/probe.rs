//! The probe: a question to the router itself, what protects a route.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum_core::response::Response;
use http::{Extensions, StatusCode};

use crate::{database::Access, error::ErrorKind, http::route::Route};

/// Asks a route what protects it, instead of running a request.
///
/// It is a value in the extensions of a request, so no client can send it. The outermost
/// [`AuthorizeLayer`](crate::AuthorizeLayer) or [`MarkLayer`](crate::layer::MarkLayer) that sees it
/// leaves a [`Protection`] in it and responds with 204. It does not read the body, use the
/// database, check the policy or call the service behind it, and so it grants nothing. A handler
/// that no layer protects is called.
///
/// ```
/// use axum::{Router, body::Body, extract::Request, routing::get};
/// use tower::ServiceExt as _;
/// use tower_interlock::probe::{Probe, Protection};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # let pool = sqlx::PgPool::connect_lazy("postgres://root@localhost:26257/app").unwrap();
/// let interlock = tower_interlock::Interlock::new(pool);
/// let health = get(async || "healthy").route_layer(interlock.public("for the load balancer"));
/// let app: Router = Router::new().route("/health", health);
///
/// let probe = Probe::new();
/// let mut request = Request::get("/health").body(Body::empty()).unwrap();
/// request.extensions_mut().insert(probe.clone());
/// app.oneshot(request).await.unwrap();
///
/// assert!(matches!(probe.found(), Some(Protection::Public { .. })));
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Probe {
    found: Arc<Mutex<Option<Protection>>>,
}

impl Probe {
    /// Returns a probe for one request.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the outermost protection of the route. `None` if there is none.
    #[must_use]
    pub fn found(&self) -> Option<Protection> {
        self.lock().clone()
    }

    /// The probe in `extensions`.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    pub(crate) fn note(&self, protection: Protection) {
        *self.lock() = Some(protection);
    }

    /// The response to a probe.
    pub(crate) fn response() -> Response {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    }

    fn lock(&self) -> MutexGuard<'_, Option<Protection>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in front of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Protection {
    /// An [`AuthorizeLayer`](crate::AuthorizeLayer). Layers behind it are not seen.
    #[non_exhaustive]
    Policy {
        /// The name of the policy.
        name: &'static str,
        /// Whether its transaction is READ ONLY.
        read_only: bool,
        /// The type names of the policy's extractors, as a tuple. Their text is not stable.
        extractors: &'static str,
    },
    /// A mark of [`Interlock::public`](crate::Interlock::public).
    #[non_exhaustive]
    Public {
        /// Why it needs no policy.
        reason: &'static str,
    },
    /// A mark of [`Interlock::conditional`](crate::Interlock::conditional).
    #[non_exhaustive]
    Conditional {
        /// The statement of the write, with `{conditions}` in it.
        statement: &'static str,
        /// Its conditions, in their order.
        conditions: Vec<ProbedCondition>,
    },
}

/// A condition of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbedCondition {
    /// The kind of the error if it is not true: `Denied` for
    /// [`Condition::permitted`](crate::Condition::permitted).
    pub kind: ErrorKind,
    /// The status of that error.
    pub status: StatusCode,
    /// Its SQL.
    pub sql: &'static str,
}

impl ProbedCondition {
    pub(crate) fn new(kind: ErrorKind, status: StatusCode, sql: &'static str) -> Self {
        Self { kind, status, sql }
    }
}

impl Route {
    /// What a probe is told.
    pub(crate) fn protection(&self) -> Protection {
        Protection::Policy {
            name: self.name,
            read_only: self.access == Access::ReadOnly,
            extractors: self.policy.extractors(),
        }
    }
}
