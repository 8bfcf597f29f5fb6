//! Requests and their responses.

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{self, HeaderMap, Request, StatusCode, header},
    response::Response,
};
use tower::ServiceExt as _;
use tower_interlock::{Error, ErrorKind, Outcome, Report};

use super::recorder::Recorder;

/// A response whose body was read.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
    /// The head. Its body is empty.
    inner: Response,
}

impl TestResponse {
    /// The head and the body.
    pub(crate) fn into_parts(self) -> (http::response::Parts, String) {
        (self.inner.into_parts().0, self.body)
    }

    /// The observer of a request that ran `transact`.
    pub(crate) fn recorder(&self) -> Option<&Recorder> {
        self.inner.extensions().get()
    }

    /// The report of the layer, if the request went through one.
    pub(crate) fn try_report(&self) -> Option<&Report> {
        self.inner.extensions().get()
    }

    pub(crate) fn report(&self) -> &Report {
        self.try_report().expect("no report")
    }

    /// The crate's error that the response was made from.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.inner.extensions().get()
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.report().outcome()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.inner.headers()
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        let value = self.headers().get(name)?;
        Some(value.to_str().unwrap())
    }

    /// Asserts that it is the problem document of `kind` and contains no text of the database.
    #[track_caller]
    pub(crate) fn assert_problem(&self, kind: ErrorKind) {
        let error = self.error();
        let error = error.unwrap_or_else(|| panic!("{} is no problem: {}", self.status, self.body));
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!(self.status, error.status());
        assert_eq!(
            self.header(header::CONTENT_TYPE),
            Some("application/problem+json")
        );
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["type"].is_string() && problem["title"].is_string());
        for secret in [
            "grants",
            "documents",
            "notes",
            "SELECT",
            "restart",
            "duplicate key",
            "Key (",
            "127.0.0.1",
        ] {
            assert!(!self.body.contains(secret), "{}", self.body);
        }
    }
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> TestResponse {
    let response = app.clone().oneshot(request).await.unwrap();
    read(response).await
}

pub(crate) async fn read(response: Response) -> TestResponse {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    TestResponse {
        status: parts.status,
        body: String::from_utf8(bytes.to_vec()).unwrap(),
        inner: Response::from_parts(parts, Body::empty()),
    }
}

pub(crate) async fn put(app: &Router, path: &str, body: &'static str) -> TestResponse {
    send(app, Request::put(path).body(Body::from(body)).unwrap()).await
}

pub(crate) async fn get(app: &Router, path: &str) -> TestResponse {
    send(app, Request::get(path).body(Body::empty()).unwrap()).await
}
