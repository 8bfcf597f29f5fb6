//! HTTP preconditions on the integer version of a row.

use std::{convert::Infallible, fmt};

use axum_core::{
    body::Body,
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use bytes::Bytes;
use futures_util::stream;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ETAG, IF_MATCH, IF_NONE_MATCH},
    request::Parts,
};

use crate::error::{Error, ErrorKind};

/// The versions that the client is ready to overwrite: the extractor of
/// [`If-Match`](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1).
///
/// A client that changes what it has read sends the [`ETag`] that it got. If somebody else was
/// faster, the answer is 412, and nobody's work is lost.
///
/// ```
/// # use axum::extract::Path;
/// use tower_interlock::{ETag, Error, IfMatch, Tx};
///
/// async fn update(Path(id): Path<i64>, expected: IfMatch, mut tx: Tx, body: String) -> Result<(ETag, String), Error> {
///     let version = sqlx::query_scalar(
///         "UPDATE documents SET body = $3, version = version + 1
///          WHERE id = $1 AND (version = ANY ($2) OR $2 IS NULL) RETURNING version",
///     )
///     .bind(id).bind(expected.versions()).bind(&body)
///     .fetch_optional(&mut tx).await?
///     .ok_or_else(Error::precondition_failed)?;
///     Ok((ETag::of(version), body))
/// }
/// ```
///
/// (This handler leaves it to the policy to answer 404 for a row that is not there.)
///
/// # What it accepts
///
/// | `If-Match` | meaning |
/// |---|---|
/// | `"7"` | version 7 |
/// | `"7", "8"`, also in several lines | version 7 or 8 |
/// | `*` | any version, as long as the row is there |
/// | `W/"7"`, `"abc"`, `"07"`, `""`, an empty list | no version: 412 |
/// | `7`, `"7`, `"7" "8"`, `*, "7"` | 400 [`InvalidPrecondition`](ErrorKind::InvalidPrecondition) |
/// | none | 428 [`PreconditionRequired`](ErrorKind::PreconditionRequired) |
///
/// `Option<IfMatch>` is for routes that do not insist on it. It is `None` without the header; one
/// that cannot be read is a 400 there, too.
///
/// As a handler's argument it comes after the policy, as HTTP wants it: who may not write gets a 403
/// whatever the precondition.
///
/// # In SQL
///
/// | condition | bind | `*` | a list | nothing that matches |
/// |---|---|---|---|---|
/// | `version = ANY ($2) OR $2 IS NULL` | [`versions()`](Self::versions) | any version | each of it | 412 |
/// | `version = ANY ($2)` | [`versions()`](Self::versions) | 412 | each of it | 412 |
/// | `version = $2` | [`single()?`](Self::single) | 400 | 400 | 412 |
///
/// The same expressions serve as a condition of a conditional write, with
/// `(SELECT version FROM documents WHERE id = $2)` on the left.
///
/// # Deployment caveats
///
/// * **Proxies that compress** make the tag of an answer weak, and a weak tag never matches here.
///   Let them leave alone what clients change.
/// * **A version must not come back.** If rows are deleted and inserted anew under the same URL,
///   the new row has to go on counting, or an old tag matches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any version, as long as there is one.
    Any,
    /// One of these. As extracted, they are in ascending order, each of them once; none if nothing
    /// that was sent can match.
    Versions(Vec<i64>),
}

impl IfMatch {
    /// The versions to bind as a nullable `INT8[]`; `None`, SQL's NULL, for `*`.
    ///
    /// `version = ANY (NULL)` is not true, so a condition that forgets `*` refuses it.
    ///
    /// ```
    /// use tower_interlock::IfMatch;
    ///
    /// assert_eq!(IfMatch::Versions(vec![7, 8]).versions(), Some(&[7, 8][..]));
    /// assert_eq!(IfMatch::Any.versions(), None);
    /// ```
    #[must_use]
    pub fn versions(&self) -> Option<&[i64]> {
        match self {
            Self::Any => None,
            Self::Versions(versions) => Some(versions),
        }
    }

