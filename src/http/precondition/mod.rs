//! HTTP preconditions on the integer version of a row.

mod create_only;
mod header;
mod not_modified;

use std::{convert::Infallible, fmt};

use axum_core::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    response::{IntoResponse, IntoResponseParts, Response, ResponseParts},
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ETAG, IF_MATCH, IF_NONE_MATCH},
    request::Parts,
};

pub use self::create_only::CreateOnly;
pub(crate) use self::not_modified::NotModified;
use self::{
    header::{Field, Malformed, versions},
    not_modified::no_body,
};
use crate::error::{Error, ErrorKind};

/// The versions that the client accepts to overwrite: the extractor of
/// [`If-Match`](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.1).
///
/// A client that changes a resource sends the [`ETag`] that it has read. If the resource has
/// changed in the meantime, the response is 412, and no change is lost.
///
/// ```
/// # use axum::extract::Path;
/// use tower_interlock::{Error, Tx, precondition::{ETag, IfMatch}};
///
/// async fn update(Path(id): Path<i64>, expected: IfMatch, mut tx: Tx, body: String) -> Result<(ETag, String), Error> {
///     let version = sqlx::query_scalar(
///         "UPDATE documents SET body = $3, version = version + 1
///          WHERE id = $1 AND (version = ANY ($2) OR $2 IS NULL) RETURNING version",
///     )
///     .bind(id).bind(expected.versions()).bind(&body)
///     .fetch_optional(&mut tx).await?
///     .ok_or_else(Error::precondition_failed)?;
///     Ok((ETag::new(version), body))
/// }
/// ```
///
/// (In this example the policy responds with 404 if the row does not exist.)
///
/// # What it accepts
///
/// | `If-Match` | meaning |
/// |---|---|
/// | `"7"` | version 7 |
/// | `"7", "8"`, also in several lines | version 7 or 8 |
/// | `*` | any version, if the row exists |
/// | `W/"7"`, `"abc"`, `"07"`, `""`, an empty list | no version: 412 |
/// | `7`, `"7`, `"7" "8"`, `*, "7"` | 400 [`InvalidPrecondition`](ErrorKind::InvalidPrecondition) |
/// | none | 428 [`PreconditionRequired`](ErrorKind::PreconditionRequired) |
///
/// `Option<IfMatch>` is for routes that do not require it. It is `None` without the header. A
/// malformed header is a 400 there as well.
///
/// As an argument of the handler it is evaluated after the policy, as RFC 9110 requires: an
/// unauthorized caller gets 403 regardless of the precondition.
///
/// # In SQL
///
/// | condition | bind | `*` | a list | no match |
/// |---|---|---|---|---|
/// | `version = ANY ($2) OR $2 IS NULL` | [`versions()`](Self::versions) | any version | each of it | 412 |
/// | `version = ANY ($2)` | [`versions()`](Self::versions) | 412 | each of it | 412 |
/// | `version = $2` | [`single()?`](Self::single) | 400 | 400 | 412 |
///
/// In the WHERE of an UPDATE or DELETE there is a row, and `$2 IS NULL` is enough for `*`. The
/// condition of an upsert has to ask for the row, because `*` creates none:
///
/// ```sql
/// (SELECT version FROM documents WHERE id = $1) = ANY ($2) OR ($2 IS NULL AND EXISTS (SELECT 1 FROM documents WHERE id = $1))
/// ```
///
/// It serves as a condition of any conditional write.
///
/// # Deployment caveats
///
/// * **A proxy that compresses** makes the tag of a response weak, and a weak tag never matches.
///   Exclude resources that clients change from compression.
/// * **A version must not be reused.** If a row is deleted and inserted again under the same URL,
///   the new row has to continue the count, or an old tag matches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: any version, if there is one.
    Any,
    /// One of these. Extracted ones are in ascending order, each of them once. The list is empty if
    /// no tag can match.
    Versions(Vec<i64>),
}

impl IfMatch {
    /// Returns the versions to bind as a nullable `INT8[]`: `None`, SQL's NULL, for `*`.
    ///
    /// `version = ANY (NULL)` is not true, so a condition that forgets `*` rejects it.
    ///
    /// ```
    /// use tower_interlock::precondition::IfMatch;
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

    /// Returns the version to bind for `version = $2`: `None`, SQL's NULL, if no tag can match.
    ///
    /// ```
    /// use tower_interlock::{ErrorKind, precondition::IfMatch};
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
    /// Returns [`InvalidPrecondition`](ErrorKind::InvalidPrecondition) for `*` and for several
    /// versions.
    pub fn single(&self) -> Result<Option<i64>, Error> {
        match self.versions() {
            Some([]) => Ok(None),
            Some([version]) => Ok(Some(*version)),
            Some(_) | None => Err(Error::because(
                ErrorKind::InvalidPrecondition,
                "If-Match has to name exactly one version here",
            )),
        }
    }

    /// Returns whether the row's `version` is one that the client accepts.
    #[must_use]
    pub fn matches(&self, version: i64) -> bool {
        self.versions()
            .is_none_or(|versions| versions.contains(&version))
    }

