//! Resolution of `$ref`: every reference of the document is followed once, and noted.

use std::collections::{HashMap, HashSet};

use super::{
    context::Context,
    files::Files,
    reference::{Fragment, Reference, Target},
    tree::{FileId, Forest, NodeId, Value},
    version::Version,
};

/// Where the references of a document lead.
#[derive(Debug, Default)]
pub(super) struct References {
    /// The target of each map with a `$ref` that was met. It may have a `$ref` itself.
    targets: HashMap<NodeId, Result<NodeId, String>>,
    /// The references that lead nowhere, in the order in which they were met.
    broken: Vec<NodeId>,
    /// Nodes by `$id` or `$self`, and by file and `$anchor`.
    ids: HashMap<String, NodeId>,
    anchors: HashMap<(FileId, String), NodeId>,
}

/// Follows every reference that can be reached from the root of a document. Files are read on the
/// way.
pub(super) fn resolve_all(
    root: NodeId,
    version: Version,
    files: &mut Files,
    forest: &mut Forest,
) -> References {
    let mut resolver = Resolver {
        files,
        forest,
        references: References::default(),
        indexed: HashSet::new(),
        noted: HashSet::new(),
        depth: 0,
    };
    resolver.walk(root, version);
    resolver.references
}

impl References {
    /// The node itself, or the end of its chain of references. `None` if it leads nowhere.
    pub(super) fn resolve(&self, node: NodeId) -> Option<NodeId> {
        let mut at = node;
        for _ in 0..=CHAIN {
            match self.targets.get(&at) {
                Some(target) => at = *target.as_ref().ok()?,
                None => return Some(at),
            }
        }
        None
    }

    /// The direct target of a reference. `None` if the node is not a reference that leads anywhere.
    pub(super) fn target(&self, node: NodeId) -> Option<NodeId> {
        self.targets.get(&node)?.as_ref().ok().copied()
    }

    /// The references that lead nowhere, and why.
    pub(super) fn broken(&self) -> impl Iterator<Item = (NodeId, &str)> {
        let circle = "it leads to references only, in a circle or too many";
        self.broken.iter().map(move |&node| {
            let target = self.targets.get(&node);
            let reason = target.and_then(|target| target.as_ref().err());
            (node, reason.map_or(circle, String::as_str))
        })
    }
}

/// The longest chain of references.
const CHAIN: usize = 64;

struct Resolver<'r> {
    files: &'r mut Files,
    forest: &'r mut Forest,
    references: References,
    /// The files whose `$id` and `$anchor` are known.
    indexed: HashSet<FileId>,
    /// The references that are among the broken ones.
    noted: HashSet<NodeId>,
    /// How many references are being followed, each on the way of the one before.
    depth: usize,
}

