//! The response that leaves the layer.

use std::time::Instant;

use axum_core::response::{IntoResponse as _, Response};
use http::{HeaderName, StatusCode, header};

use crate::{
    error::Error,
    http::{
        options::{Options, RenderError},
        precondition::NotModified,
    },
    observe::{Finished, WorkKind},
    report::{Names, Outcome, Report},
    tx::WorkContext,
};

/// The response that leaves the layer, and its report.
pub(crate) struct FinalResponse {
    pub(crate) response: Response,
    pub(crate) report: Report,
}

impl FinalResponse {
    /// The response to a request that was not attempted.
    pub(crate) fn rejected(error: Error) -> Self {
        Self {
            response: error.into_response(),
            report: Report {
                policies: Names::None,
                attempts: 0,
                outcome: Outcome::NoTransaction,
            },
        }
    }

    /// The response of an earlier copy of the request.
    pub(crate) fn replayed(response: Response, attempts: u32) -> Self {
        Self {
            response,
            report: Report {
                policies: Names::None,
                attempts,
                outcome: Outcome::Replayed,
            },
        }
    }

    /// Logs the error in the response, renders it as the options say, tells the observer, and adds
    /// the report.
    pub(crate) fn finish(
        self,
        options: &Options,
        context: &WorkContext,
        started: Instant,
        accepts_codings: bool,
    ) -> Response {
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
            response = render(response, options);
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            response = NotModified::strip(response, accepts_codings);
        }
        response.extensions_mut().insert(report);
        response
    }
}

/// `response` as the options show its error, if it has one and was not rendered yet.
pub(crate) fn render(response: Response, options: &Options) -> Response {
    let extensions = response.extensions();
    let Some(render) = options.error_response.as_ref() else {
        return response;
    };
    match extensions.get::<Error>().cloned() {
        // Middleware that gave the response another status has taken it over.
        Some(error)
            if error.status() == response.status() && extensions.get::<Rendered>().is_none() =>
        {
            rendered(response, &error, &**render)
        }
        _ => response,
    }
}

/// Marks a response whose error is rendered.
#[derive(Clone)]
struct Rendered;

/// `response` as `render` shows its error: with the status and body of that, and with its own
/// headers, as far as they do not describe its body and the rendered response has no such header.
fn rendered(response: Response, error: &Error, render: &RenderError) -> Response {
    let (mut parts, _) = response.into_parts();
    let (rendered, body) = render(error).into_parts();
    for name in OF_THE_BODY {
        parts.headers.remove(name);
    }
    // `extend` replaces all values of a name.
    parts.headers.extend(rendered.headers);
    parts.extensions.extend(rendered.extensions);
    parts.extensions.insert(error.clone());
    parts.extensions.insert(Rendered);
    parts.status = rendered.status;
    Response::from_parts(parts, body)
}

/// The headers that describe the body.
const OF_THE_BODY: [HeaderName; 7] = [
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
];
