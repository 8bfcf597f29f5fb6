//! The request body: read to its end before a connection is acquired, and replayed for each
//! attempt.

use std::{error::Error as StdError, time::Duration};

use axum_core::body::Body;
use bytes::Bytes;
use http::HeaderMap;
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
    /// Reads `body`: at most `limit` bytes, for at most `time`.
    pub(crate) async fn read(body: Body, limit: usize, time: Duration) -> Result<Self, Error> {
        if body.is_end_stream() {
            return Ok(Self::default());
        }
        if body.size_hint().lower() > limit as u64 {
            return Err(Error::new(ErrorKind::BodyTooLarge));
        }
        match timeout(time, Limited::new(body, limit).collect()).await {
            Ok(Ok(collected)) => {
                let trailers = collected.trailers().cloned();
                Ok(Self {
                    data: collected.to_bytes(),
                    trailers,
                })
            }
            Ok(Err(error)) if is_too_large(&*error) => Err(Error::new(ErrorKind::BodyTooLarge)),
            Ok(Err(error)) => Err(Error::because(ErrorKind::BodyUnreadable, error)),
            Err(_) => Err(Error::new(ErrorKind::BodyTimeout)),
        }
    }

    pub(crate) fn into_body(self) -> Body {
        let data = Full::new(self.data);
        match self.trailers {
            Some(trailers) => Body::new(data.with_trailers(async { Some(Ok(trailers)) })),
            None => Body::new(data),
        }
    }
}

/// Whether a limit was exceeded, this one or one further out.
fn is_too_large(error: &(dyn StdError + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_large)
}
