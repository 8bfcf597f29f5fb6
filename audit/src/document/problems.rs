//! What is wrong with a document, although it can be read.

use std::collections::HashMap;

use super::{
    operation::{self, PathOfDocument},
    place::Place,
    reader::Reader,
    template::Template,
};

/// Something that is wrong with a document, although it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Its kind.
    pub kind: ProblemKind,
    /// Where it is.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

/// The kind of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// A `$ref`, or the name of a security scheme, that leads nowhere.
    Unresolved,
    /// Two paths that are the same but for the names of their parameters.
    DuplicatePath,
    /// Two paths that match the same request, neither of which is more concrete.
    AmbiguousPath,
    /// A duplicate key, a second document in the file, a path without a slash, and the like.
    Malformed,
}

pub(super) fn problems(reader: &Reader<'_>, paths: &[PathOfDocument]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |kind, place, message| {
        problems.push(Problem {
            kind,
            place,
            message,
        });
    };
    for (file, loaded) in reader.files.all() {
        for (span, message) in &loaded.flaws {
            add(
                ProblemKind::Malformed,
                reader.place_in(file, span),
                message.clone(),
            );
        }
    }
    for (node, reason) in reader.references.broken() {
        let text = reader.forest.text_of(node, "$ref").unwrap_or_default();
        let message = format!("`$ref: {text}` leads nowhere: {reason}");
        let value = reader.forest.get(node, "$ref").unwrap_or(node);
        add(ProblemKind::Unresolved, reader.place(value), message);
    }
    for (place, scheme) in operation::unknown_schemes(reader) {
        let message = format!("the security scheme `{scheme}` is not defined");
        add(ProblemKind::Unresolved, place, message);
    }
    for path in paths.iter().filter(|path| !path.template.starts_with('/')) {
        let message = format!("the path `{}` does not begin with `/`", path.template);
        add(ProblemKind::Malformed, path.place.clone(), message);
    }
    problems.extend(same_paths(paths));
    problems.extend(ambiguous_paths(paths));
    problems
}

/// Paths that are the same but for the names of their parameters.
fn same_paths(paths: &[PathOfDocument]) -> Vec<Problem> {
    let mut first: HashMap<Template, &PathOfDocument> = HashMap::new();
    let mut problems = Vec::new();
    for path in paths {
        let known = first.entry(Template::read(&path.template)).or_insert(path);
        if known.template != path.template {
            let (line, same) = (known.place.line, &known.template);
            problems.push(Problem {
                kind: ProblemKind::DuplicatePath,
                place: path.place.clone(),
                message: format!(
                    "the path `{}` is the same as `{same}` on line {line}",
                    path.template
                ),
            });
        }
    }
    problems
}

/// Paths with a method in common that match the same request.
fn ambiguous_paths(paths: &[PathOfDocument]) -> Vec<Problem> {
    let mut by_length: HashMap<usize, Vec<(Template, &PathOfDocument)>> = HashMap::new();
    let mut problems = Vec::new();
    for path in paths {
        let template = Template::read(&path.template);
        let earlier = by_length.entry(template.length()).or_default();
        let has_parameters = template.has_parameters();
        let ambiguous = earlier.iter().find(|(other, known)| {
            has_parameters && template.is_ambiguous_with(other) && share_method(path, known)
        });
        if let Some((_, known)) = ambiguous {
            let (line, other) = (known.place.line, &known.template);
            problems.push(Problem {
                kind: ProblemKind::AmbiguousPath,
                place: path.place.clone(),
                message: format!(
                    "a request can match both `{}` and `{other}` on line {line}",
                    path.template
                ),
            });
        }
        earlier.push((template, path));
    }
    problems
}

fn share_method(a: &PathOfDocument, b: &PathOfDocument) -> bool {
    let has = |method: &str| {
        b.operations
            .iter()
            .any(|operation| operation.method == method)
    };
    a.operations.iter().any(|operation| has(&operation.method))
}