impl Resolver<'_> {
    /// Visits every value below the root, and below the targets of references in their place.
    fn walk(&mut self, root: NodeId, version: Version) {
        let mut seen = HashSet::new();
        let mut waiting = vec![(root, Context::Object)];
        while let Some((node, context)) = waiting.pop() {
            if !context.has_references()
                || !self.is_collection(node)
                || !seen.insert((node, context))
            {
                continue;
            }
            if self.reference(node).is_some() {
                self.follow(node);
                match self.references.resolve(node) {
                    Some(_) => {
                        let target = self.references.target(node);
                        waiting.extend(target.map(|target| (target, context)));
                    }
                    None => self.note_broken(node),
                }
                if !context.has_siblings(version) {
                    continue;
                }
            }
            self.push_children(node, context, &mut waiting);
        }
    }

    fn push_children(&self, node: NodeId, context: Context, waiting: &mut Vec<(NodeId, Context)>) {
        // The first one is visited first.
        let entries = self.forest.entries(node).iter().rev();
        waiting.extend(entries.map(|entry| (entry.value, context.entry(&entry.key))));
        let items = self.forest.items(node).iter().rev();
        waiting.extend(items.map(|&item| (item, context.item())));
    }

    fn is_collection(&self, node: NodeId) -> bool {
        let node = self.forest.node(node);
        node.is_some_and(|node| !matches!(node.value, Value::Scalar(_)))
    }

    /// The text of the `$ref` of a map.
    fn reference(&self, node: NodeId) -> Option<&str> {
        self.forest.text_of(node, "$ref")
    }

    fn note_broken(&mut self, node: NodeId) {
        if self.noted.insert(node) {
            self.references.broken.push(node);
        }
    }

    /// Notes the whole chain of targets from a reference on.
    fn follow(&mut self, node: NodeId) {
        let mut at = node;
        while !self.references.targets.contains_key(&at) {
            let Some(text) = self.reference(at).map(str::to_owned) else {
                return;
            };
            // While it is being followed, a way through it leads nowhere.
            let through_itself = Err("its way leads through itself".to_owned());
            self.references.targets.insert(at, through_itself);
            self.depth += 1;
            let target = match self.depth > CHAIN {
                true => Err("its way leads through too many references".to_owned()),
                false => self.find(at, &text),
            };
            self.depth -= 1;
            self.references.targets.insert(at, target.clone());
            match target {
                Ok(target) => at = target,
                Err(_) => return,
            }
        }
    }

    fn find(&mut self, node: NodeId, text: &str) -> Result<NodeId, String> {
        let Some(file) = self.forest.node(node).map(|node| node.file) else {
            return Err("there is no such value".to_owned());
        };
        self.index(file);
        if let Some(&known) = self.references.ids.get(text) {
            return Ok(known);
        }
        let reference = Reference::read(text)?;
        let root = match reference.target {
            Target::Same => self.root_of(file)?,
            Target::File(path) => {
                let file = self.files.load(&path, Some(file), self.forest)?;
                self.index(file);
                self.root_of(file)?
            }
            Target::Uri(uri) => match self.references.ids.get(&uri) {
                Some(&known) => known,
                None => return Err("it is on the network, which is not read".to_owned()),
            },
        };
        match reference.fragment {
            Fragment::Pointer(tokens) => self.point(root, &tokens),
            Fragment::Anchor(name) => {
                let file = self.forest.node(root).map_or(file, |root| root.file);
                let known = self.references.anchors.get(&(file, name.clone()));
                known
                    .copied()
                    .ok_or_else(|| format!("there is no `$anchor: {name}`"))
            }
        }
    }

    fn root_of(&self, file: FileId) -> Result<NodeId, String> {
        let loaded = self.files.get(file);
        let root = loaded.and_then(|loaded| loaded.root);
        root.ok_or_else(|| "its file cannot be read".to_owned())
    }

    /// Follows a JSON pointer. Where a value is a reference, it goes on in its target.
    fn point(&mut self, root: NodeId, tokens: &[String]) -> Result<NodeId, String> {
        let mut at = root;
        for token in tokens {
            let mut next = self.step(at, token);
            if next.is_none() && self.reference(at).is_some() {
                self.follow(at);
                let resolved = self.references.resolve(at);
                next = resolved.and_then(|resolved| self.step(resolved, token));
            }
            at = next.ok_or_else(|| format!("there is no `{token}`"))?;
        }
        Ok(at)
    }

    fn step(&self, node: NodeId, token: &str) -> Option<NodeId> {
        if self.forest.is_map(node) {
            return self.forest.get(node, token);
        }
        let is_index = token == "0" || !token.starts_with(['0', '+']);
        let index = token.parse::<usize>().ok().filter(|_| is_index)?;
        self.forest.items(node).get(index).copied()
    }

    /// Notes the `$id`, `$self` and `$anchor` of a file.
    fn index(&mut self, file: FileId) {
        let root = self.files.get(file).and_then(|loaded| loaded.root);
        let (Some(root), true) = (root, self.indexed.insert(file)) else {
            return;
        };
        let mut waiting = vec![root];
        let mut seen = HashSet::new();
        while let Some(node) = waiting.pop() {
            if !self.is_collection(node) || !seen.insert(node) {
                continue;
            }
            for key in ["$id", "$self"] {
                if let Some(id) = self.forest.text_of(node, key) {
                    let id = id.trim_end_matches('#').to_owned();
                    self.references.ids.entry(id).or_insert(node);
                }
            }
            if let Some(name) = self.forest.text_of(node, "$anchor") {
                let key = (file, name.to_owned());
                self.references.anchors.entry(key).or_insert(node);
            }
            let entries = self.forest.entries(node).iter();
            waiting.extend(entries.map(|entry| entry.value));
            waiting.extend(self.forest.items(node));
        }
    }
}
