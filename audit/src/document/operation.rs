//! Operations, the same for all versions of OpenAPI.

use std::collections::HashSet;

use super::{context::Context, place::Place, reader::Reader, tree::NodeId, version::Version};

/// An operation of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Operation {
    /// The method, in capitals.
    pub method: String,
    /// The template of the path, as in the document.
    pub path: String,
    /// The key of the operation: the method.
    pub place: Place,
    /// The parameters, those of the path included.
    pub parameters: Vec<Parameter>,
    /// What it requires of the caller.
    pub security: Security,
    /// The responses.
    pub responses: Vec<Response>,
    /// The reason of `x-interlock-public`.
    pub public: Option<String>,
    /// The entries of `x-interlock-suppress`.
    pub(crate) suppressions: Vec<RawSuppression>,
}

/// A parameter of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameter {
    /// The name.
    pub name: String,
    /// Where it is, such as `path` or `header`.
    pub location: String,
}

/// The security of an operation: its own, or else that of the document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Security {
    /// Neither the operation nor the document says anything.
    Undeclared,
    /// An empty list: explicitly none.
    Public,
    /// One of the requirements is empty, so a caller needs none.
    Optional,
    /// One of these sets of schemes is required.
    Required(Vec<Vec<String>>),
}

/// A response of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Response {
    /// The status, such as `404`, `4XX` or `default`.
    pub status: String,
    /// The names of its headers.
    pub headers: Vec<String>,
}

/// An entry of `x-interlock-suppress`, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawSuppression {
    pub(crate) rule: String,
    pub(crate) operation: Option<String>,
    pub(crate) fingerprint: Option<String>,
    pub(crate) reason: String,
    pub(crate) until: Option<String>,
    pub(crate) place: Place,
}

impl Operation {
    /// The name, such as `PUT /documents/{document}`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Whether it has a parameter of this kind. Names of headers ignore the case.
    #[must_use]
    pub fn has_parameter(&self, location: &str, name: &str) -> bool {
        let is_it = |parameter: &Parameter| {
            parameter.location == location && parameter.name.eq_ignore_ascii_case(name)
        };
        self.parameters.iter().any(is_it)
    }

    /// Whether it documents this status, itself or by a range. `default` documents none.
    #[must_use]
    pub fn documents(&self, status: u16) -> bool {
        let range = format!("{}XX", status / 100);
        let status = status.to_string();
        let mut responses = self.responses.iter();
        responses.any(|response| {
            response.status == status || response.status.eq_ignore_ascii_case(&range)
        })
    }

    /// Whether it has a `default` response.
    #[must_use]
    pub fn has_default(&self) -> bool {
        let mut responses = self.responses.iter();
        responses.any(|response| response.status == "default")
    }

    /// Whether a response has this header.
    #[must_use]
    pub fn responds_with(&self, header: &str) -> bool {
        let mut headers = self.responses.iter().flat_map(|response| &response.headers);
        headers.any(|name| name.eq_ignore_ascii_case(header))
    }
}

impl Security {
    /// Whether a caller has to authenticate.
    #[must_use]
    pub fn is_required(&self) -> bool {
        matches!(self, Self::Required(_))
    }
}

/// A path of a document: its template, the node of its key's entry, and its operations.
pub(super) struct PathOfDocument {
    pub(super) template: String,
    pub(super) place: Place,
    pub(super) operations: Vec<Operation>,
}

/// The paths of a document, in its order.
pub(super) fn paths(reader: &Reader<'_>) -> Vec<PathOfDocument> {
    let security = read_security(reader, reader.root);
    let mut paths = Vec::new();
    let Some(node) = reader.get(reader.root, "paths") else {
        return paths;
    };
    for entry in reader.forest.entries(node) {
        if Context::Paths.entry(&entry.key) != Context::PathItem || *entry.key == *"$ref" {
            continue;
        }
        let place = reader.place_of_key(node, &entry.key_span);
        let mut operations = Vec::new();
        for item in path_items(reader, entry.value) {
            read_operations(reader, &entry.key, item, &security, &mut operations);
        }
        inherit_parameters(reader, entry.value, &mut operations);
        paths.push(PathOfDocument {
            template: entry.key.to_string(),
            place,
            operations,
        });
    }
    paths
}

/// A path item and the ones that its `$ref` leads to: in every version, the fields of all of them
/// count. The first one that has a field wins.
fn path_items(reader: &Reader<'_>, node: NodeId) -> Vec<NodeId> {
    let mut items = vec![node];
    let mut at = node;
    while let Some(target) = reader.references.target(at) {
        if items.contains(&target) {
            break;
        }
        items.push(target);
        at = target;
    }
    items
}

fn read_operations(
    reader: &Reader<'_>,
    path: &str,
    item: NodeId,
    inherited: &Security,
    operations: &mut Vec<Operation>,
) {
    let additional = reader.get(item, "additionalOperations");
    let additional = additional.filter(|_| reader.version >= Version::V3_2);
    let fixed = reader
        .forest
        .entries(item)
        .iter()
        .map(|entry| (item, entry));
    let fixed = fixed.filter(|(_, entry)| is_method(&entry.key, reader.version));
    let more = additional.into_iter().flat_map(|node| {
        let entries = reader.forest.entries(node).iter();
        entries.map(move |entry| (node, entry))
    });
    for (parent, entry) in fixed.chain(more) {
        let method = entry.key.to_uppercase();
        let Some(node) = reader.references.resolve(entry.value) else {
            continue;
        };
        let is_known = operations.iter().any(|known| known.method == method);
        if is_known || !reader.forest.is_map(node) {
            continue;
        }
        let security = match read_security(reader, node) {
            Security::Undeclared => inherited.clone(),
            own => own,
        };
        operations.push(Operation {
            method,
            path: path.to_owned(),
            place: reader.place_of_key(parent, &entry.key_span),
            parameters: read_parameters(reader, node),
            security,
            responses: read_responses(reader, node),
            public: reader.text(node, "x-interlock-public"),
            suppressions: read_suppressions(reader, node, "x-interlock-suppress"),
        });
    }
}

