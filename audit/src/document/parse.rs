//! From text to tree, within limits. JSON is read as YAML 1.2, of which it is a part.

use granit_parser::{Options, Parser};

use super::{
    build::{Builder, ParseError, Progress},
    limits::Limits,
    tree::{FileId, Forest, NodeId, Span},
};

/// The tree of a file, and what is wrong with it although it can be read.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) root: NodeId,
    pub(super) flaws: Vec<(Span, String)>,
}

/// Reads a text into the forest.
pub(super) fn parse(
    text: &str,
    file: FileId,
    limits: &Limits,
    forest: &mut Forest,
) -> Result<Parsed, ParseError> {
    let mut builder = Builder::new(forest, file, limits);
    let mut last = Span::default();
    for next in Parser::new_from_str_with_options(text, options(limits)) {
        let (event, span) = next.map_err(|error| ParseError {
            span: at(error.marker().line(), error.marker().col()),
            message: error.info(),
        })?;
        let span = span_of(&span);
        last = span;
        if builder.take(event, span)? == Progress::Ended {
            break;
        }
    }
    let root = builder.root.ok_or_else(|| ParseError {
        span: last,
        message: "the file is empty".to_owned(),
    })?;
    Ok(Parsed {
        root,
        flaws: builder.flaws,
    })
}

fn options(limits: &Limits) -> Options {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.simple_key_max_lookahead = KEY_LENGTH;
    options.flow_nesting_limit = limits.depth;
    options.block_nesting_limit = limits.depth;
    options
}

fn span_of(span: &granit_parser::Span) -> Span {
    let start = at(span.start.line(), span.start.col());
    let end = at(span.end.line(), span.end.col());
    Span {
        end_line: end.line,
        end_column: end.column,
        ..start
    }
}

/// A place of one column. The parser counts columns from 0.
fn at(line: usize, column: usize) -> Span {
    let line = u32::try_from(line.max(1)).unwrap_or(u32::MAX);
    let column = u32::try_from(column).unwrap_or(u32::MAX).saturating_add(1);
    Span {
        line,
        column,
        end_line: line,
        end_column: column,
    }
}

/// The longest key: JSON has no limit, and YAML's is 1024.
const KEY_LENGTH: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::document::{
        build::ParseError,
        limits::Limits,
        tree::{FileId, Forest, NodeId, Span},
    };

    type Read = (Forest, NodeId, Vec<(Span, String)>);

    fn read(text: &str) -> Result<Read, ParseError> {
        let mut forest = Forest::default();
        let parsed = parse(text, FileId(0), &Limits::default(), &mut forest)?;
        Ok((forest, parsed.root, parsed.flaws))
    }

    #[test]
    fn numeric_keys_are_texts_and_values_know_their_place() {
        let (forest, root, flaws) = read("responses:\n  200:\n    description: é ok\n").unwrap();
        let responses = forest.entry(root, "responses").unwrap();
        let ok = forest.entry(responses.value, "200").unwrap();
        assert_eq!((ok.key_span.line, ok.key_span.column), (2, 3));
        let text = forest.get(ok.value, "description").unwrap();
        let span = forest.node(text).unwrap().span;
        assert_eq!((span.line, span.column, span.end_column), (3, 18, 22));
        assert!(flaws.is_empty());
    }

    #[test]
    fn json_with_tabs_surrogates_and_long_keys_is_read() {
        let long = "k".repeat(3000);
        let text = format!("{{\n\t\"a\":\t\"\\ud83d\\ude00\\/\",\n\t\"{long}\": [1,\ttrue]}}");
        let (forest, root, _) = read(&text).unwrap();
        assert_eq!(forest.text_of(root, "a"), Some("😀/"));
        assert_eq!(forest.items(forest.get(root, &long).unwrap()).len(), 2);
    }

    #[test]
    fn aliases_and_merge_keys_share_their_nodes() {
        let text = "base: &base {a: 1, b: 2}\nx:\n  <<: *base\n  b: 3\ny: *base\n";
        let (forest, root, _) = read(text).unwrap();
        let x = forest.get(root, "x").unwrap();
        assert_eq!(forest.text_of(x, "a"), Some("1"));
        assert_eq!(forest.text_of(x, "b"), Some("3"));
        assert_eq!(forest.get(root, "y"), forest.get(root, "base"));
    }

    #[test]
    fn duplicate_key_is_a_flaw_and_the_last_value_counts() {
        let (forest, root, flaws) = read("a: 1\nb: 1\na: 2\n").unwrap();
        assert_eq!(forest.text_of(root, "a"), Some("2"));
        assert_eq!(forest.entries(root).len(), 2);
        let (span, message) = &flaws[0];
        assert_eq!(
            (span.line, &**message),
            (3, "the key `a` is on line 1 already")
        );
    }

    #[test]
    fn second_document_is_a_flaw() {
        let (forest, root, flaws) = read("a: 1\n---\na: 2\n").unwrap();
        assert_eq!(forest.text_of(root, "a"), Some("1"));
        assert_eq!(flaws.len(), 1);
    }

    #[test]
    fn alias_inside_of_its_anchor_is_an_error() {
        let error = read("a: &a\n  b: *a\n").unwrap_err();
        assert_eq!((error.span.line, error.span.column), (2, 6));
    }

    #[test]
    fn aliases_that_multiply_are_an_error() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            let items = vec![previous; 10].join(", ");
            text += &format!("a{level}: &a{level} [{items}]\n");
        }
        let error = read(&text).unwrap_err();
        assert!(error.message.contains("values, with aliases"), "{error:?}");
    }

    #[test]
    fn deep_nesting_is_an_error() {
        for text in [
            "[".repeat(100_000),
            "- ".repeat(100_000),
            "{a: ".repeat(100_000),
        ] {
            read(&text).unwrap_err();
        }
    }

    #[test]
    fn empty_file_is_an_error() {
        for text in ["", "\n\n", "# a comment\n", "\u{feff}"] {
            read(text).unwrap_err();
        }
    }
}
