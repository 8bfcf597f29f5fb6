//! From text to tree, within limits. JSON is read as YAML 1.2, of which it is a part.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Options, Parser, ScalarStyle};

use super::{
    limits::Limits,
    tree::{Entry, FileId, Forest, Node, NodeId, Scalar, Span, Style, Value},
};

/// The tree of a file, and what is wrong with it although it can be read.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) root: NodeId,
    pub(super) flaws: Vec<(Span, String)>,
}

/// Why a text has no tree, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParseError {
    pub(super) span: Span,
    pub(super) message: String,
}

/// Reads a text into the forest.
pub(super) fn parse(
    text: &str,
    file: FileId,
    limits: &Limits,
    forest: &mut Forest,
) -> Result<Parsed, ParseError> {
    let mut builder = Builder {
        forest,
        file,
        limits,
        open: Vec::new(),
        anchors: HashMap::new(),
        aliases: 0,
        root: None,
        flaws: Vec::new(),
        last: Span::default(),
    };
    for next in Parser::new_from_str_with_options(text, options(limits)) {
        let (event, span) = next.map_err(|error| ParseError {
            span: at(error.marker().line(), error.marker().col()),
            message: error.info(),
        })?;
        let span = span_of(&span);
        builder.last = span;
        if builder.take(event, span)? == Document::Ended {
            break;
        }
    }
    let last = builder.last;
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

/// Whether the document goes on.
#[derive(PartialEq, Eq)]
enum Document {
    GoesOn,
    Ended,
}

struct Builder<'b> {
    forest: &'b mut Forest,
    file: FileId,
    limits: &'b Limits,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    aliases: usize,
    root: Option<NodeId>,
    flaws: Vec<(Span, String)>,
    last: Span,
}

/// A collection whose end has not come yet.
struct Open {
    start: Span,
    anchor: usize,
    content: Content,
}

enum Content {
    Map {
        entries: Vec<Entry>,
        key: Option<Key>,
        merged: Vec<NodeId>,
    },
    Sequence(Vec<NodeId>),
}