    /// The one version to bind, for `version = $2`; `None`, SQL's NULL, if nothing that was sent
    /// can match.
    ///
    /// ```
    /// use tower_interlock::{ErrorKind, IfMatch};
    ///
    /// # fn main() -> Result<(), tower_interlock::Error> {
    /// assert_eq!(IfMatch::Versions(vec![7]).single()?, Some(7));
    /// assert_eq!(IfMatch::Versions(vec![]).single()?, None);
    /// assert_eq!(IfMatch::Any.single().unwrap_err().kind(), ErrorKind::InvalidPrecondition);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`InvalidPrecondition`](ErrorKind::InvalidPrecondition) for `*` and for several versions.
    pub fn single(&self) -> Result<Option<i64>, Error> {
        match self.versions() {
            Some([]) => Ok(None),
            Some([version]) => Ok(Some(*version)),
            Some(_) | None => Err(Error::because(
                ErrorKind::InvalidPrecondition,
                "If-Match has to name one version here",
            )),
        }
    }

    /// Whether the row's `version` is one that the client expects.
    #[must_use]
    pub fn matches(&self, version: i64) -> bool {
        self.versions()
            .is_none_or(|versions| versions.contains(&version))
    }

    /// Refuses unless the row's `version` is one that the client expects.
    ///
    /// Read the version through the [`Tx`](crate::Tx) of the write: then it still holds at COMMIT.
    ///
    /// ```
    /// use tower_interlock::{Error, IfMatch, Tx};
    ///
    /// async fn delete(id: i64, expected: IfMatch, tx: &mut Tx) -> Result<(), Error> {
    ///     let version = sqlx::query_scalar("SELECT version FROM documents WHERE id = $1")
    ///         .bind(id).fetch_one(&mut *tx).await?;
    ///     expected.check(version)?;
    ///     sqlx::query("DELETE FROM documents WHERE id = $1").bind(id).execute(tx).await?;
    ///     Ok(())
    /// }
    /// assert_eq!(IfMatch::Versions(vec![7]).check(8).unwrap_err().status(), 412);
    /// ```
    ///
    /// # Errors
    ///
    /// [`PreconditionFailed`](ErrorKind::PreconditionFailed).
    pub fn check(&self, version: i64) -> Result<(), Error> {
        if self.matches(version) {
            Ok(())
        } else {
            Err(Error::precondition_failed())
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        if_match(&parts.headers)?.ok_or_else(|| Error::new(ErrorKind::PreconditionRequired))
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for IfMatch {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Error> {
        if_match(&parts.headers)
    }
}

/// The versions that the client already has: the extractor of
/// [`If-None-Match`](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.2).
///
/// It is for GET and HEAD, and never rejects: without the header, or with one that cannot be read,
/// the client has nothing and is answered in full. Weak tags count, as in `W/"7"`, since a proxy
/// may have made them so.
///
/// ```
/// # use axum::extract::Path;
/// use axum::response::Response;
/// use tower_interlock::{Error, IfNoneMatch, Tx};
///
/// async fn read(Path(id): Path<i64>, seen: IfNoneMatch, mut tx: Tx) -> Result<Response, Error> {
///     let (body, version): (String, i64) = sqlx::query_as("SELECT body, version FROM documents WHERE id = $1")
///         .bind(id).fetch_one(&mut tx).await?;
///     Ok(seen.unless_current(version, || body))
/// }
/// ```
///
/// It is no condition for a write. That a row must not exist yet is a matter of its primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfNoneMatch {
    /// `*`: whatever there is.
    Any,
    /// One of these; none if there is nothing that the client has.
    Versions(Vec<i64>),
}

impl IfNoneMatch {
    /// Whether the client already has this `version`.
    #[must_use]
    pub fn matches(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }

    /// Answers with `body` and its [`ETag`], or with a 304 if the client already has this `version`.
    ///
    /// A `Cache-Control` or `Vary` belongs on both: `([(CACHE_CONTROL, "private")], answer)`.
    ///
    /// ```
    /// use tower_interlock::IfNoneMatch;
    ///
    /// let seen = IfNoneMatch::Versions(vec![7]);
    /// let (had, new) = (seen.unless_current(7, || "body"), seen.unless_current(8, || "body"));
    /// assert_eq!((had.status().as_u16(), new.status().as_u16()), (304, 200));
    /// assert_eq!(new.headers()["ETag"], "\"8\"");
    /// ```
    pub fn unless_current<R: IntoResponse>(
        &self,
        version: i64,
        body: impl FnOnce() -> R,
    ) -> Response {
        let etag = ETag::of(version);
        if self.matches(version) {
            (StatusCode::NOT_MODIFIED, etag, no_body()).into_response()
        } else {
            (etag, body()).into_response()
        }
    }
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(match Field::read(&parts.headers, IF_NONE_MATCH) {
            Ok(Some(Field::Any)) => Self::Any,
            Ok(Some(Field::List(tags))) => Self::Versions(versions(&tags, |_| true)),
            Ok(None) | Err(Malformed) => Self::Versions(Vec::new()),
        })
    }
}

/// The tag of a row's version, for answers:
/// [`ETag: "7"`](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3).
///
/// It is strong, as [`IfMatch`] needs it: give it to a URL that has one representation, and that
/// changes only when the version does.
///
/// ```
/// use axum::response::IntoResponse;
/// use tower_interlock::ETag;
///
/// let answer = (ETag::of(7), "body").into_response();
/// assert_eq!(answer.headers()["ETag"], "\"7\"");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct ETag(i64);

impl ETag {
    /// The tag of `version`. No two versions have the same one, and none has two.
    pub fn of(version: i64) -> Self {
        Self(version)
    }
}

/// As in the header, with the quotes.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl IntoResponseParts for ETag {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        // Always: digits, a minus and quotes make a value.
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            parts.headers_mut().insert(ETAG, value);
        }
        Ok(parts)
    }
}

