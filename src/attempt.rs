//! One attempt at a request, and the loop of attempts.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll};

use axum_core::{
    BoxError,
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use http::Request;
use tokio::time::Instant;
use tower_service::Service;
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    body::Buffered,
    detach::Detached,
    error::{Error, ErrorKind},
    interlock::Settings,
    layer::AuthorizeLayer,
    policy::Check,
    report::{Outcome, Report},
    retry::Meaning,
    settlement::{Settled, later, settle, settle_failure},
    slot::{Owner, Slot, Verdict},
    transaction::Transaction,
    until::until,
};

/// Runs a request: reads its body, and makes attempts until one of them has an answer.
pub(crate) fn run<S, B>(
    layer: AuthorizeLayer,
    mut inner: S,
    request: Request<Body>,
) -> impl Future<Output = Result<Response, S::Error>>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let span = tracing::info_span!("authorize", policies = Empty, attempt = Empty);
    async move {
        let running = layer.interlock.shared.running.token();
        let answer = if layer.interlock.shared.running.is_closed() {
            Answer::refused(Error::because(ErrorKind::Unavailable, "draining"))
        } else {
            match Source::read(&layer, request).await {
                Ok(mut source) => attempts(&layer, &mut inner, &mut source).await?,
                Err(error) => Answer::refused(error),
            }
        };
        drop(running);
        Ok(answer.finish(&layer.interlock.settings))
    }
    .instrument(span)
}

/// Lets the request through one policy, and on to the service behind it.
pub(crate) async fn visit<S, B>(
    policy: &dyn Check,
    slot: &Arc<Slot>,
    inner: &mut S,
    request: Request<Body>,
) -> Result<Response, S::Error>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    slot.policy(policy.name());
    let (mut parts, body) = request.into_parts();
    let checked = policy.check(&mut parts).await;
    slot.prove().await;
    if let Err(response) = checked {
        let failed = response.status().is_server_error();
        slot.verdict(if failed {
            Verdict::Failed
        } else {
            Verdict::Denied
        });
        return Ok(response);
    }
    // A policy that allows over an error has not seen what it would have had to see.
    if let Some(error) = slot.fault() {
        slot.verdict(Verdict::Failed);
        return Ok(error.into_response());
    }
    let response = inner.call(Request::from_parts(parts, body)).await?;
    Ok(response.map(Body::new))
}

async fn attempts<S, B>(
    layer: &AuthorizeLayer,
    inner: &mut S,
    source: &mut Source,
) -> Result<Answer, S::Error>
where
    S: Service<Request<Body>, Response = http::Response<B>>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let shared = &layer.interlock.shared;
    let settings = &*layer.interlock.settings;
    let deadline = later(Instant::now(), settings.deadline);
    let mut budget = Budget::new(source.max_attempts(settings));
    let mut begun = None;
    let mut place = None;
    if !layer.read_only {
        let patience = settings.backoff.cap;
        let gone = pin!(shared.turns.give_way(source.path(), patience));
        until(deadline, gone).await;
    }
    loop {
        let attempt = budget.next();
        Span::current().record("attempt", attempt);
        let slot = Owner::new(Arc::clone(shared), attempt, layer.read_only, begun.take());
        let visited = until(
            deadline,
            pin!(async {
                if attempt > 1 {
                    poll_fn(|cx| inner.poll_ready(cx)).await?;
                }
                let mut request = source.next(budget.is_last());
                request.extensions_mut().insert(Arc::clone(&*slot));
                visit(&*layer.policy, &slot, inner, request).await
            }),
        )
        .await;
        let mut state = slot.close();
        let policies = std::mem::take(&mut state.policies);
        let report = |outcome| Report {
            policies,
            attempts: attempt,
            outcome,
        };
        let settled = match visited {
            Some(Ok(response)) => settle(state, response, shared, settings, deadline).await,
            Some(Err(error)) => settle_failure(state).ok_or(error)?,
            None => Settled::refused(Error::new(ErrorKind::DeadlineExceeded), state.outcome()),
        };
        let (meaning, error, left) = match settled {
            Settled::Answer { response, outcome } => {
                let report = report(outcome);
                return Ok(Answer { response, report });
            }
            Settled::Again {
                meaning,
                error,
                left,
            } => (meaning, error, left),
        };
        let exhausted = || Answer {
            response: exhausted(meaning, &error).into_response(),
            report: report(Outcome::RolledBack),
        };
        if !budget.allows(meaning) {
            return Ok(exhausted());
        }
        let sqlstate = error.sqlstate();
        tracing::debug!(attempt, sqlstate, "running the request again");
        let mut place = (meaning == Meaning::Conflict).then(|| {
            place.get_or_insert_with(|| {
                let server = shared.server.get().copied();
                shared.turns.join(source.path(), server)
            })
        });
        let at_once = place.as_mut().is_none_or(|place| place.goes_at_once());
        // Nobody waits with a connection in hand: others may need it to get out of the way.
        let ready = match poll_fn(|cx| Poll::Ready(inner.poll_ready(cx))).await {
            Poll::Ready(ready) => ready.map(|()| true)?,
            Poll::Pending => false,
        };
        let Some(restarted) = until(deadline, pin!(end(left, at_once && ready))).await else {
            return Ok(exhausted());
        };
        begun = restarted;
        if let Some(place) = place.filter(|_| !at_once)
            && until(deadline, pin!(place.wait(settings.backoff)))
                .await
                .is_none()
        {
            return Ok(exhausted());
        }
    }
}

