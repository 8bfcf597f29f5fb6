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
use http::{Request, StatusCode, header};
use tower_service::Service;
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    attempt::{self, Attempt, Reply, Step, Work},
    error::Error,
    http::{
        problem::answer_of_check, receipt::RequestReceipt, reply::PreparedReply,
        response::FinalResponse, route::Route, source::RequestSource,
    },
    observe::Phase,
    report::{Names, Outcome, Report},
    tx::{Lease, Slot, Verdict, WorkContext, scope},
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
    let span = tracing::error_span!("authorize", policies = Empty, attempt = Empty);
    async move {
        let route = &*route;
        let accepts_codings = request.headers().contains_key(header::ACCEPT_ENCODING);
        let running = route.engine.database.token();
        let (context, prepared) = prepare(route, request).await;
        let started = Instant::now();
        let response = match prepared {
            Ok((source, receipt)) => {
                let (engine, limits) = (&route.engine, route.limits(source.is_repeatable()));
                let limit = tokio::time::Instant::now() + limits.deadline;
                let mut work = RequestWork::new(route, inner, source, receipt);
                let attempts = attempt::run(engine, &context, &limits, route.access, &mut work);
                // Boxed: a request that waits for its body does not need the room yet.
                let response = Box::pin(attempts).await?;
                match &work.receipt {
                    Some(receipt) => {
                        // Boxed: what is rarely needed is not to enlarge the future of every
                        // request.
                        Box::pin(receipt.conclude(engine, response, work.denied, limit)).await
                    }
                    None => response,
                }
            }
            Err(error) => FinalResponse::rejected(error),
        };
        drop(running);
        Ok(response.finish(&route.options, &context, started, accepts_codings))
    }
    .instrument(span)
}

/// Reads the request, and prepares its receipt.
///
/// It takes the request as a whole: a future that was given its parts would store them twice.
async fn prepare(
    route: &Route,
    request: Request<Body>,
) -> (
    WorkContext,
    Result<(RequestSource, Option<Box<RequestReceipt>>), Error>,
) {
    let (parts, body) = request.into_parts();
    let context = route.engine.context(route.options.principal(&parts));
    let prepared = async {
        scope::check_may_begin(&route.engine.database)?;
        let receipt = RequestReceipt::new(route, &parts, &context)?;
        let source = RequestSource::read(route, parts, body).await?;
        let receipt = receipt.map(|receipt| receipt.with_body(&source));
        Ok((source, receipt))
    };
    let prepared = prepared.await;
    (context, prepared)
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
    receipt: Option<Box<RequestReceipt>>,
    /// Those of the last attempt.
    policies: Names,
    /// Whether a policy denied in the last attempt.
    denied: bool,
    /// How many of them the span has.
    recorded: usize,
    response_body: PhantomData<fn() -> B>,
}

impl<'r, S, B> RequestWork<'r, S, B>
where
    S: Service<Request<Body>, Response = http::Response<B>> + Send,
    S::Future: Send,
    S::Error: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn new(
        route: &'r Route,
        inner: S,
        source: RequestSource,
        receipt: Option<Box<RequestReceipt>>,
    ) -> Self {
        Self {
            route,
            inner,
            source,
            receipt,
            policies: Names::None,
            denied: false,
            recorded: 0,
            response_body: PhantomData,
        }
    }
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

    fn begins_outside(&self) -> bool {
        self.receipt.as_ref().is_some_and(|it| it.is_keyed())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    async fn attempt(
        &mut self,
        attempt: &mut Attempt<'_>,
    ) -> Result<Step<FinalResponse>, S::Error> {
        let (number, is_last) = (attempt.number(), attempt.is_last());
        let route = self.route;
        self.denied = false;
        // Boxed: what is rarely needed is not to enlarge the future of every request.
        if self.begins_outside()
            && let Some(done) = Box::pin(self.replay(attempt)).await
        {
            return Ok(Step::Done(done));
        }
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
        self.denied = state.verdict == Some(Verdict::Denied);
        self.record_policies();
        let failure = match called {
            Some(Ok(response)) => {
                let mut prepared = PreparedReply::new(response, &route.options);
                if let Some(receipt) = &self.receipt {
                    let (options, policies) = (&route.options, &self.policies);
                    let adding =
                        prepared.with_receipt(receipt, attempt, options, policies, &mut state);
                    prepared = Box::pin(adding).await;
                }
                let (response, receipt) = (prepared.response, prepared.receipt);
                let reply = Reply {
                    class: prepared.class,
                    error: response.extensions().get(),
                    status: Some(prepared.status),
                };
                match attempt.settle(&mut state, reply, receipt).await {
                    Ok(outcome) => {
                        let report = self.report(number, outcome);
                        return Ok(Step::Done(FinalResponse { response, report }));
                    }
                    // Its connection may be in use already.
                    Err(failure) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                        failure.without_retry()
                    }
                    Err(failure) => failure,
                }
            }
            Some(Err(error)) => attempt
                .settle_service_error(&mut state)
                .await
                .ok_or(error)?,
            None => attempt.settle_timeout(&state),
        };
        Ok(failure.into_step(|error, outcome| self.error_response(number, error, outcome)))
    }

    fn exhausted(&mut self, attempts: u32, error: Error) -> FinalResponse {
        self.error_response(attempts, error, Outcome::RolledBack)
    }
}

impl<S, B> RequestWork<'_, S, B> {
    /// The response of an earlier copy of the request, or an error, in place of an attempt.
    async fn replay(&mut self, attempt: &mut Attempt<'_>) -> Option<FinalResponse> {
        let (receipt, number) = (self.receipt.as_ref()?, attempt.number());
        let replaying = receipt.replay(&self.route.engine, attempt.deadline());
        let replayed = replaying.await;
        if !matches!(replayed, Ok(None)) {
            attempt.skip();
        }
        match replayed {
            Ok(Some(response)) => Some(FinalResponse::replayed(response, number - 1)),
            Ok(None) => None,
            Err(error) => Some(self.error_response(number - 1, error, Outcome::RolledBack)),
        }
    }

    fn error_response(&mut self, attempts: u32, error: Error, outcome: Outcome) -> FinalResponse {
        FinalResponse {
            response: error.into_response(),
            report: self.report(attempts, outcome),
        }
    }

    /// Records the policies in the span, once: a log repeats a field that is recorded again. Only
    /// an attempt that gets further than those before it has more of them.
    fn record_policies(&mut self) {
        let span = Span::current();
        if self.policies.len() > self.recorded && !span.is_disabled() {
            span.record("policies", self.policies.join(", "));
            self.recorded = self.policies.len();
        }
    }

    /// The report of the last attempt.
    fn report(&mut self, attempts: u32, outcome: Outcome) -> Report {
        Span::current().record("attempt", attempts);
        Report {
            policies: std::mem::take(&mut self.policies),
            attempts,
            outcome,
        }
    }
}
