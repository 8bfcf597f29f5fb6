//! Templates of paths: which are the same, and which match the same path.

/// The template of a path, without the names of its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Template {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(String),
    /// The texts before, between and after its parameters.
    Parameter(Vec<String>),
}

impl Template {
    /// Reads a template of OpenAPI or of axum.
    pub(crate) fn read(path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        Self {
            segments: segments(path).into_iter().map(Segment::read).collect(),
        }
    }

    /// The template with `prefix` before it.
    pub(crate) fn behind(&self, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        if prefix.is_empty() {
            return self.clone();
        }
        let mut segments: Vec<Segment> = prefix.split('/').map(Segment::read).collect();
        segments.extend(self.segments.iter().cloned());
        Self { segments }
    }

    pub(crate) fn has_parameters(&self) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|segment| matches!(segment, Segment::Parameter(_)))
    }

    /// Whether a path can match both, and neither is the more concrete one.
    pub(crate) fn is_ambiguous_with(&self, other: &Self) -> bool {
        if self.segments.len() != other.segments.len() {
            return false;
        }
        let (mut self_wins, mut other_wins) = (false, false);
        for (own, others) in self.segments.iter().zip(&other.segments) {
            if !own.overlaps(others) {
                return false;
            }
            self_wins |= own.is_literal() && !others.is_literal();
            other_wins |= others.is_literal() && !own.is_literal();
        }
        self_wins && other_wins
    }

    /// What templates must have in common to match the same path: the number of segments.
    pub(crate) fn length(&self) -> usize {
        self.segments.len()
    }
}

impl Segment {
    fn read(text: &str) -> Self {
        let mut texts = vec![String::new()];
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((_, behind)) = after.split_once('}') else {
                break;
            };
            if let Some(last) = texts.last_mut() {
                last.push_str(before);
            }
            texts.push(String::new());
            rest = behind;
        }
        if let Some(last) = texts.last_mut() {
            last.push_str(rest);
        }
        match texts.len() {
            1 => Self::Literal(texts.concat()),
            _ => Self::Parameter(texts),
        }
    }

    fn is_literal(&self) -> bool {
        matches!(self, Self::Literal(_))
    }

    /// Whether a text can match both. It looks at the beginning and the end only.
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(a), Self::Literal(b)) => a == b,
            (Self::Literal(text), Self::Parameter(texts))
            | (Self::Parameter(texts), Self::Literal(text)) => matches(texts, text),
            (Self::Parameter(a), Self::Parameter(b)) => {
                let fit = |a: &str, b: &str| a.starts_with(b) || b.starts_with(a);
                let fit_at_end = |a: &str, b: &str| a.ends_with(b) || b.ends_with(a);
                let ends = |texts: &[String]| match texts {
                    [first, .., last] => (first.clone(), last.clone()),
                    _ => Default::default(),
                };
                let ((a_first, a_last), (b_first, b_last)) = (ends(a), ends(b));
                fit(&a_first, &b_first) && fit_at_end(&a_last, &b_last)
            }
        }
    }
}

/// The segments of a path. A slash inside of braces, as in `{name=a/*}`, separates nothing.
fn segments(path: &str) -> Vec<&str> {
    let mut inside = false;
    path.split(|character| {
        match character {
            '{' => inside = true,
            '}' => inside = false,
            _ => {}
        }
        character == '/' && !inside
    })
    .collect()
}

/// Whether a text has the parts in order, with at least one character for each parameter.
fn matches(parts: &[String], text: &str) -> bool {
    let [first, middle @ .., last] = parts else {
        return false;
    };
    let inner = text
        .strip_prefix(&**first)
        .and_then(|text| text.strip_suffix(&**last));
    let Some(mut rest) = inner else {
        return false;
    };
    for part in middle {
        let mut places = rest
            .char_indices()
            .skip(1)
            .map(|(at, _)| at)
            .chain([rest.len()]);
        let place = places
            .find(|&at| at > 0 && rest.get(at..).is_some_and(|rest| rest.starts_with(&**part)));
        let Some(after) = place.and_then(|at| rest.get(at + part.len()..)) else {
            return false;
        };
        rest = after;
    }
    !rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::Template;

    #[test]
    fn names_of_parameters_do_not_count() {
        assert_eq!(Template::read("/a/{x}/b"), Template::read("/a/{y}/b"));
        assert_eq!(Template::read("/a/{x}"), Template::read("/a/{*rest}"));
        assert_ne!(Template::read("/a/{x}"), Template::read("/a/{x}/"));
        assert_ne!(Template::read("/a/{x}.json"), Template::read("/a/{x}"));
        assert_eq!(
            Template::read("/v1/{name=a/*}:go"),
            Template::read("/v1/{x}:go")
        );
        assert_eq!(Template::read("/a").behind("/v1/"), Template::read("/v1/a"));
    }

    #[test]
    fn templates_are_ambiguous_if_neither_is_more_concrete() {
        let ambiguous = |a, b| Template::read(a).is_ambiguous_with(&Template::read(b));
        assert!(ambiguous("/{entity}/me", "/books/{id}"));
        assert!(ambiguous("/{a}/x/{b}", "/y/{c}/z"));
        assert!(ambiguous("/{a}.json/x", "/b.json/{c}"));
        assert!(!ambiguous("/books/mine", "/books/{id}"));
        assert!(!ambiguous("/{a}/x", "/y/z"));
        assert!(!ambiguous("/{a}", "/{b}"));
        assert!(!ambiguous("/{a}/x/c", "/y/{b}"));
        assert!(!ambiguous("/{a}.json/x", "/b.xml/{c}"));
        assert!(!ambiguous("/{a}-{b}/x", "/ab/{c}"));
    }
}