    /// Rejects unless the row's `version` is one that the client accepts.
    ///
    /// Read the version through the [`Tx`](crate::Tx) of the write: then it still holds at COMMIT.
    ///
    /// ```
    /// use tower_interlock::{Error, Tx, precondition::IfMatch};
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
    /// Returns [`PreconditionFailed`](ErrorKind::PreconditionFailed).
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
/// It is for GET and HEAD, and never rejects: without the header, or with a malformed one, the
/// client gets the full response. Weak tags such as `W/"7"` match, since a proxy may have made them
/// weak.
///
/// ```
/// # use axum::extract::Path;
/// use axum::response::Response;
/// use tower_interlock::{Error, Tx, precondition::IfNoneMatch};
///
/// async fn read(Path(id): Path<i64>, seen: IfNoneMatch, mut tx: Tx) -> Result<Response, Error> {
///     let (body, version): (String, i64) = sqlx::query_as("SELECT body, version FROM documents WHERE id = $1")
///         .bind(id).fetch_one(&mut tx).await?;
///     Ok(seen.not_modified_or(version, || body))
/// }
/// ```
///
/// Do not guard writes with it: [`CreateOnly`] is for those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfNoneMatch {
    /// `*`: any version.
    Any,
    /// One of these. The list is empty if the client has no version.
    Versions(Vec<i64>),
}

impl IfNoneMatch {
    /// Returns whether the client already has this `version`.
    #[must_use]
    pub fn matches(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }

    /// Returns a 304 if the client already has this `version`, else `body` with its [`ETag`].
    ///
    /// Add `Cache-Control` and `Vary` to both: `([(CACHE_CONTROL, "private")], response)`.
    ///
    /// ```
    /// use tower_interlock::precondition::IfNoneMatch;
    ///
    /// let seen = IfNoneMatch::Versions(vec![7]);
    /// let (had, new) = (seen.not_modified_or(7, || "body"), seen.not_modified_or(8, || "body"));
    /// assert_eq!((had.status().as_u16(), new.status().as_u16()), (304, 200));
    /// assert_eq!(new.headers()["ETag"], "\"8\"");
    /// ```
    pub fn not_modified_or<R: IntoResponse>(
        &self,
        version: i64,
        body: impl FnOnce() -> R,
    ) -> Response {
        let etag = ETag::new(version);
        if self.matches(version) {
            let mut response = (StatusCode::NOT_MODIFIED, etag, no_body()).into_response();
            response.extensions_mut().insert(NotModified);
            response
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

/// The tag of a row's version, for responses:
/// [`ETag: "7"`](https://www.rfc-editor.org/rfc/rfc9110#section-8.8.3).
///
/// It is strong, as [`IfMatch`] requires. Use it for a URL that has one representation, which
/// changes only when the version does.
///
/// ```
/// use axum::response::IntoResponse;
/// use tower_interlock::precondition::ETag;
///
/// let response = (ETag::new(7), "body").into_response();
/// assert_eq!(response.headers()["ETag"], "\"7\"");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub struct ETag(i64);

impl ETag {
    /// Returns the tag of `version`. Each version has exactly one tag.
    pub fn new(version: i64) -> Self {
        Self(version)
    }
}

impl From<i64> for ETag {
    fn from(version: i64) -> Self {
        Self::new(version)
    }
}

/// Writes the tag as in the header, with its quotes.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl IntoResponseParts for ETag {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        // Digits, a minus sign and quotes are always valid.
        if let Ok(value) = HeaderValue::try_from(self.to_string()) {
            parts.headers_mut().insert(ETAG, value);
        }
        Ok(parts)
    }
}

/// A response without a body: `(StatusCode::NO_CONTENT, ETag::new(8))`.
impl IntoResponse for ETag {
    fn into_response(self) -> Response {
        (self, ()).into_response()
    }
}

fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, Error> {
    match Field::read(headers, IF_MATCH) {
        Ok(None) => Ok(None),
        Ok(Some(Field::Any)) => Ok(Some(IfMatch::Any)),
        // Strong comparison: a weak tag never matches.
        Ok(Some(Field::List(tags))) => {
            Ok(Some(IfMatch::Versions(versions(&tags, |tag| !tag.weak))))
        }
        Err(Malformed) => Err(Error::because(
            ErrorKind::InvalidPrecondition,
            "If-Match is neither * nor a list of entity tags",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_with;

    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(name: &HeaderName, lines: &[&[u8]]) -> HeaderMap {
        let value = |line: &&[u8]| HeaderValue::from_bytes(line).unwrap();
        let lines = lines.iter().map(|line| (name.clone(), value(line)));
        lines.collect()
    }

    /// The meaning of `If-Match` lines; the status if they are rejected.
    fn expected(lines: &[&str]) -> Result<Option<IfMatch>, u16> {
        let lines: Vec<_> = lines.iter().map(|line| line.as_bytes()).collect();
        if_match(&read(&IF_MATCH, &lines)).map_err(|error| error.status().as_u16())
    }

    fn these(versions: &[i64]) -> Result<Option<IfMatch>, u16> {
        Ok(Some(IfMatch::Versions(versions.to_vec())))
    }

    #[test]
    fn versions_are_parsed_from_lists_and_lines() {
        assert_eq!(expected(&[]), Ok(None));
        assert_eq!(expected(&["*"]), Ok(Some(IfMatch::Any)));
        assert_eq!(expected(&[r#""7""#]), these(&[7]));
        assert_eq!(expected(&[r#""8","7" ,	"8""#]), these(&[7, 8]));
        assert_eq!(expected(&[r#""7""#, r#""9", "8""#]), these(&[7, 8, 9]));
        assert_eq!(expected(&[r#",, "7" , ,"#, ""]), these(&[7]));
    }

    #[test]
    fn tag_of_no_version_matches_nothing() {
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
    fn malformed_header_is_rejected() {
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
    fn version_has_exactly_one_tag() {
        let random = repeat_with(|| fastrand::i64(..) >> fastrand::u32(..64)).take(10_000);
        for version in random.chain([0, -1, i64::MIN, i64::MAX]) {
            let tag = ETag::new(version).to_string();
            assert_eq!(expected(&[&tag]), these(&[version]));
        }
    }

    /// Any bytes that a header can have, in linear time.
    #[test]
    fn hostile_headers_are_parsed_or_rejected() {
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
