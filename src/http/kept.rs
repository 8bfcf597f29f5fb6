//! Responses as receipts keep them, and as they are replayed.

use axum_core::{body::Body, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};

use crate::{
    error::{Error, ErrorKind},
    receipts::{KeptResponse, Stored},
};

/// Reads what is kept of a response whose body has at most `limit` bytes, and returns the response
/// with a body that can still be sent.
///
/// # Errors
///
/// Returns `TransactionAborted` if its body fails.
pub(crate) async fn keep(
    response: Response,
    limit: usize,
) -> Result<(Response, KeptResponse), Error> {
    let headers = encode(response.headers());
    let is_short = |length| usize::try_from(length).is_ok_and(|length: usize| length <= limit);
    let length = response.body().size_hint().exact();
    // A connection that was upgraded cannot be replayed.
    if response.status().is_informational() || !length.is_some_and(is_short) {
        return Ok((
            response,
            KeptResponse {
                headers,
                body: None,
            },
        ));
    }
    let (parts, body) = response.into_parts();
    let failed = |error| Error::because(ErrorKind::TransactionAborted, error);
    let collected = body.collect().await.map_err(failed)?;
    let trailers = collected.trailers().cloned();
    let data = collected.to_bytes();
    let kept = KeptResponse {
        headers,
        // Trailers are not kept, and without them the body would not be that of the response.
        body: trailers.is_none().then(|| data.to_vec()),
    };
    let body = match trailers {
        Some(trailers) => Body::new(Full::new(data).with_trailers(async { Some(Ok(trailers)) })),
        None => Body::new(Full::new(data)),
    };
    Ok((Response::from_parts(parts, body), kept))
}

/// The response of a request that was committed before. `None` if it was not kept.
pub(crate) fn replay(stored: Stored) -> Option<Response> {
    let mut response = Response::new(Body::from(stored.body?));
    *response.status_mut() = StatusCode::from_u16(stored.status).ok()?;
    *response.headers_mut() = decode(&stored.headers?)?;
    let replayed = HeaderValue::from_static("true");
    response.headers_mut().insert(REPLAYED, replayed);
    Some(response)
}

/// Says that a response is that of an earlier copy of the request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The headers in the form of HTTP/1.1, which has room for every value.
fn encode(headers: &HeaderMap) -> Vec<u8> {
    let connection = headers.get_all(header::CONNECTION).iter();
    let of_the_hop: Vec<_> = connection
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let is_kept = |name: &HeaderName| {
        !NOT_KEPT.contains(name) && !of_the_hop.iter().any(|it| it == name.as_str())
    };
    let mut encoded = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| is_kept(name)) {
        encoded.extend_from_slice(name.as_str().as_bytes());
        encoded.push(b':');
        encoded.extend_from_slice(value.as_bytes());
        encoded.extend_from_slice(b"\r\n");
    }
    encoded
}

fn decode(encoded: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    // No value contains a line feed.
    for line in encoded.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r\n")?;
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_bytes(value.get(1..)?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

/// Headers of one response only: of its connection, its time and its body's length. A session, as
/// `Set-Cookie` has one, is not to be stored.
const NOT_KEPT: [HeaderName; 12] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::PROXY_AUTHENTICATE,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    REPLAYED,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(headers: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        decode(&encode(&map)).unwrap()
    }

    #[test]
    fn repeated_and_opaque_values_survive() {
        let headers = kept(&[
            ("vary", b"a"),
            ("vary", b"b:c"),
            ("x", b"\xff \x80"),
            ("empty", b""),
        ]);
        let vary: Vec<_> = headers.get_all("vary").iter().collect();
        assert_eq!(vary, ["a", "b:c"]);
        assert_eq!(headers.get("x").unwrap().as_bytes(), b"\xff \x80");
        assert_eq!(headers.get("empty").unwrap(), "");
    }

    #[test]
    fn headers_of_one_response_are_not_kept() {
        let headers = kept(&[
            ("set-cookie", b"session=secret"),
            ("date", b"now"),
            ("connection", b"close, X-Hop"),
            ("x-hop", b"1"),
            ("content-type", b"text/plain"),
        ]);
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("content-type"));
    }

    #[test]
    fn damaged_headers_are_no_response() {
        assert!(decode(b"name").is_none());
        assert!(decode(b"name\r\n").is_none());
        assert!(decode(b"name:value\n").is_none());
    }
}