fn is_method(key: &str, version: Version) -> bool {
    match key {
        "get" | "put" | "post" | "delete" | "options" | "head" | "patch" => true,
        "trace" => version > Version::V2,
        "query" => version >= Version::V3_2,
        _ => false,
    }
}

/// Adds the parameters of the path that the operation does not override.
fn inherit_parameters(reader: &Reader<'_>, path: NodeId, operations: &mut [Operation]) {
    for item in path_items(reader, path) {
        let inherited = read_parameters(reader, item);
        for operation in &mut *operations {
            for parameter in &inherited {
                let Parameter { name, location } = parameter;
                let mut own = operation.parameters.iter();
                if !own.any(|own| own.name == *name && own.location == *location) {
                    operation.parameters.push(parameter.clone());
                }
            }
        }
    }
}

fn read_parameters(reader: &Reader<'_>, node: NodeId) -> Vec<Parameter> {
    let read = |node: NodeId| {
        Some(Parameter {
            name: reader.text(node, "name")?,
            location: reader.text(node, "in")?,
        })
    };
    reader.items(node, "parameters").filter_map(read).collect()
}

/// The requirements of an operation or a document.
fn read_security(reader: &Reader<'_>, node: NodeId) -> Security {
    let Some(security) = reader.get(node, "security") else {
        return Security::Undeclared;
    };
    let mut alternatives = Vec::new();
    for &requirement in reader.forest.items(security) {
        let schemes = reader.forest.entries(requirement).iter();
        let schemes: Vec<String> = schemes.map(|entry| entry.key.to_string()).collect();
        alternatives.push(schemes);
    }
    if alternatives.is_empty() {
        Security::Public
    } else if alternatives.iter().any(Vec::is_empty) {
        Security::Optional
    } else {
        Security::Required(alternatives)
    }
}

fn read_responses(reader: &Reader<'_>, node: NodeId) -> Vec<Response> {
    let Some(responses) = reader.get(node, "responses") else {
        return Vec::new();
    };
    let entries = reader.forest.entries(responses).iter();
    let entries = entries.filter(|entry| !entry.key.starts_with("x-"));
    let read = |entry: &super::tree::Entry| {
        let response = reader.references.resolve(entry.value);
        let headers = response.and_then(|response| reader.get(response, "headers"));
        let headers = headers.map_or(&[][..], |headers| reader.forest.entries(headers));
        Response {
            status: entry.key.to_string(),
            headers: headers
                .iter()
                .map(|header| header.key.to_string())
                .collect(),
        }
    };
    entries.map(read).collect()
}

/// The list of suppressions under `key`.
pub(super) fn read_suppressions(
    reader: &Reader<'_>,
    node: NodeId,
    key: &str,
) -> Vec<RawSuppression> {
    let read = |node: NodeId| RawSuppression {
        rule: reader.text(node, "rule").unwrap_or_default(),
        operation: reader.text(node, "operation"),
        fingerprint: reader.text(node, "fingerprint"),
        reason: reader.text(node, "reason").unwrap_or_default(),
        until: reader.text(node, "until"),
        place: reader.place(node),
    };
    reader.items(node, key).map(read).collect()
}

/// The requirements that name a scheme which the document does not define, each scheme once.
pub(super) fn unknown_schemes(reader: &Reader<'_>) -> Vec<(Place, String)> {
    let key = match reader.version {
        Version::V2 => reader.get(reader.root, "securityDefinitions"),
        _ => {
            let components = reader.get(reader.root, "components");
            components.and_then(|components| reader.get(components, "securitySchemes"))
        }
    };
    let known = key.map_or(&[][..], |key| reader.forest.entries(key));
    let known: HashSet<&str> = known.iter().map(|entry| &*entry.key).collect();
    let paths = reader.get(reader.root, "paths");
    let paths = paths.map_or(&[][..], |paths| reader.forest.entries(paths));
    let items = paths
        .iter()
        .flat_map(|entry| path_items(reader, entry.value));
    let operations = items.flat_map(|item| {
        let entries = reader.forest.entries(item).iter();
        let entries = entries.filter(|entry| is_method(&entry.key, reader.version));
        entries.filter_map(|entry| reader.references.resolve(entry.value))
    });
    let mut unknown = Vec::new();
    let mut seen = HashSet::new();
    for owner in [reader.root].into_iter().chain(operations) {
        let Some(security) = reader.get(owner, "security") else {
            continue;
        };
        for &requirement in reader.forest.items(security) {
            for scheme in reader.forest.entries(requirement) {
                // Since 3.2, a scheme may be named by a URI.
                let is_uri = reader.version >= Version::V3_2 && scheme.key.contains(['/', '#']);
                if !is_uri && !known.contains(&*scheme.key) && seen.insert(&*scheme.key) {
                    let place = reader.place_of_key(requirement, &scheme.key_span);
                    unknown.push((place, scheme.key.to_string()));
                }
            }
        }
    }
    unknown
}
