//! A document whose references are resolved, for reading.

use super::{
    files::Files,
    place::Place,
    resolve::References,
    tree::{FileId, Forest, NodeId, Span},
    version::Version,
};

/// A document whose references are resolved.
pub(super) struct Reader<'r> {
    pub(super) root: NodeId,
    pub(super) version: Version,
    pub(super) forest: &'r Forest,
    pub(super) references: &'r References,
    pub(super) files: &'r Files,
    pub(super) folder: &'r str,
}

impl Reader<'_> {
    /// The value of an entry, at the end of its references.
    pub(super) fn get(&self, node: NodeId, key: &str) -> Option<NodeId> {
        self.references.resolve(self.forest.get(node, key)?)
    }

    pub(super) fn text(&self, node: NodeId, key: &str) -> Option<String> {
        Some(self.forest.text(self.get(node, key)?)?.to_owned())
    }

    /// The items of an entry, each at the end of its references.
    pub(super) fn items(&self, node: NodeId, key: &str) -> impl Iterator<Item = NodeId> {
        let list = self.get(node, key);
        let items = list.map_or(&[][..], |list| self.forest.items(list));
        items
            .iter()
            .filter_map(|&item| self.references.resolve(item))
    }

    pub(super) fn place(&self, node: NodeId) -> Place {
        let node = self.forest.node(node);
        let (file, span) = node.map_or((FileId(0), Span::default()), |node| (node.file, node.span));
        self.place_in(file, &span)
    }

    /// The place of a key in the map `parent`.
    pub(super) fn place_of_key(&self, parent: NodeId, span: &Span) -> Place {
        let parent = self.forest.node(parent);
        self.place_in(parent.map_or(FileId(0), |parent| parent.file), span)
    }

    pub(super) fn place_in(&self, file: FileId, span: &Span) -> Place {
        let name = self.files.get(file).map_or("", |file| &file.name);
        Place {
            file: format!("{}{name}", self.folder),
            line: span.line.max(1),
            column: span.column.max(1),
            end_line: span.end_line.max(1),
            end_column: span.end_column.max(1),
        }
    }

    pub(super) fn start(&self) -> Place {
        match self.forest.entry(self.root, "paths") {
            Some(entry) => self.place_of_key(self.root, &entry.key_span),
            None => self.place_in(FileId(0), &Span::default()),
        }
    }
}