/// Without a body: `(StatusCode::NO_CONTENT, ETag::of(8))`.
impl IntoResponse for ETag {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

impl Error {
    /// The 412 for a row whose version is not the expected one; see [`IfMatch`].
    #[must_use]
    pub fn precondition_failed() -> Self {
        Self::new(ErrorKind::PreconditionFailed)
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Error> {
    match Field::read(headers, IF_MATCH) {
        Ok(None) => Ok(None),
        Ok(Some(Field::Any)) => Ok(Some(IfMatch::Any)),
        // Strong comparison: a weak tag equals none.
        Ok(Some(Field::List(tags))) => {
            Ok(Some(IfMatch::Versions(versions(&tags, |tag| !tag.weak))))
        }
        Err(Malformed) => Err(Error::because(
            ErrorKind::InvalidPrecondition,
            "If-Match is neither * nor a list of entity tags",
        )),
    }
}

fn versions(tags: &[Tag], comparable: impl Fn(&Tag) -> bool) -> Vec<i64> {
    let tags = tags.iter().filter(|tag| comparable(tag));
    let mut versions: Vec<i64> = tags.filter_map(|tag| tag.version).collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

/// A body of unknown length. From a known one, axum makes a `Content-Length: 0`, and a cache could
/// take that for the length of what it has.
fn no_body() -> Body {
    Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())
}

/// `"*" / #entity-tag`
#[derive(Debug, PartialEq)]
enum Field {
    Any,
    List(Vec<Tag>),
}

/// `[ "W/" ] DQUOTE *etagc DQUOTE`
#[derive(Debug, Clone, PartialEq)]
struct Tag {
    weak: bool,
    /// `None` if it is the tag of no version.
    version: Option<i64>,
}

#[derive(Debug, PartialEq)]
struct Malformed;

impl Field {
    fn read(headers: &HeaderMap, name: HeaderName) -> Result<Option<Self>, Malformed> {
        let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        Self::parse(&lines.collect::<Vec<_>>())
    }

    /// The lines of a field are one list.
    fn parse(lines: &[&[u8]]) -> Result<Option<Self>, Malformed> {
        match lines {
            [] => return Ok(None),
            [line] if line.trim_ascii() == b"*" => return Ok(Some(Self::Any)),
            _ => {}
        }
        let mut tags = Vec::new();
        for line in lines {
            list(line, &mut tags).ok_or(Malformed)?;
        }
        Ok(Some(Self::List(tags)))
    }
}

/// `[ entity-tag ] *( OWS "," OWS [ entity-tag ] )`
fn list(line: &[u8], tags: &mut Vec<Tag>) -> Option<()> {
    let mut rest = line.trim_ascii_start();
    while let Some(first) = rest.first() {
        if *first != b',' {
            let (tag, after) = Tag::parse(rest)?;
            tags.push(tag);
            rest = after.trim_ascii_start();
        }
        rest = match rest {
            [] => rest,
            [b',', after @ ..] => after.trim_ascii_start(),
            _ => return None,
        };
    }
    Some(())
}

impl Tag {
    /// The tag that `text` begins with, and what follows it.
    fn parse(text: &[u8]) -> Option<(Self, &[u8])> {
        let weak = text.strip_prefix(b"W/");
        let opaque = weak.unwrap_or(text).strip_prefix(b"\"")?;
        let end = opaque.iter().position(|byte| !is_etagc(*byte))?;
        let (opaque, after) = opaque.split_at_checked(end)?;
        let tag = Self {
            weak: weak.is_some(),
            version: version(opaque),
        };
        Some((tag, after.strip_prefix(b"\"")?))
    }
}

/// Any visible character but the quote, and what is not ASCII. There are no escapes.
fn is_etagc(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'~' | 0x80..)
}

/// The version whose tag this is: as [`ETag`] writes it, without `+7`, `07` or `-0`.
fn version(opaque: &[u8]) -> Option<i64> {
    let text = str::from_utf8(opaque).ok()?;
    let version: i64 = text.parse().ok()?;
    (version.to_string() == text).then_some(version)
}

#[cfg(test)]
mod tests {
    use std::iter::{once, repeat_with};

