//! Every `If-Match` and `If-None-Match` header is parsed by the grammar of RFC 9110.

use std::fmt::Debug;

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{
        HeaderName, HeaderValue, Request,
        header::{IF_MATCH, IF_NONE_MATCH},
        request::Parts,
    },
};
use futures::FutureExt as _;
use tower_interlock::{
    Error, ErrorKind,
    precondition::{ETag, IfMatch, IfNoneMatch},
};

/// Checks the header whose lines are the lines of `input`. An empty input is no header.
///
/// # Panics
///
/// If the extractors and the grammar differ.
pub fn check(input: &[u8]) {
    let lines = if input.is_empty() { None } else { Some(input) };
    let lines = lines.into_iter().flat_map(|all| all.split(|b| *b == b'\n'));
    // The server rejects a line that is not a header value.
    let mut lines: Vec<HeaderValue> = lines.flat_map(HeaderValue::from_bytes).collect();
    let model = Model::of(&lines);
    check_against(&model, &lines);

    // One more tag is never lost, and never repairs a malformed header.
    let version = input.iter().take(8).fold(0, |number, byte| {
        i64::wrapping_add(i64::wrapping_mul(number, 256), i64::from(*byte))
    });
    let tag = ETag::new(version).to_string();
    let with_one_more = match model {
        Model::Absent => Model::Tags(vec![Tag::strong(&tag)]),
        Model::Tags(tags) => Model::Tags([tags, vec![Tag::strong(&tag)]].concat()),
        Model::Any | Model::Malformed => Model::Malformed,
    };
    lines.push(HeaderValue::try_from(tag).unwrap());
    check_against(&with_one_more, &lines);
}

fn check_against(model: &Model, lines: &[HeaderValue]) {
    let required = required(lines);
    let optional = optional(lines);
    let seen = seen(lines);
    match model {
        Model::Absent => {
            assert_rejected(&required, ErrorKind::PreconditionRequired, 428, lines);
            assert_eq!(optional.unwrap(), None, "{lines:?}");
            assert_eq!(seen, IfNoneMatch::Versions(vec![]), "{lines:?}");
        }
        Model::Malformed => {
            assert_rejected(&required, ErrorKind::InvalidPrecondition, 400, lines);
            assert_rejected(&optional, ErrorKind::InvalidPrecondition, 400, lines);
            assert_eq!(seen, IfNoneMatch::Versions(vec![]), "{lines:?}");
        }
        Model::Any => {
            let expected = required.unwrap();
            assert_eq!(expected, IfMatch::Any, "{lines:?}");
            assert!(expected.single().is_err());
            assert_eq!(optional.unwrap(), Some(IfMatch::Any));
            assert_eq!(seen, IfNoneMatch::Any);
        }
        Model::Tags(tags) => {
            let expected = required.unwrap();
            let strong: Vec<Tag> = tags.iter().filter(|tag| !tag.weak).cloned().collect();
            assert_versions(expected.versions().expect("a list became *"), &strong);
            assert_consistent(&expected);
            assert_eq!(optional.unwrap(), Some(expected));
            match seen {
                IfNoneMatch::Versions(versions) => assert_versions(&versions, tags),
                IfNoneMatch::Any => panic!("a list became *: {lines:?}"),
            }
        }
    }
}

/// Asserts that `versions` are those whose tags are in `tags`, each once.
fn assert_versions(versions: &[i64], tags: &[Tag]) {
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    let quoted = |tag: &Tag| [b"\"", &tag.opaque[..], b"\""].concat();
    for version in versions {
        let tag = ETag::new(*version).to_string();
        let was_sent = tags.iter().any(|sent| quoted(sent) == tag.as_bytes());
        assert!(was_sent, "{version} is not in {tags:?}");
    }
    for tag in tags {
        let version = str::from_utf8(&tag.opaque)
            .ok()
            .and_then(|s| s.parse().ok());
        let is_ours = |version: &i64| ETag::new(*version).to_string().as_bytes() == quoted(tag);
        if let Some(version) = version.filter(is_ours) {
            assert!(versions.contains(&version), "{version} is lost");
        }
    }
}

