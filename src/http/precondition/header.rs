//! The grammar of `If-Match` and `If-None-Match`: RFC 9110, sections 8.8.3 and 13.1.

use http::{HeaderMap, HeaderName, HeaderValue};

/// `"*" / #entity-tag`
#[derive(Debug, PartialEq)]
pub(crate) enum Field {
    Any,
    List(Vec<Tag>),
}

/// `[ "W/" ] DQUOTE *etagc DQUOTE`
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tag {
    pub(crate) weak: bool,
    /// `None` if no version has this tag.
    version: Option<i64>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Malformed;

impl Field {
    pub(crate) fn read(headers: &HeaderMap, name: HeaderName) -> Result<Option<Self>, Malformed> {
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
    /// The tag that `text` begins with, and the text after it.
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

/// Any visible character except the quote, and any byte that is not ASCII. There are no escapes.
fn is_etagc(byte: u8) -> bool {
    matches!(byte, b'!' | b'#'..=b'~' | 0x80..)
}

/// The version whose tag this is, in the form that `ETag` writes: not `+7`, `07` or `-0`.
fn version(opaque: &[u8]) -> Option<i64> {
    let text = str::from_utf8(opaque).ok()?;
    let version: i64 = text.parse().ok()?;
    (version.to_string() == text).then_some(version)
}

/// The versions of the comparable tags, in ascending order, each one once.
pub(crate) fn versions(tags: &[Tag], comparable: impl Fn(&Tag) -> bool) -> Vec<i64> {
    let tags = tags.iter().filter(|tag| comparable(tag));
    let mut versions: Vec<i64> = tags.filter_map(|tag| tag.version).collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

#[cfg(test)]
mod tests {
    use std::iter::{once, repeat_with};

    use http::header::IF_MATCH;

    use super::*;

    #[test]
    fn weak_tags_are_filtered_by_the_comparison() {
        let tags = [Some(7), None, Some(8)].map(|version| Tag {
            weak: version == Some(7),
            version,
        });
        assert_eq!(versions(&tags, |_| true), [7, 8]);
        assert_eq!(versions(&tags, |tag| !tag.weak), [8]);
    }

    /// Lists in every form that the grammar allows.
    #[test]
    fn written_list_is_parsed_back() {
        for _ in 0..10_000 {
            let mut written = Vec::new();
            let lines: Vec<Vec<u8>> = repeat_with(|| random_line(&mut written))
                .take(fastrand::usize(1..4))
                .collect();
            let lines: Vec<&[u8]> = lines.iter().map(Vec::as_slice).collect();
            let value = |line: &&[u8]| (IF_MATCH, HeaderValue::from_bytes(line).unwrap());
            let headers: HeaderMap = lines.iter().map(value).collect();
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
                    // With a comma, it cannot be the tag of a version.
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

    /// Every short text of the characters that have a meaning.
    #[test]
    fn short_texts_are_accepted_exactly_by_the_grammar() {
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

    /// `[ element ] *( OWS "," OWS [ element ] )`, by trying every way to parse it.
    fn is_list(text: &[u8]) -> bool {
        elements(text).any(is_tail)
    }

    fn is_tail(text: &[u8]) -> bool {
        let commas = spaces(text).filter_map(|text| text.strip_prefix(b","));
        text.is_empty() || commas.flat_map(spaces).flat_map(elements).any(is_tail)
    }

    /// The rests that the text can have after `[ element ]`.
    fn elements(text: &[u8]) -> impl Iterator<Item = &[u8]> {
        let opaque = text.strip_prefix(b"W/").unwrap_or(text).strip_prefix(b"\"");
        let end = opaque.and_then(|opaque| opaque.iter().position(|byte| *byte == b'"'));
        let tag = opaque.zip(end).map(|(opaque, end)| opaque.split_at(end));
        let tag = tag.filter(|(inside, _)| !inside.contains(&b' '));
        once(text).chain(tag.map(|(_, after)| &after[1..]))
    }

    /// The rests that the text can have after OWS.
    fn spaces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
        let count = text.iter().take_while(|byte| **byte == b' ').count();
        (0..=count).map(|skipped| &text[skipped..])
    }
}