    use super::*;

    fn read(name: &HeaderName, lines: &[&[u8]]) -> HeaderMap {
        let value = |line: &&[u8]| HeaderValue::from_bytes(line).unwrap();
        let lines = lines.iter().map(|line| (name.clone(), value(line)));
        lines.collect()
    }

    /// What `If-Match` lines of text mean; the status if they are refused.
    fn expected(lines: &[&str]) -> Result<Option<IfMatch>, u16> {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        if_match(&read(&IF_MATCH, &lines)).map_err(|error| error.status().as_u16())
    }

    fn these(versions: &[i64]) -> Result<Option<IfMatch>, u16> {
        Ok(Some(IfMatch::Versions(versions.to_vec())))
    }

    #[test]
    fn versions_are_read_from_lists_and_lines() {
        assert_eq!(expected(&[]), Ok(None));
        assert_eq!(expected(&["*"]), Ok(Some(IfMatch::Any)));
        assert_eq!(expected(&[r#""7""#]), these(&[7]));
        assert_eq!(expected(&[r#""8","7" ,	"8""#]), these(&[7, 8]));
        assert_eq!(expected(&[r#""7""#, r#""9", "8""#]), these(&[7, 8, 9]));
        assert_eq!(expected(&[r#",, "7" , ,"#, ""]), these(&[7]));
    }

    #[test]
    fn what_is_no_version_matches_nothing() {
        for text in [
            "",
            ",",
            r#""""#,
            r#""abc""#,
            r#"W/"7""#,
            r#""+7""#,
            r#""07""#,
            r#""-0""#,
            r#""7,8""#,
            r#""7.0""#,
            r#""٧""#,
            r#""9223372036854775808""#,
            r#""-9223372036854775809""#,
            r#""7-gzip", W/"8""#,
        ] {
            assert_eq!(expected(&[text]), these(&[]), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for lines in [
            &["7"][..],
            &[r#"""#],
            &[r#""7"#],
            &[r#"7""#],
            &[r#""7"8"#],
            &[r#"" 7""#],
            &[r#""7""8""#],
            &[r#""7" "8""#],
            &[r#""7";"8""#],
            &[r#""\"7\"""#],
            &[r#"w/"7""#],
            &[r#"W /"7""#],
            &["W/7"],
            &["W/"],
            &[r#"*, "7""#],
            &["**"],
            &["*", "*"],
            &["*", ""],
            &[r#""7"#, r#"8""#],
            &[r#""7""#, "8"],
        ] {
            assert_eq!(expected(lines), Err(400), "{lines:?}");
        }
    }

    #[test]
    fn one_version_has_one_tag() {
        let random = repeat_with(|| fastrand::i64(..) >> fastrand::u32(..64)).take(10_000);
        for version in random.chain([0, -1, i64::MIN, i64::MAX]) {
            let tag = ETag::of(version).to_string();
            assert_eq!(expected(&[&tag]), these(&[version]));
        }
    }

    #[test]
    fn a_weak_tag_is_enough_to_have_seen_a_version() {
        let tags = [Some(7), None, Some(8)].map(|version| Tag {
            weak: version == Some(7),
            version,
        });
        assert_eq!(versions(&tags, |_| true), [7, 8]);
        assert_eq!(versions(&tags, |tag| !tag.weak), [8]);
    }

    /// Any list, written in any of the ways that the grammar allows, is read as what it is.
    #[test]
    fn a_list_is_read_as_it_was_written() {
        for _ in 0..10_000 {
            let mut written = Vec::new();
            let lines: Vec<Vec<u8>> = repeat_with(|| random_line(&mut written))
                .take(fastrand::usize(1..4))
                .collect();
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            let headers = read(&IF_MATCH, &lines);
            assert_eq!(
                Field::read(&headers, IF_MATCH),
                Ok(Some(Field::List(written))),
                "{headers:?}"
            );
        }
    }

    fn random_line(written: &mut Vec<Tag>) -> Vec<u8> {
        let space = || &b" \t \t"[..fastrand::usize(..4)];
        let mut line = space().to_vec();
        for _ in 0..fastrand::usize(..5) {
            if fastrand::bool() {
                let weak = fastrand::bool();
                let version = fastrand::bool().then(|| fastrand::i64(-9..9));
                line.extend_from_slice(if weak { b"W/" } else { b"" });
                line.push(b'"');
                match version {
                    Some(version) => line.extend_from_slice(version.to_string().as_bytes()),
                    // A comma in front, or it may turn out to be one of ours.
                    None => line.extend(once(b',').chain(random_etagcs())),
                }
                line.push(b'"');
                written.push(Tag { weak, version });
            }
            line.extend_from_slice(space());
            line.push(b',');
            line.extend_from_slice(space());
        }
        line
    }

    fn random_etagcs() -> impl Iterator<Item = u8> {
        let any = repeat_with(|| fastrand::u8(..)).filter(|byte| is_etagc(*byte));
        any.take(fastrand::usize(..5))
    }

    /// Every short text of the characters that mean something, against the grammar.
    #[test]
    fn the_grammar_decides() {
        const CHARACTERS: &[u8] = b"\"W/7*, ";
        let mut texts = vec![Vec::new()];
        for _ in 0..7 {
            for text in &texts {
                let field = Field::parse(&[text]);
                let accepted = match text.trim_ascii() {
                    b"*" => matches!(field, Ok(Some(Field::Any))),
                    list if is_list(list) => matches!(field, Ok(Some(Field::List(_)))),
                    _ => field == Err(Malformed),
                };
                assert!(accepted, "{:?}: {field:?}", str::from_utf8(text));
            }
            let longer = |text: &Vec<u8>| {
                let text = text.clone();
                CHARACTERS.iter().map(move |c| [&text[..], &[*c]].concat())
            };
            texts = texts.iter().flat_map(longer).collect();
        }
    }

    /// `[ element ] *( OWS "," OWS [ element ] )`, by trying every way to read it.
    fn is_list(text: &[u8]) -> bool {
        elements(text).any(is_tail)
    }

    fn is_tail(text: &[u8]) -> bool {
        let commas = spaces(text).filter_map(|text| text.strip_prefix(b","));
        text.is_empty() || commas.flat_map(spaces).flat_map(elements).any(is_tail)
    }

    /// What may be left of the text after `[ element ]`.
    fn elements(text: &[u8]) -> impl Iterator<Item = &[u8]> {
        let opaque = text.strip_prefix(b"W/").unwrap_or(text).strip_prefix(b"\"");
        let end = opaque.and_then(|opaque| opaque.iter().position(|byte| *byte == b'"'));
        let tag = opaque.zip(end).map(|(opaque, end)| opaque.split_at(end));
        let tag = tag.filter(|(inside, _)| !inside.contains(&b' '));
        once(text).chain(tag.map(|(_, after)| &after[1..]))
    }

    /// What may be left of the text after OWS.
    fn spaces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
        let count = text.iter().take_while(|byte| **byte == b' ').count();
        (0..=count).map(|skipped| &text[skipped..])
    }

    /// Whatever bytes a header can have, quickly.
    #[test]
    fn hostile_headers_are_read_or_refused() {
        for _ in 0..10_000 {
            let garbage: Vec<u8> = repeat_with(|| fastrand::u8(..))
                .filter(|byte| *byte >= b' ' && *byte != 0x7f)
                .take(fastrand::usize(..30))
                .collect();
            let _ = if_match(&read(&IF_MATCH, &[&garbage]));
        }
        assert_eq!(
            if_match(&read(&IF_MATCH, &[b"\"\xff\xc3\", \"7\""])).unwrap(),
            Some(IfMatch::Versions(vec![7]))
        );
        let megabyte = 1 << 20;
        assert_eq!(expected(&[&",".repeat(megabyte)]), these(&[]));
        assert_eq!(expected(&[&"\"".repeat(megabyte + 1)]), Err(400));
        assert_eq!(expected(&[&r#""7","#.repeat(megabyte / 4)]), these(&[7]));
        assert_eq!(
            expected(&[&format!("\"{}\"", "7".repeat(megabyte))]),
            these(&[])
        );
    }
}
