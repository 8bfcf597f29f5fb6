//! The text of a `$ref`: a file and a JSON pointer.

/// A `$ref`, split and decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) target: Target,
    pub(super) fragment: Fragment,
}

/// The part before `#`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The file that the `$ref` is in.
    Same,
    /// A path, relative to that file.
    File(String),
    /// An absolute URI. It is never fetched.
    Uri(String),
}

/// The part after `#`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fragment {
    /// The tokens of a JSON pointer. None: the whole file.
    Pointer(Vec<String>),
    /// The name of a `$anchor`.
    Anchor(String),
}

impl Reference {
    /// Splits and decodes a `$ref`, by RFC 3986 and RFC 6901.
    ///
    /// # Errors
    ///
    /// Returns what is malformed.
    pub(super) fn read(text: &str) -> Result<Self, &'static str> {
        let (target, fragment) = text.split_once('#').unwrap_or((text, ""));
        Ok(Self {
            target: read_target(target)?,
            fragment: read_fragment(&percent_decode(fragment)?)?,
        })
    }
}

/// The pointer of these tokens, as a `$ref` to a value of the same file.
pub(super) fn to_pointer(tokens: &[String]) -> String {
    let mut pointer = "#".to_owned();
    for token in tokens {
        pointer.push('/');
        for byte in token.replace('~', "~0").replace('/', "~1").bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => pointer.push(byte.into()),
                _ if b"-._~!$&'()*+,;=:@?".contains(&byte) => pointer.push(byte.into()),
                _ => pointer += &format!("%{byte:02X}"),
            }
        }
    }
    pointer
}

fn read_target(text: &str) -> Result<Target, &'static str> {
    if text.is_empty() {
        return Ok(Target::Same);
    }
    if has_scheme(text) || text.starts_with("//") {
        return Ok(Target::Uri(text.to_owned()));
    }
    let path = text.split('?').next().unwrap_or(text);
    Ok(Target::File(percent_decode(path)?))
}

fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else {
        return false;
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(allowed)
}

fn read_fragment(fragment: &str) -> Result<Fragment, &'static str> {
    if fragment.is_empty() {
        return Ok(Fragment::Pointer(Vec::new()));
    }
    let Some(pointer) = fragment.strip_prefix('/') else {
        return Ok(Fragment::Anchor(fragment.to_owned()));
    };
    let tokens: Result<_, _> = pointer.split('/').map(unescape).collect();
    Ok(Fragment::Pointer(tokens?))
}

/// `~1` is a slash and `~0` a tilde.
fn unescape(token: &str) -> Result<String, &'static str> {
    let mut parts = token.split('~');
    let mut unescaped = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = match (part.strip_prefix('0'), part.strip_prefix('1')) {
            (Some(rest), _) => ('~', rest),
            (_, Some(rest)) => ('/', rest),
            _ => return Err("`~` is not followed by 0 or 1"),
        };
        unescaped.push(escaped);
        unescaped.push_str(rest);
    }
    Ok(unescaped)
}

fn percent_decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (high, low) = (bytes.next().and_then(hex), bytes.next().and_then(hex));
        let (Some(high), Some(low)) = (high, low) else {
            return Err("`%` is not followed by two hexadecimal digits");
        };
        decoded.push(high * 16 + low);
    }
    String::from_utf8(decoded).map_err(|_| "the escapes are not UTF-8")
}

fn hex(byte: u8) -> Option<u8> {
    let digit = char::from(byte).to_digit(16)?;
    u8::try_from(digit).ok()
}

#[cfg(test)]
mod tests {
    use super::{Fragment, Reference, Target, to_pointer};

    #[track_caller]
    fn assert_pointer(text: &str, tokens: &[&str]) {
        let fragment = Reference::read(text).unwrap().fragment;
        let tokens = tokens.iter().map(|&token| token.to_owned()).collect();
        assert_eq!(fragment, Fragment::Pointer(tokens), "{text}");
    }

    #[test]
    fn pointers_are_decoded_by_percent_and_tilde() {
        assert_pointer("#/paths/~1a~1%7Bid%7D/get", &["paths", "/a/{id}", "get"]);
        assert_pointer("#/a~01/%7e1", &["a~1", "/"]);
        assert_pointer("#/a//b", &["a", "", "b"]);
        assert_pointer("#/%C3%A9", &["é"]);
        assert_pointer("#", &[]);
        assert_pointer("#/", &[""]);
    }

    #[test]
    fn written_pointer_is_read_again() {
        let tokens = ["paths", "/a/{id}", "~ é%", ""].map(str::to_owned);
        let pointer = to_pointer(&tokens);
        assert_eq!(pointer, "#/paths/~1a~1%7Bid%7D/~0%20%C3%A9%25/");
        let read = Reference::read(&pointer).unwrap().fragment;
        assert_eq!(read, Fragment::Pointer(tokens.to_vec()));
        assert_eq!(to_pointer(&[]), "#");
    }

    #[test]
    fn targets_are_files_or_uris() {
        let target = |text| Reference::read(text).unwrap().target;
        assert_eq!(target("#/a"), Target::Same);
        assert_eq!(
            target("a%20b.yaml?v=1#/a"),
            Target::File("a b.yaml".to_owned())
        );
        assert_eq!(
            target("../a:b.yaml"),
            Target::File("../a:b.yaml".to_owned())
        );
        for uri in [
            "https://x/a.yaml",
            "file:///etc/passwd",
            "//x/a",
            "urn:a",
            "C:a",
        ] {
            assert_eq!(target(uri), Target::Uri(uri.to_owned()));
        }
    }

    #[test]
    fn malformed_escapes_are_errors() {
        for text in ["#/%", "#/%4", "#/%zz", "#/~", "#/~2", "#/%ff", "%ff#/a"] {
            Reference::read(text).unwrap_err();
        }
    }
}
