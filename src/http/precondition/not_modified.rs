//! The body of a 304: there is none, and nothing around it is to think otherwise.

use std::{
    cell::Cell,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum_core::{body::Body, response::Response};
use bytes::Bytes;
use http::header;
use http_body::{Frame, SizeHint};

/// Marks a 304 of this crate in its extensions, so that the layer can take away what middleware
/// inside of it has added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NotModified;

impl NotModified {
    /// Makes `response` a 304 without a body, if it is one of this crate.
    ///
    /// axum adds `Content-Length: 0` to a body whose size is known, which a cache could take for
    /// the length of its stored response. Middleware that compresses adds a coding and a body to
    /// one whose size is not known, and HTTP/2 sends them. If the client accepts codings, and no
    /// middleware inside has added one, the size is therefore known at the first look, which is
    /// that of such middleware outside, and not known later. Without any, axum looks first.
    pub(crate) fn strip(response: Response, accepts_codings: bool) -> Response {
        let (mut parts, body) = response.into_parts();
        if parts.extensions.remove::<Self>().is_none() {
            return Response::from_parts(parts, body);
        }
        let is_coded = parts.headers.remove(header::CONTENT_ENCODING).is_some();
        let body = Body::new(NoBody {
            reveals_size: Cell::new(accepts_codings && !is_coded),
        });
        Response::from_parts(parts, body)
    }
}

/// A body that ends at once, whose size is not known.
pub(crate) fn no_body() -> Body {
    Body::new(NoBody {
        reveals_size: Cell::new(false),
    })
}

/// A body that ends at once.
struct NoBody {
    /// Whether the next look at the size reveals it.
    reveals_size: Cell<bool>,
}

impl http_body::Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        if self.reveals_size.take() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}