/// Asserts that all methods of `expected` agree.
fn assert_consistent(expected: &IfMatch) {
    let versions = expected.versions().unwrap();
    match expected.single() {
        Ok(None) => assert!(versions.is_empty()),
        Ok(Some(version)) => assert_eq!(versions, [version]),
        Err(error) => {
            assert_eq!(error.status(), 400);
            assert!(versions.len() > 1);
        }
    }
    let near = |version: &i64| [version.wrapping_sub(1), *version, version.wrapping_add(1)];
    for version in versions.iter().flat_map(near).chain([0, i64::MIN]) {
        let is_expected = versions.contains(&version);
        assert_eq!(expected.matches(version), is_expected);
        assert_eq!(expected.check(version).is_ok(), is_expected);
    }
}

#[track_caller]
fn assert_rejected<T: Debug>(
    result: &Result<T, Error>,
    kind: ErrorKind,
    status: u16,
    lines: &[HeaderValue],
) {
    let error = result.as_ref().expect_err("it was accepted");
    assert_eq!(error.kind(), kind, "{lines:?}");
    assert_eq!(error.status(), status, "{lines:?}");
}

fn required(lines: &[HeaderValue]) -> Result<IfMatch, Error> {
    let mut parts = parts(&IF_MATCH, lines);
    let extracted = <IfMatch as FromRequestParts<()>>::from_request_parts(&mut parts, &());
    extracted.now_or_never().unwrap()
}

fn optional(lines: &[HeaderValue]) -> Result<Option<IfMatch>, Error> {
    let mut parts = parts(&IF_MATCH, lines);
    let extracted = <IfMatch as OptionalFromRequestParts<()>>::from_request_parts(&mut parts, &());
    extracted.now_or_never().unwrap()
}

fn seen(lines: &[HeaderValue]) -> IfNoneMatch {
    let mut parts = parts(&IF_NONE_MATCH, lines);
    let extracted = IfNoneMatch::from_request_parts(&mut parts, &());
    let Ok(seen) = extracted.now_or_never().unwrap();
    seen
}

fn parts(name: &HeaderName, lines: &[HeaderValue]) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    for line in lines {
        parts.headers.append(name, line.clone());
    }
    parts
}

/// A header by the grammar of RFC 9110. Its lines are joined and read byte by byte.
enum Model {
    Absent,
    Any,
    Tags(Vec<Tag>),
    Malformed,
}

#[derive(Debug, Clone)]
struct Tag {
    weak: bool,
    opaque: Vec<u8>,
}

/// A position in a list.
#[derive(Clone, Copy)]
enum At {
    /// Before a tag or a comma.
    Gap,
    /// After `W`.
    W,
    /// After `W/`.
    Slash,
    Inside,
    /// After a tag.
    After,
}

impl Model {
    fn of(lines: &[HeaderValue]) -> Self {
        let lines: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
        let joined = lines.join(&b", "[..]);
        match joined.trim_ascii() {
            _ if lines.is_empty() => Self::Absent,
            b"*" => Self::Any,
            list => Self::list(list).map_or(Self::Malformed, Self::Tags),
        }
    }

    fn list(list: &[u8]) -> Option<Vec<Tag>> {
        let (mut at, mut tags) = (At::Gap, Vec::new());
        for byte in list {
            at = match (at, byte) {
                (At::Gap, b' ' | b'\t' | b',') => At::Gap,
                (At::Gap, b'W') => At::W,
                (At::W, b'/') => At::Slash,
                (At::Gap | At::Slash, b'"') => {
                    let weak = matches!(at, At::Slash);
                    tags.push(Tag {
                        weak,
                        opaque: vec![],
                    });
                    At::Inside
                }
                (At::Inside, b'"') | (At::After, b' ' | b'\t') => At::After,
                (At::Inside, 0x21..=0x7e | 0x80..) => {
                    tags.last_mut()?.opaque.push(*byte);
                    At::Inside
                }
                (At::After, b',') => At::Gap,
                _ => return None,
            };
        }
        matches!(at, At::Gap | At::After).then_some(tags)
    }
}

impl Tag {
    fn strong(quoted: &str) -> Self {
        Self {
            weak: false,
            opaque: quoted.trim_matches('"').into(),
        }
    }
}
