//! A document with its references replaced by what they lead to.

use std::{error, fmt};

use serde_json::{Map, Value as Json};

use super::{
    context::Context,
    read::Document,
    tree::{NodeId, Value},
};

/// A document that would be too large if all of its references were replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge {
    limit: usize,
}

impl Document {
    /// Returns the document with every reference replaced by its target, as JSON.
    ///
    /// A reference stays where its target contains it, since a circle has no end, and where it
    /// leads nowhere. Entries beside the `$ref` of a path item are merged. In a schema of 3.1 or
    /// later, they stay beside an `allOf` with the target.
    ///
    /// # Errors
    ///
    /// Returns an error if the result would have more than `limit` values.
    pub fn resolved(&self, limit: usize) -> Result<Json, TooLarge> {
        let mut writer = Writer {
            document: self,
            open: Vec::new(),
            level: 0,
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
            "the resolved document has more than {} values",
            self.limit
        )
    }
}

impl error::Error for TooLarge {}

struct Writer<'w> {
    document: &'w Document,
    /// The targets that are being written.
    open: Vec<NodeId>,
    level: usize,
    left: usize,
}

impl Writer<'_> {
    /// `None` if the limit is reached.
    fn write(&mut self, node: NodeId, context: Context) -> Option<Json> {
        self.left = self.left.checked_sub(1)?;
        let target = self.document.references.target(node);
        if let Some(target) = target.filter(|_| context.has_references()) {
            let is_circle = self.open.contains(&target) || self.level > LEVELS;
            if !is_circle && self.document.references.resolve(node).is_some() {
                return self.write_target(node, target, context);
            }
        }
        self.write_value(node, context, |_| true)
    }

    fn write_target(&mut self, node: NodeId, target: NodeId, context: Context) -> Option<Json> {
        self.open.push(target);
        let written = self.write(target, context)?;
        self.open.pop();
        if !context.has_siblings(self.document.version) {
            return Some(written);
        }
        let siblings = self.write_value(node, context, |key| key != "$ref")?;
        let Json::Object(mut siblings) = siblings else {
            return Some(written);
        };
        if siblings.is_empty() {
            return Some(written);
        }
        match (context, written) {
            (Context::PathItem, Json::Object(mut merged)) => {
                merged.extend(siblings);
                Some(Json::Object(merged))
            }
            (_, written) => {
                let all_of = siblings
                    .entry("allOf")
                    .or_insert_with(|| Json::Array(Vec::new()));
                if let Json::Array(schemas) = all_of {
                    schemas.insert(0, written);
                }
                Some(Json::Object(siblings))
            }
        }
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
        self.level += 1;
        let written = match &node.value {
            Value::Scalar(scalar) => scalar.to_json(),
            Value::Sequence(items) => {
                let items = items.iter().map(|&item| self.write(item, context.item()));
                Json::Array(items.collect::<Option<_>>()?)
            }
            Value::Map(entries) => {
                let mut map = Map::new();
                for entry in entries.iter().filter(|entry| keeps(&entry.key)) {
                    let value = self.write(entry.value, context.entry(&entry.key))?;
                    map.insert(entry.key.to_string(), value);
                }
                Json::Object(map)
            }
        };
        self.level -= 1;
        Some(written)
    }
}

/// The deepest level at which a reference is replaced.
const LEVELS: usize = 400;
