//! Idempotency keys: their header, and which routes have them.

use http::{HeaderValue, request::Parts};

use crate::error::{Error, ErrorKind};

/// Whether the requests of a route have idempotency keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idempotency {
    Unsupported,
    Optional,
    Required,
}

/// The idempotency key of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Reads the key of a request, if the route has keys.
    ///
    /// # Errors
    ///
    /// Returns `InvalidIdempotencyKey` if it is missing or malformed.
    pub(crate) fn read(parts: &Parts, idempotency: Idempotency) -> Result<Option<Self>, Error> {
        if idempotency == Idempotency::Unsupported {
            return Ok(None);
        }
        let mut values = parts.headers.get_all(HEADER).iter();
        match (values.next(), values.next()) {
            (None, _) if idempotency == Idempotency::Optional => Ok(None),
            (None, _) => Err(invalid("the request has no Idempotency-Key")),
            (Some(value), None) => match parse(value) {
                Some(key) => Ok(Some(Self(key))),
                None => Err(invalid("the Idempotency-Key could not be parsed")),
            },
            (Some(_), Some(_)) => Err(invalid("the request has several Idempotency-Keys")),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

pub(crate) const HEADER: &str = "idempotency-key";

const LONGEST: usize = 255;

fn invalid(cause: &'static str) -> Error {
    Error::because(ErrorKind::InvalidIdempotencyKey, cause)
}

/// Parses a String of [RFC 8941](https://www.rfc-editor.org/rfc/rfc8941#section-3.3.3), as the
/// [draft](https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/) has it, or a
/// key without quotes, as many clients send it. Both are the same key.
fn parse(value: &HeaderValue) -> Option<String> {
    let value = value.to_str().ok()?.trim_matches([' ', '\t']);
    let key = match value.strip_prefix('"') {
        Some(rest) => unquote(rest.strip_suffix('"')?)?,
        None => value.chars().all(is_bare).then(|| value.to_owned())?,
    };
    (1..=LONGEST).contains(&key.len()).then_some(key)
}

/// The content of a String, without its quotes.
fn unquote(content: &str) -> Option<String> {
    let mut characters = content.chars();
    let mut key = String::with_capacity(content.len());
    while let Some(character) = characters.next() {
        key.push(match character {
            '\\' => characters.next().filter(|it| matches!(it, '"' | '\\'))?,
            '"' => return None,
            ' '..='~' => character,
            _ => return None,
        });
    }
    Some(key)
}

/// Neither a quote nor a separator: a list, or a parameter, is not a key.
fn is_bare(character: char) -> bool {
    character.is_ascii_graphic() && !matches!(character, '"' | '\\' | ',' | ';')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &'static [u8]) -> Option<String> {
        parse(&HeaderValue::from_bytes(value).unwrap())
    }

    #[test]
    fn quoted_and_bare_key_are_the_same() {
        let uuid = Some("8e03978e-40d5-43dd-bc93-6894a57f9324".to_owned());
        assert_eq!(key(b"\"8e03978e-40d5-43dd-bc93-6894a57f9324\""), uuid);
        assert_eq!(key(b" 8e03978e-40d5-43dd-bc93-6894a57f9324 "), uuid);
    }

    #[test]
    fn escapes_are_resolved() {
        assert_eq!(key(br#""a\"b\\c d""#), Some(r#"a"b\c d"#.to_owned()));
    }

    #[test]
    fn malformed_key_is_rejected() {
        let malformed: [&[u8]; 12] = [
            b"",
            b" ",
            b"\"\"",
            b"\"a",
            b"a\"",
            b"\"",
            b"a,b",
            b"\"a\";v=1",
            b"\"a\\\"",
            b"\"a\\b\"",
            b"\"a\tb\"",
            "\"ä\"".as_bytes(),
        ];
        for value in malformed {
            let value = HeaderValue::from_bytes(value).unwrap();
            assert_eq!(parse(&value), None, "{value:?}");
        }
    }

    #[test]
    fn key_has_at_most_255_characters() {
        let of_length = |length| parse(&HeaderValue::try_from("k".repeat(length)).unwrap());
        assert!(of_length(255).is_some());
        assert!(of_length(256).is_none());
    }
}
