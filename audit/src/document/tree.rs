//! The untyped tree of a document, with the place of every value.

/// The trees of all files of a document, in one list. An alias of YAML shares the node of its
/// anchor, so the trees are graphs without circles.
#[derive(Debug, Default)]
pub(super) struct Forest {
    nodes: Vec<Node>,
}

/// The number of a node in its [`Forest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

/// The number of a file, in the order in which they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId(pub(super) u32);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) span: Span,
    pub(super) file: FileId,
    /// The levels below it, and itself.
    pub(super) height: u32,
    /// The nodes below it, and itself, with every alias counted as a copy.
    pub(super) weight: u64,
}

#[derive(Debug)]
pub(super) enum Value {
    Map(Vec<Entry>),
    Sequence(Vec<NodeId>),
    Scalar(Scalar),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Box<str>,
    pub(super) key_span: Span,
    pub(super) value: NodeId,
}

#[derive(Debug, Clone)]
pub(super) struct Scalar {
    pub(super) text: Box<str>,
    pub(super) style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Without quotes: it may be a number, a boolean or null.
    Plain,
    /// Always a string.
    Quoted,
}

/// Lines and columns, both counted from 1. The end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) end_line: u32,
    pub(super) end_column: u32,
}

impl Forest {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a node. `None` if its number does not fit.
    pub(super) fn add(&mut self, node: Node) -> Option<NodeId> {
        let id = NodeId(u32::try_from(self.nodes.len()).ok()?);
        self.nodes.push(node);
        Some(id)
    }

    pub(super) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(usize::try_from(id.0).ok()?)
    }

    /// The entries of a map. Any other node has none.
    pub(super) fn entries(&self, id: NodeId) -> &[Entry] {
        match self.node(id).map(|node| &node.value) {
            Some(Value::Map(entries)) => entries,
            _ => &[],
        }
    }

    /// The items of a sequence. Any other node has none.
    pub(super) fn items(&self, id: NodeId) -> &[NodeId] {
        match self.node(id).map(|node| &node.value) {
            Some(Value::Sequence(items)) => items,
            _ => &[],
        }
    }

    pub(super) fn entry(&self, id: NodeId, key: &str) -> Option<&Entry> {
        self.entries(id).iter().find(|entry| *entry.key == *key)
    }

    pub(super) fn get(&self, id: NodeId, key: &str) -> Option<NodeId> {
        self.entry(id, key).map(|entry| entry.value)
    }

    /// The text of a scalar.
    pub(super) fn text(&self, id: NodeId) -> Option<&str> {
        match &self.node(id)?.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// The text of a scalar in a map.
    pub(super) fn text_of(&self, id: NodeId, key: &str) -> Option<&str> {
        self.text(self.get(id, key)?)
    }

    pub(super) fn is_map(&self, id: NodeId) -> bool {
        let node = self.node(id);
        node.is_some_and(|node| matches!(node.value, Value::Map(_)))
    }
}

impl Scalar {
    /// The value in JSON, by the core schema of YAML 1.2.
    pub(super) fn to_json(&self) -> serde_json::Value {
        let text = &*self.text;
        if self.style == Style::Quoted {
            return text.into();
        }
        match text {
            "" | "~" | "null" | "Null" | "NULL" => serde_json::Value::Null,
            "true" | "True" | "TRUE" => true.into(),
            "false" | "False" | "FALSE" => false.into(),
            _ => number(text).unwrap_or_else(|| text.into()),
        }
    }
}

/// A number of the core schema. One that JSON cannot hold is not a number.
fn number(text: &str) -> Option<serde_json::Value> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).ok().map(Into::into);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok().map(Into::into);
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let text = text.strip_prefix('+').unwrap_or(text);
        let signed = text.parse::<i64>().map(Into::into);
        return signed.or_else(|_| text.parse::<u64>().map(Into::into)).ok();
    }
    let float = text.parse::<f64>().ok()?;
    serde_json::Number::from_f64(float).map(Into::into)
}