/// Ends what an attempt has left, `at_once` by beginning the next transaction in its place. Not put
/// off until the next attempt, because CockroachDB keeps the locks of a failed transaction.
async fn end(left: Option<Transaction>, at_once: bool) -> Option<Transaction> {
    let left = left?;
    if at_once {
        Detached::new(left.restart()).await
    } else {
        Detached::new(left.roll_back()).await;
        None
    }
}

/// How many attempts there may be, and for which reasons.
struct Budget {
    made: u32,
    max: u32,
    lost: bool,
    hidden: bool,
}

impl Budget {
    fn new(max: u32) -> Self {
        Self {
            made: 0,
            max,
            lost: false,
            hidden: false,
        }
    }

    /// The number of the attempt that is made now.
    fn next(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    fn is_last(&self) -> bool {
        self.made >= self.max
    }

    /// Whether there may be another attempt: a conflict can be met again and again, a lost
    /// connection and an error that nobody saw once.
    fn allows(&mut self, meaning: Meaning) -> bool {
        !self.is_last()
            && match meaning {
                Meaning::Conflict => true,
                Meaning::Lost => !std::mem::replace(&mut self.lost, true),
                Meaning::Hidden => !std::mem::replace(&mut self.hidden, true),
                Meaning::Failed => false,
            }
    }
}

/// The answer when there is no further attempt.
fn exhausted(meaning: Meaning, error: &Error) -> Error {
    let kind = match meaning {
        Meaning::Conflict => ErrorKind::Contended,
        Meaning::Lost => ErrorKind::Unavailable,
        Meaning::Hidden | Meaning::Failed => ErrorKind::Aborted,
    };
    error.with_kind(kind)
}

/// Where the requests of the attempts come from.
enum Source {
    Buffered(Request<Buffered>),
    Streaming(Request<Body>),
}

impl Source {
    async fn read(layer: &AuthorizeLayer, request: Request<Body>) -> Result<Self, Error> {
        if layer.unbuffered {
            return Ok(Self::Streaming(request));
        }
        let settings = &layer.interlock.settings;
        let (parts, body) = request.into_parts();
        let body = Buffered::read(body, settings.body_limit, settings.body_timeout).await?;
        Ok(Self::Buffered(Request::from_parts(parts, body)))
    }

    fn max_attempts(&self, settings: &Settings) -> u32 {
        match self {
            Self::Buffered(_) => settings.max_attempts,
            Self::Streaming(_) => 1,
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::Buffered(request) => request.uri().path(),
            Self::Streaming(request) => request.uri().path(),
        }
    }

    /// The request for an attempt. It is copied only when there can be another one.
    fn next(&mut self, last: bool) -> Request<Body> {
        match self {
            Self::Buffered(request) if last => std::mem::take(request).map(Buffered::into_body),
            Self::Buffered(request) => request.clone().map(Buffered::into_body),
            Self::Streaming(request) => std::mem::take(request),
        }
    }
}

/// What leaves the layer.
struct Answer {
    response: Response,
    report: Report,
}

impl Answer {
    fn refused(error: Error) -> Self {
        let report = Report {
            policies: Vec::new(),
            attempts: 0,
            outcome: Outcome::NoTransaction,
        };
        Self {
            response: error.into_response(),
            report,
        }
    }

    /// Logs the error in the answer, renders it as the settings say, and adds the report.
    fn finish(self, settings: &Settings) -> Response {
        let Self {
            mut response,
            report,
        } = self;
        if let Some(error) = response.extensions().get::<Error>().cloned() {
            error.log();
            // Middleware that gave the answer another status has taken it over.
            let ours = error.status() == response.status();
            if let Some(render) = settings.error_response.as_ref().filter(|_| ours) {
                response = render(&error);
                response.extensions_mut().insert(error);
            }
        }
        response.extensions_mut().insert(report);
        response
    }
}
