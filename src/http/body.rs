//! The request body: read to its end before a connection is acquired, and replayed for each
//! attempt.

use std::{error::Error as StdError, time::Duration};

use axum_core::{RequestExt as _, body::Body};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, request::Parts};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tokio::time::timeout;

use crate::error::{Error, ErrorKind};

/// A body that was read to its end, with its trailers.
#[derive(Clone, Default)]
pub(crate) struct Buffered {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Buffered {
    /// Reads `body`: at most `limit` bytes, or as many as axum's limit for the request allows, for
    /// at most `time`.
    ///
    /// It borrows the parts, since a future that owned them would store them more than once.
    pub(crate) async fn read(
        parts: &mut Parts,
        body: Body,
        limit: Option<usize>,
        time: Duration,
    ) -> Result<Self, Error> {
        if body.is_end_stream() {
            return Ok(Self::default());
        }
        let announced = body.size_hint().lower();
        let body = match limit {
            Some(limit) => Body::new(Limited::new(body, limit)),
            None => with_limit_of_axum(parts, body),
        };
        let allowed = body.size_hint().upper();
        if allowed.is_some_and(|allowed| announced > allowed) {
            return Err(Error::new(ErrorKind::BodyTooLarge));
        }
        match timeout(time, Self::read_to_end(body)).await {
            Ok(Ok(buffered)) => Ok(buffered),
            Ok(Err(error)) if is_too_large(&error) => Err(Error::new(ErrorKind::BodyTooLarge)),
            Ok(Err(error)) => Err(Error::because(ErrorKind::BodyUnreadable, error)),
            Err(_) => Err(Error::new(ErrorKind::BodyTimeout)),
        }
    }

    /// Most bodies are one frame, which is neither copied nor listed.
    async fn read_to_end(mut body: Body) -> Result<Self, axum_core::Error> {
        let first = match body.frame().await {
            Some(frame) => frame?.into_data(),
            None => return Ok(Self::default()),
        };
        let (data, trailers) = match first {
            Ok(data) if body.is_end_stream() => (data, None),
            Ok(data) => {
                let rest = body.collect().await?;
                let trailers = rest.trailers().cloned();
                let mut all = BytesMut::from(data);
                all.put(rest.aggregate());
                (all.freeze(), trailers)
            }
            Err(frame) => (Bytes::new(), frame.into_trailers().ok()),
        };
        Ok(Self { data, trailers })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn into_body(self) -> Body {
        let data = Full::new(self.data);
        match self.trailers {
            Some(trailers) => Body::new(data.with_trailers(async { Some(Ok(trailers)) })),
            None => Body::new(data),
        }
    }
}

/// `body` with axum's limit for the request, which is in its extensions.
fn with_limit_of_axum(parts: &mut Parts, body: Body) -> Body {
    let mut request = Request::new(body);
    std::mem::swap(request.extensions_mut(), &mut parts.extensions);
    let (limited, body) = request.with_limited_body().into_parts();
    parts.extensions = limited.extensions;
    body
}

/// Whether a limit was exceeded, this one or one further out.
fn is_too_large(error: &(dyn StdError + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_large)
}
