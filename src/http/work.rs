//! A request as work: its policy and its handler are the attempt.

use std::{
    future::poll_fn,
    marker::PhantomData,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum_core::{
    BoxError,
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::{Request, request::Parts};
use tower_service::Service;
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    attempt::{self, Attempt, Reply, ReplyClass, Step, Work},
    error::Error,
    http::{
        body::Buffered,
        options::Options,
        problem::answer_of_check,
        route::{BodyMode, Route},
    },
    observe::{Finished, Phase, WorkKind},
    report::{Outcome, Report},
    tx::{Lease, Slot, Verdict, WorkContext},
};

/// Runs a request: reads its body, and attempts it until there is a response.
pub(crate) fn run<S, B>(
    route: Arc<Route>,
    inner: S,
    request: Request<Body>,
) -> impl Future<Output = Result<Response, S::Error>>
where
    S: Service<Request<Body>, Response = http::Response<B>> + Send,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let span = tracing::info_span!("authorize", policies = Empty, attempt = Empty);
    async move {
        let route = &*route;
        let (parts, body) = request.into_parts();
        let context = route.engine.context(route.options.principal(&parts));
        let running = route.engine.database.token();
        let source = match route.engine.database.check_open() {
            Ok(()) => RequestSource::read(route, parts, body).await,
            Err(error) => Err(error),
        };
        let started = Instant::now();
        let response = match source {
            Ok(source) => {
                let mut work = RequestWork {
                    route,
                    inner,
                    source,
                    policies: Vec::new(),
                    response_body: PhantomData,
                };
                let (engine, limits) = (&route.engine, route.limits());
                attempt::run(engine, &context, &limits, route.access, &mut work).await?
            }
            Err(error) => FinalResponse::rejected(error),
        };
        drop(running);
        Ok(response.finish(&route.options, &context, started))
    }
    .instrument(span)
}

/// Checks the policy, and calls the service behind it.
pub(crate) async fn authorize_and_call<S, B>(
    route: &Route,
    slot: &Arc<Slot>,
    inner: &mut S,
    request: Request<Body>,
) -> Result<Response, S::Error>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    slot.begin_policy(route.name);
    let look = route.reads.prepare_look(route.access, slot);
    let (mut parts, body) = request.into_parts();
    let checked = route.policy.check(&mut parts).await;
    Lease::verify_idle(slot).await;
    if let Err(response) = checked {
        let response = answer_of_check(response);
        let failed = response.status().is_server_error();
        slot.add_verdict(if failed {
            Verdict::Failed
        } else {
            Verdict::Denied
        });
        return Ok(response);
    }
    // A policy that allows over an error has not seen what it had to see.
    if let Some(error) = look.first_error(route.name, slot).await {
        slot.add_verdict(Verdict::Failed);
        return Ok(error.of_check().into_response());
    }
    slot.set_phase(Phase::Handler);
    let response = inner.call(Request::from_parts(parts, body)).await?;
    Ok(response.map(Body::new))
}

/// A request, and the service that it is for.
struct RequestWork<'r, S, B> {
    route: &'r Route,
    inner: S,
    source: RequestSource,
    /// Those of the last attempt.
    policies: Vec<&'static str>,
    response_body: PhantomData<fn() -> B>,
}

impl<S, B> Work for RequestWork<'_, S, B>
where
    S: Service<Request<Body>, Response = http::Response<B>> + Send,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = FinalResponse;
    type Error = S::Error;

    fn queue_key(&self) -> Option<&str> {
        Some(self.source.path())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    async fn attempt(
        &mut self,
        attempt: &mut Attempt<'_>,
    ) -> Result<Step<FinalResponse>, S::Error> {
        let (number, is_last) = (attempt.number(), attempt.is_last());
        Span::current().record("attempt", number);
        let route = self.route;
        let slot = attempt.open(route.access);
        let called = {
            let calling = pin!(async {
                if number > 1 {
                    poll_fn(|cx| self.inner.poll_ready(cx)).await?;
                }
                let mut request = self.source.next(is_last);
                request.extensions_mut().insert(Arc::clone(&*slot));
                authorize_and_call(route, &slot, &mut self.inner, request).await
            });
            attempt.run(&slot, calling).await
        };
        let mut state = slot.close();
        self.policies = std::mem::take(&mut state.names);
        let failure = match called {
            Some(Ok(response)) => {
                let reply = reply_of(&response, &route.options);
                match attempt.settle(&mut state, reply).await {
                    Ok(outcome) => {
                        let report = self.report(number, outcome);
                        return Ok(Step::Done(FinalResponse { response, report }));
                    }
                    Err(failure) => failure,
                }
            }
            Some(Err(error)) => attempt.settle_service_error(state).ok_or(error)?,
            None => attempt.settle_timeout(&state),
        };
        Ok(failure.into_step(|error, outcome| self.error_response(number, error, outcome)))
    }

    fn exhausted(&mut self, attempts: u32, error: Error) -> FinalResponse {
        self.error_response(attempts, error, Outcome::RolledBack)
    }
}

