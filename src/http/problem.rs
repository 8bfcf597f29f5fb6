//! Errors as responses: problem documents.

use axum_core::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::error::{Denied, Error, ErrorKind};

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let error = match self.kind() {
            ErrorKind::RowNotFound => self.with_kind(ErrorKind::NotFound),
            _ => self,
        };
        let status = error.status();
        // A hidden denial looks like a resource that does not exist.
        let kind = match status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            _ => error.kind(),
        };
        let mut response = (status, document(kind, status)).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if error.is_retryable() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(challenge) = error.challenge()
            && let Ok(challenge) = HeaderValue::try_from(challenge)
        {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(error);
        response
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        Error::from(self).into_response()
    }
}

/// The problem document of a kind. Its members are texts of this crate, which need no escapes.
fn document(kind: ErrorKind, status: StatusCode) -> String {
    format!(
        r#"{{"type":"{}","title":"{}","status":{},"code":"{}"}}"#,
        kind.problem_type(),
        kind.title(),
        status.as_u16(),
        kind.code()
    )
}

/// The response of a policy that did not allow. An error of the database does not deny (P7).
pub(crate) fn answer_of_check(response: Response) -> Response {
    match response.extensions().get::<Error>() {
        Some(error) if error.status() == response.status() => {
            let error = error.of_check();
            if error.status() == response.status() {
                response
            } else {
                error.into_response()
            }
        }
        _ => response,
    }
}
