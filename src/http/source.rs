//! Where the requests of the attempts come from.

use axum_core::{body::Body, extract::DefaultBodyLimit};
use http::{HeaderValue, Method, Request, header, request::Parts};

use crate::{
    error::Error,
    http::{
        body::Buffered,
        options::Options,
        route::{BodyMode, Route},
    },
};

/// Where the requests of the attempts come from.
pub(crate) enum RequestSource {
    Buffered(Request<Buffered>),
    Streamed(Request<Body>),
}

impl RequestSource {
    /// Reads the body, unless it is streamed.
    pub(crate) async fn read(route: &Route, mut parts: Parts, body: Body) -> Result<Self, Error> {
        if route.body == BodyMode::Streamed {
            return Ok(Self::Streamed(Request::from_parts(parts, body)));
        }
        let Options {
            body_limit,
            body_timeout,
            ..
        } = route.options;
        let body = Buffered::read(&mut parts, body, body_limit, body_timeout).await?;
        if body_limit.is_some() && !body.is_empty() {
            parts = without_default_limit(parts);
        }
        Ok(Self::Buffered(Request::from_parts(parts, body)))
    }

    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Buffered(request) => request.uri().path(),
            Self::Streamed(request) => request.uri().path(),
        }
    }

    /// The body, if it was read.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Buffered(request) => request.body().bytes(),
            Self::Streamed(_) => &[],
        }
    }

    /// Whether the request can be made again for another attempt (R4). One that asks for an upgrade
    /// cannot: all copies share the one connection, and a task of an earlier attempt may be waiting
    /// for it.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::Buffered(request) => !asks_for_upgrade(request),
            Self::Streamed(_) => false,
        }
    }

    /// The request for an attempt. It is copied only if there can be another one.
    pub(crate) fn next(&mut self, is_last: bool) -> Request<Body> {
        match self {
            Self::Buffered(request) if is_last => std::mem::take(request).map(Buffered::into_body),
            Self::Buffered(request) => request.clone().map(Buffered::into_body),
            Self::Streamed(request) => std::mem::take(request),
        }
    }
}

/// The body was read within the limit of the layer, which takes the place of axum's.
fn without_default_limit(parts: Parts) -> Parts {
    let mut request = Request::from_parts(parts, ());
    DefaultBodyLimit::disable().apply(&mut request);
    request.into_parts().0
}

/// Whether the request asks for its connection. `h2c` does not count: clients offer it with any
/// request, and the server answers or ignores it.
fn asks_for_upgrade<B>(request: &Request<B>) -> bool {
    let is_h2c = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"h2c");
    let mut protocols = request.headers().get_all(header::UPGRADE).iter();
    request.method() == Method::CONNECT || protocols.any(|protocol| !is_h2c(protocol))
}