impl<S, B> RequestWork<'_, S, B> {
    fn error_response(&mut self, attempts: u32, error: Error, outcome: Outcome) -> FinalResponse {
        FinalResponse {
            response: error.into_response(),
            report: self.report(attempts, outcome),
        }
    }

    fn report(&mut self, attempts: u32, outcome: Outcome) -> Report {
        Report {
            policies: std::mem::take(&mut self.policies),
            attempts,
            outcome,
        }
    }
}

/// What a response says about the transaction.
fn reply_of<'r>(response: &'r Response, options: &Options) -> Reply<'r> {
    let status = response.status();
    let commits = || {
        let commit_if = options.commit_if.as_ref();
        commit_if.is_none_or(|commit_if| commit_if(response))
    };
    let class = if status.is_success() && commits() {
        ReplyClass::Success
    } else if status.is_redirection() && commits() {
        ReplyClass::Redirect
    } else if status.is_client_error() {
        ReplyClass::ClientError
    } else if status.is_server_error() {
        ReplyClass::ServerError
    } else {
        ReplyClass::Declined
    };
    Reply {
        class,
        error: response.extensions().get(),
        status: Some(status.as_u16()),
    }
}

/// Where the requests of the attempts come from.
enum RequestSource {
    Buffered(Request<Buffered>),
    Streamed(Request<Body>),
}

impl RequestSource {
    async fn read(route: &Route, parts: Parts, body: Body) -> Result<Self, Error> {
        if route.body == BodyMode::Streamed {
            return Ok(Self::Streamed(Request::from_parts(parts, body)));
        }
        let Options {
            body_limit,
            body_timeout,
            ..
        } = route.options;
        let body = Buffered::read(body, body_limit, body_timeout).await?;
        Ok(Self::Buffered(Request::from_parts(parts, body)))
    }

    fn path(&self) -> &str {
        match self {
            Self::Buffered(request) => request.uri().path(),
            Self::Streamed(request) => request.uri().path(),
        }
    }

    /// The request for an attempt. It is copied only if there can be another one.
    fn next(&mut self, is_last: bool) -> Request<Body> {
        match self {
            Self::Buffered(request) if is_last => std::mem::take(request).map(Buffered::into_body),
            Self::Buffered(request) => request.clone().map(Buffered::into_body),
            Self::Streamed(request) => std::mem::take(request),
        }
    }
}

/// What leaves the layer.
struct FinalResponse {
    response: Response,
    report: Report,
}

impl FinalResponse {
    /// The response to a request that was not attempted.
    fn rejected(error: Error) -> Self {
        Self {
            response: error.into_response(),
            report: Report {
                policies: Vec::new(),
                attempts: 0,
                outcome: Outcome::NoTransaction,
            },
        }
    }

    /// Logs the error in the response, renders it as the options say, tells the observer, and adds
    /// the report.
    fn finish(self, options: &Options, context: &WorkContext, started: Instant) -> Response {
        let Self {
            mut response,
            report,
        } = self;
        let error = response.extensions().get::<Error>().cloned();
        if let Some(observation) = &context.observation {
            observation.work_finished(&Finished {
                kind: WorkKind::Request,
                names: &report.policies,
                principal: context.principal.as_deref(),
                attempts: report.attempts,
                outcome: report.outcome,
                error: error.as_ref(),
                duration: started.elapsed(),
            });
        }
        if let Some(error) = error {
            error.log();
            // Middleware that gave the response another status has taken it over.
            let ours = error.status() == response.status();
            if let Some(render) = options.error_response.as_ref().filter(|_| ours) {
                response = render(&error);
                response.extensions_mut().insert(error);
            }
        }
        response.extensions_mut().insert(report);
        response
    }
}
