//! The probe of one operation.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request},
    middleware::{Next, from_fn},
    response::Response,
};
use http::StatusCode;
use tokio::time::timeout;
use tower::ServiceExt as _;
use tower_interlock::{
    Error, ErrorKind,
    probe::{Probe, Protection},
};

use crate::coverage::{guard::Guard, operation::Operation};
use crate::{
    sql::Sql,
    trace::{Exchange, Trace},
};

/// Asks the operations of an app.
pub(super) struct Prober<'c> {
    app: Router,
    sign_in: &'c dyn Fn(Request) -> Request,
    parameters: &'c BTreeMap<String, String>,
}

/// What an operation has answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) guard: Guard,
    /// What a person has to know of it.
    pub(super) note: Option<String>,
    statement: Option<&'static str>,
}

/// The template of the route that took the request.
#[derive(Clone, Default)]
struct Routed(Arc<Mutex<Option<String>>>);

impl<'c> Prober<'c> {
    pub(super) fn new(
        app: &Router,
        sign_in: &'c dyn Fn(Request) -> Request,
        parameters: &'c BTreeMap<String, String>,
    ) -> Self {
        Self {
            app: app.clone().layer(from_fn(note_route)),
            sign_in,
            parameters,
        }
    }

    /// Asks one operation. `None` if no route takes it.
    pub(super) async fn ask(&self, operation: &Operation) -> Option<Answer> {
        let (probe, routed) = (Probe::new(), Routed::default());
        let mut request = Request::new(Body::empty());
        *request.method_mut() = operation.method.parse().ok()?;
        *request.uri_mut() = self.path(&operation.path).parse().ok()?;
        let mut request = (self.sign_in)(request);
        request.extensions_mut().insert(probe.clone());
        request.extensions_mut().insert(routed.clone());
        // A handler that is reached may panic, or wait for ever.
        let responding = tokio::spawn(self.app.clone().oneshot(request));
        let response = match timeout(LONGEST, responding).await {
            Ok(Ok(Ok(response))) => Some(response),
            _ => None,
        };
        let template = routed
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()?;
        if !operation.has_shape(&template) {
            return None;
        }
        match probe.found() {
            Some(protection) => Some(Answer::of(&protection)),
            None => Answer::of_response(response.as_ref()),
        }
    }

    /// The path, with values for its parameters.
    fn path(&self, template: &str) -> String {
        let segments = template.split('/').map(|segment| {
            let name = segment
                .strip_prefix('{')
                .and_then(|name| name.strip_suffix('}'));
            let Some(name) = name else {
                return segment;
            };
            let value = self.parameters.get(name.trim_start_matches('*'));
            value.map_or("interlock-probe", String::as_str)
        });
        segments.collect::<Vec<_>>().join("/")
    }
}

impl Answer {
    fn of(protection: &Protection) -> Self {
        let statement = match protection {
            Protection::Conditional { statement, .. } => Some(*statement),
            _ => None,
        };
        let guard = Guard::of(protection);
        let lacks = guard.is_uncovered() && statement.is_some();
        let note = "its conditional write has no condition `permitted` or `authenticated`";
        Self {
            guard,
            note: lacks.then(|| note.to_owned()),
            statement,
        }
    }

    /// The answer without a layer. `None` if the method is not allowed.
    fn of_response(response: Option<&Response>) -> Option<Self> {
        let Some(response) = response else {
            return Some(Self::uncovered("its handler panicked, or did not end"));
        };
        let status = response.status();
        let error = response.extensions().get::<Error>();
        if error.is_some_and(|error| error.kind() == ErrorKind::Misconfigured) {
            return Some(Self {
                guard: Guard::FailsClosed,
                note: None,
                statement: None,
            });
        }
        match status {
            StatusCode::METHOD_NOT_ALLOWED => None,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(Self::uncovered(format!(
                "it responded with {} before a layer was reached: sign in with `sign_in`, or its \
                 handler checks by itself",
                status.as_u16()
            ))),
            status => Some(Self::uncovered(format!(
                "its handler was reached, and responded with {}",
                status.as_u16()
            ))),
        }
    }

    fn uncovered(note: impl Into<String>) -> Self {
        Self {
            guard: Guard::uncovered(),
            note: Some(note.into()),
            statement: None,
        }
    }

    /// Adds what the traces tell: the policies behind the outermost one, and whether the write of a
    /// mark has run.
    pub(super) fn with_traces(mut self, operation: &Operation, traces: &[Trace]) -> Self {
        let exchanges = traces.iter().flat_map(|trace| &trace.exchanges);
        let exchanges = exchanges.filter(|exchange| {
            let route = exchange.route.as_deref();
            exchange.method == operation.method
                && route.is_some_and(|route| operation.has_shape(route))
        });
        for exchange in exchanges {
            if let Guard::Requires { policies, .. } = &mut self.guard {
                let observed = exchange.policies();
                if observed.len() > policies.len() && observed.starts_with(policies) {
                    *policies = observed.to_vec();
                }
            }
            if self
                .statement
                .is_some_and(|statement| writes_beside(exchange, statement))
            {
                let note = "the trace has a committed write that is not the conditional write of \
                            its mark";
                self = Self::uncovered(note);
            }
        }
        self
    }
}

/// Whether the exchange has committed a write that is not this conditional one.
fn writes_beside(exchange: &Exchange, statement: &str) -> bool {
    let beginning = statement.split("{conditions}").next().unwrap_or_default();
    let beginning = Sql::read(beginning).text;
    let mut writes = exchange.committed_writes();
    writes.any(|write| !write.sql.contains(beginning.trim()))
}

async fn note_route(request: Request, next: Next) -> Response {
    let extensions = request.extensions();
    if let (Some(routed), Some(matched)) =
        (extensions.get::<Routed>(), extensions.get::<MatchedPath>())
    {
        let mut routed = routed.0.lock().unwrap_or_else(PoisonError::into_inner);
        *routed = Some(matched.as_str().to_owned());
    }
    next.run(request).await
}

/// How long a handler that is reached may take.
const LONGEST: Duration = Duration::from_secs(15);
