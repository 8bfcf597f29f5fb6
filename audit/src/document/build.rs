//! From events to tree, within limits.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, ScalarStyle};

use super::{
    limits::Limits,
    tree::{Entry, FileId, Forest, Node, NodeId, Scalar, Span, Style, Value},
};

/// Makes a tree of the events of the parser.
pub(super) struct Builder<'b> {
    forest: &'b mut Forest,
    file: FileId,
    limits: &'b Limits,
    open: Vec<Open>,
    anchors: HashMap<usize, NodeId>,
    aliases: usize,
    pub(super) root: Option<NodeId>,
    pub(super) flaws: Vec<(Span, String)>,
}

impl<'b> Builder<'b> {
    pub(super) fn new(forest: &'b mut Forest, file: FileId, limits: &'b Limits) -> Self {
        Self {
            forest,
            file,
            limits,
            open: Vec::new(),
            anchors: HashMap::new(),
            aliases: 0,
            root: None,
            flaws: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, event: Event<'_>, span: Span) -> Result<Progress, ParseError> {
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                let flaw = "only the first document of the file is read".to_owned();
                self.flaws.push((span, flaw));
                return Ok(Progress::Ended);
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
        Ok(Progress::GoesOn)
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

/// Whether the document goes on.
#[derive(PartialEq, Eq)]
pub(super) enum Progress {
    GoesOn,
    Ended,
}

/// Why a text has no tree, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParseError {
    pub(super) span: Span,
    pub(super) message: String,
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

fn error(span: Span, message: String) -> ParseError {
    ParseError { span, message }
}
