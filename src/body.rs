//! The request body: read to its end before a connection is taken, and given to each attempt anew.

use std::{error::Error as StdError, time::Duration};

use axum_core::{BoxError, body::Body};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use tokio::time::timeout;

use crate::error::{Error, ErrorKind};

/// A body that was read, trailers included.
#[derive(Clone, Default)]
pub(crate) struct Buffered {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Buffered {
    /// Reads `body`, at most `limit` bytes and for at most `patience`.
    pub(crate) async fn read<B>(body: B, limit: usize, patience: Duration) -> Result<Self, Error>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Ok(Self::default());
        }
        if body.size_hint().lower() > limit as u64 {
            return Err(Error::new(ErrorKind::BodyTooLarge));
        }
        match timeout(patience, Limited::new(body, limit).collect()).await {
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

/// Whether a limit was hit, ours or one further out.
fn is_too_large(error: &(dyn StdError + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_too_large)
}
