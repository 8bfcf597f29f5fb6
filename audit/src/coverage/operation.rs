//! Operations, and where they are declared.

use std::{cmp::Ordering, fmt, io};

use serde_json::Value;

use crate::trace::Exchange;

/// A method and the template of a path, such as `PUT /documents/{document}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Operation {
    /// The method, in capitals.
    pub method: String,
    /// The template of the path.
    pub path: String,
}

impl Operation {
    pub(super) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_ascii_uppercase(),
            path: path.to_owned(),
        }
    }

    /// Whether a template is this one, whatever its parameters are called.
    pub(super) fn has_shape(&self, template: &str) -> bool {
        let shapes = self.path.split('/').zip(template.split('/'));
        self.path.split('/').count() == template.split('/').count()
            && shapes
                .map(|(a, b)| (shape(a), shape(b)))
                .all(|(a, b)| a == b)
    }
}

/// Where an operation is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Declared,
    Observed,
}

/// By path, then by method.
impl Ord for Operation {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.path, &self.method).cmp(&(&other.path, &other.method))
    }
}

impl PartialOrd for Operation {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.method, self.path))
    }
}

/// The operations of an OpenAPI document.
pub(super) fn of_document(document: &Value) -> io::Result<Vec<Operation>> {
    let error = |message| io::Error::new(io::ErrorKind::InvalidData, message);
    let paths = document.get("paths").and_then(Value::as_object);
    let paths = paths.ok_or_else(|| error("the document has no paths"))?;
    let mut operations = Vec::new();
    for (path, item) in paths {
        let methods = item.as_object().into_iter().flat_map(|item| item.keys());
        let methods = methods.filter(|method| METHODS.contains(&method.as_str()));
        operations.extend(methods.map(|method| Operation::new(method, path)));
    }
    if operations.is_empty() {
        return Err(error("the document has no operation"));
    }
    Ok(operations)
}

/// The operation of a request that a route took.
pub(super) fn of_exchange(exchange: &Exchange) -> Option<Operation> {
    let not_allowed = exchange.status == Some(405);
    let route = exchange.route.as_ref().filter(|_| !not_allowed)?;
    Some(Operation::new(&exchange.method, route))
}

/// A segment of a template, without the name of its parameter.
fn shape(segment: &str) -> &str {
    match segment.strip_prefix('{') {
        Some(name) if name.starts_with('*') => "{*}",
        Some(_) => "{}",
        None => segment,
    }
}

/// The methods in a path item of OpenAPI.
const METHODS: [&str; 8] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Operation, of_document};

    #[test]
    fn document_without_operation_is_rejected() {
        assert!(of_document(&json!({ "paths": {} })).is_err());
        assert!(of_document(&json!({ "openapi": "3.1.0" })).is_err());
        let found = of_document(&json!({ "paths": { "/a": { "get": {}, "parameters": [] } } }));
        assert_eq!(found.unwrap(), [Operation::new("GET", "/a")]);
    }

    #[test]
    fn names_of_parameters_do_not_matter() {
        let operation = Operation::new("get", "/a/{id}/b");
        assert!(operation.has_shape("/a/{document}/b"));
        assert!(!operation.has_shape("/a/{document}"));
        assert!(!operation.has_shape("/a/x/b"));
    }
}
