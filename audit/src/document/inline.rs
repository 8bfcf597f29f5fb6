//! A document with its references replaced by what they lead to.

use std::{error, fmt};

use serde_json::{Map, Value as Json};

use super::{
    context::Context,
    read::Document,
    reference,
    tree::{Entry, NodeId, Value},
};

/// A document that would be too large if all of its references were replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    limit: usize,
}

impl Document {
    /// Returns the document with every reference replaced by its target, as JSON.
    ///
    /// A circle has no end: where a target contains a reference to itself, the reference stays, and
    /// leads to the place of that target in the result. A reference that leads nowhere stays as it
    /// is. Entries beside the `$ref` of a path item are merged. In a schema of 3.1 or later, they
    /// stay beside an `allOf` with the target.
    ///
    /// # Errors
    ///
    /// Returns an error if the result would have more than `limit` values, or 400 levels.
    pub fn resolved(&self, limit: usize) -> Result<Json, TooLarge> {
        let mut writer = Writer {
            document: self,
            open: Vec::new(),
            at: Vec::new(),
            left: limit,
        };
        let written = writer.write(self.root, Context::Object);
        written.ok_or(TooLarge { limit })
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the resolved document has more than {} values, or {LEVELS} levels",
            self.limit
        )
    }
}

impl error::Error for TooLarge {}

struct Writer<'w> {
    document: &'w Document,
    /// The targets that are being written, each with its JSON pointer in the result.
    open: Vec<(NodeId, String)>,
    /// The tokens of the pointer to the value that is being written.
    at: Vec<String>,
    left: usize,
}

impl Writer<'_> {
    /// `None` if the limit is reached.
    fn write(&mut self, node: NodeId, context: Context) -> Option<Json> {
        self.left = self.left.checked_sub(1)?;
        let references = &self.document.references;
        let leads_somewhere = context.has_references() && references.resolve(node).is_some();
        match references.target(node).filter(|_| leads_somewhere) {
            Some(target) => self.write_target(node, target, context),
            None => self.write_value(node, context, |_| true),
        }
    }

    fn write_target(&mut self, node: NodeId, target: NodeId, context: Context) -> Option<Json> {
        let forest = &self.document.forest;
        let has_siblings =
            context.has_siblings(self.document.version) && forest.entries(node).len() > 1;
        if !has_siblings {
            return self.write_open(target, context);
        }
        if context == Context::PathItem {
            let written = self.write_open(target, context)?;
            let siblings = self.write_siblings(node, context)?;
            return Some(merge(written, siblings));
        }
        let schemas = forest.get(node, "allOf").map(|all_of| forest.items(all_of));
        let index = schemas.map_or(0, <[NodeId]>::len).to_string();
        self.at.extend(["allOf".to_owned(), index]);
        let written = self.write_open(target, context)?;
        self.at.truncate(self.at.len().saturating_sub(2));
        let siblings = self.write_siblings(node, context)?;
        Some(all_of(siblings, written))
    }

    fn write_siblings(&mut self, node: NodeId, context: Context) -> Option<Json> {
        self.write_value(node, context, |key| key != "$ref")
    }

    /// Writes a target, or where it is if it is being written already.
    fn write_open(&mut self, target: NodeId, context: Context) -> Option<Json> {
        let known = self.open.iter().find(|(open, _)| *open == target);
        if let Some((_, pointer)) = known {
            return Some(serde_json::json!({ "$ref": pointer }));
        }
        self.open.push((target, reference::to_pointer(&self.at)));
        let written = self.write(target, context)?;
        self.open.pop();
        Some(written)
    }

    fn write_value(
        &mut self,
        node: NodeId,
        context: Context,
        keeps: impl Fn(&str) -> bool,
    ) -> Option<Json> {
        let Some(node) = self.document.forest.node(node) else {
            return Some(Json::Null);
        };
        Some(match &node.value {
            Value::Scalar(scalar) => scalar.to_json(),
            Value::Sequence(items) => {
                let items = items.iter().enumerate();
                let items =
                    items.map(|(at, &item)| self.write_below(at.to_string(), item, context.item()));
                Json::Array(items.collect::<Option<_>>()?)
            }
            Value::Map(entries) => {
                let mut map = Map::new();
                for Entry { key, value, .. } in entries.iter().filter(|entry| keeps(&entry.key)) {
                    let written = self.write_below(key.to_string(), *value, context.entry(key))?;
                    map.insert(key.to_string(), written);
                }
                Json::Object(map)
            }
        })
    }

    fn write_below(&mut self, token: String, node: NodeId, context: Context) -> Option<Json> {
        if self.at.len() >= LEVELS {
            return None;
        }
        self.at.push(token);
        let written = self.write(node, context)?;
        self.at.pop();
        Some(written)
    }
}

/// A path item with the entries beside its reference, which take precedence.
fn merge(target: Json, siblings: Json) -> Json {
    match (target, siblings) {
        (Json::Object(mut merged), Json::Object(siblings)) => {
            merged.extend(siblings);
            Json::Object(merged)
        }
        (_, siblings) => siblings,
    }
}

/// A schema with the target of its reference as the last one of its `allOf`.
fn all_of(mut siblings: Json, target: Json) -> Json {
    if let Json::Object(siblings) = &mut siblings {
        let all_of = siblings
            .entry("allOf")
            .or_insert_with(|| Json::Array(Vec::new()));
        if let Json::Array(schemas) = all_of {
            schemas.push(target);
        }
    }
    siblings
}

/// How deep the result may be. A chain of schemas, each in the one before, can be as long as the
/// document.
const LEVELS: usize = 400;