enum Key {
    Text(Box<str>, Span),
    /// The key `<<` of YAML 1.1, which most readers of OpenAPI know.
    Merge,
    /// A collection as a key. JSON has none.
    Strange,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<Document, ParseError> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                let flaw = "only the first document of the file is read".to_owned();
                self.flaws.push((span, flaw));
                return Ok(Document::Ended);
            }
            Event::MappingStart(_, anchor, _) => {
                let content = Content::Map {
                    entries: Vec::new(),
                    key: None,
                    merged: Vec::new(),
                };
                self.begin(content, anchor, span)?;
            }
            Event::SequenceStart(_, anchor, _) => {
                self.begin(Content::Sequence(Vec::new()), anchor, span)?;
            }
            Event::MappingEnd | Event::SequenceEnd => self.end(span)?,
            Event::Scalar(text, style, anchor, _) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    _ => Style::Quoted,
                };
                self.scalar(&text, style, anchor, span)?;
            }
            Event::Alias(anchor) => self.alias(anchor, span)?,
            _ => {}
        }
        Ok(Document::GoesOn)
    }

    fn begin(&mut self, content: Content, anchor: usize, start: Span) -> Result<(), ParseError> {
        if self.open.len() >= self.limits.depth {
            let limit = self.limits.depth;
            return Err(error(start, format!("more than {limit} levels")));
        }
        self.open.push(Open {
            start,
            anchor,
            content,
        });
        Ok(())
    }

    fn end(&mut self, span: Span) -> Result<(), ParseError> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Map {
                entries, merged, ..
            } => Value::Map(self.entries(entries, &merged, open.start)?),
        };
        let span = Span {
            end_line: span.end_line,
            end_column: span.end_column,
            ..open.start
        };
        let id = self.add(value, open.anchor, span)?;
        self.place(id, span);
        Ok(())
    }

    fn scalar(
        &mut self,
        text: &str,
        style: Style,
        anchor: usize,
        span: Span,
    ) -> Result<(), ParseError> {
        if let Some(Open {
            content: Content::Map { key, .. },
            ..
        }) = self.open.last_mut()
            && key.is_none()
        {
            *key = Some(match (text, style) {
                ("<<", Style::Plain) => Key::Merge,
                _ => Key::Text(text.into(), span),
            });
            return Ok(());
        }
        let scalar = Scalar {
            text: text.into(),
            style,
        };
        let id = self.add(Value::Scalar(scalar), anchor, span)?;
        self.place(id, span);
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), ParseError> {
        self.aliases += 1;
        if self.aliases > self.limits.aliases {
            let limit = self.limits.aliases;
            return Err(error(span, format!("more than {limit} aliases")));
        }
        // An anchor whose collection is still open has no node: the tree has no circles.
        let Some(&id) = self.anchors.get(&anchor) else {
            let message = "the alias is inside of its own anchor".to_owned();
            return Err(error(span, message));
        };
        self.place(id, span);
        Ok(())
    }

    /// Adds a node to the forest. It has no place in its parent yet.
    fn add(&mut self, value: Value, anchor: usize, span: Span) -> Result<NodeId, ParseError> {
        let (height, weight) = self.measure(&value);
        if usize::try_from(height).unwrap_or(usize::MAX) > self.limits.depth {
            let limit = self.limits.depth;
            return Err(error(
                span,
                format!("more than {limit} levels, with aliases"),
            ));
        }
        let too_many = || {
            let limit = self.limits.nodes;
            error(span, format!("more than {limit} values, with aliases"))
        };
        let over = usize::try_from(weight).unwrap_or(usize::MAX) > self.limits.nodes
            || self.forest.len() >= self.limits.nodes;
        if over {
            return Err(too_many());
        }
        let node = Node {
            value,
            span,
            file: self.file,
            height,
            weight,
        };
        let id = self.forest.add(node);
        let id = id.ok_or_else(too_many)?;
        if anchor != 0 {
            self.anchors.insert(anchor, id);
        }
        Ok(id)
    }

    fn measure(&self, value: &Value) -> (u32, u64) {
        let of = |(height, weight): (u32, u64), id: NodeId| match self.forest.node(id) {
            Some(child) => (
                height.max(child.height),
                weight.saturating_add(child.weight),
            ),
            None => (height, weight),
        };
        let (height, weight) = match value {
            Value::Map(entries) => entries.iter().map(|entry| entry.value).fold((0, 0), of),
            Value::Sequence(items) => items.iter().copied().fold((0, 0), of),
            Value::Scalar(_) => (0, 0),
        };
        (height.saturating_add(1), weight.saturating_add(1))
    }

    /// Puts a node into the collection that is open, or makes it the root.
    fn place(&mut self, id: NodeId, span: Span) {
        let strange = "a key is not a scalar; its entry is ignored".to_owned();
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(id);
            return;
        };
        match &mut open.content {
            Content::Sequence(items) => items.push(id),
            Content::Map {
                entries,
                key,
                merged,
            } => match key.take() {
                // An alias of a scalar is the key that the scalar would be.
                None => {
                    *key = Some(match self.forest.text(id) {
                        Some(text) => Key::Text(text.into(), span),
                        None => {
                            self.flaws.push((span, strange));
                            Key::Strange
                        }
                    });
                }
                Some(Key::Strange) => {}
                Some(Key::Merge) => merged.push(id),
                Some(Key::Text(key, key_span)) => entries.push(Entry {
                    key,
                    key_span,
                    value: id,
                }),
            },
        }
    }

    /// The entries of a map, each key once. Of two values the last one counts, as in JSON.
    fn entries(
        &mut self,
        written: Vec<Entry>,
        merged: &[NodeId],
        map: Span,
    ) -> Result<Vec<Entry>, ParseError> {
        let mut entries: Vec<Entry> = Vec::with_capacity(written.len());
        let mut places: HashMap<Box<str>, usize> = HashMap::new();
        for entry in written {
            if let Some(&place) = places.get(&entry.key)
                && let Some(first) = entries.get_mut(place)
            {
                let line = first.key_span.line;
                let flaw = format!("the key `{}` is on line {line} already", entry.key);
                self.flaws.push((entry.key_span, flaw));
                *first = entry;
                continue;
            }
            places.insert(entry.key.clone(), entries.len());
            entries.push(entry);
        }
        let mut keys: HashSet<Box<str>> = places.into_keys().collect();
        for source in merged.iter().flat_map(|&id| self.merge_sources(id)) {
            for entry in self.forest.entries(source) {
                if keys.insert(entry.key.clone()) {
                    entries.push(entry.clone());
                }
            }
            if entries.len() > self.limits.nodes {
                return Err(error(map, "too many merged entries".to_owned()));
            }
        }
        Ok(entries)
    }

    /// The maps that a value of `<<` names.
    fn merge_sources(&self, id: NodeId) -> Vec<NodeId> {
        match self.forest.is_map(id) {
            true => vec![id],
            false => self.forest.items(id).to_vec(),
        }
    }
}

fn error(span: Span, message: String) -> ParseError {
    ParseError { span, message }
}

/// The longest key: JSON has no limit, and YAML's is 1024.
const KEY_LENGTH: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::{ParseError, parse};
    use crate::document::{
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
