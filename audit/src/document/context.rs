//! Where in a document a value stands: whether a `$ref` there is one.

use super::version::Version;

/// The role of a value. It tells what the roles of its entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Context {
    /// An object of OpenAPI whose keys are fixed.
    Object,
    /// Path items by path or expression.
    Paths,
    /// Callbacks by name.
    Callbacks,
    PathItem,
    Schema,
    /// Schemas by name.
    Schemas,
    /// Objects by name.
    Names,
    /// Examples by name.
    Examples,
    /// An example, of which only the reference itself counts.
    Example,
    /// Data of the user, in which `$ref` means nothing.
    Data,
}

impl Context {
    /// The role of the entry `key`.
    pub(super) fn entry(self, key: &str) -> Self {
        match self {
            Self::Data | Self::Example => Self::Data,
            Self::Paths if key.starts_with("x-") => Self::Data,
            Self::Paths => Self::PathItem,
            Self::Callbacks => Self::Paths,
            Self::Schemas => Self::Schema,
            Self::Names => Self::Object,
            Self::Examples => Self::Example,
            Self::Schema => schema_entry(key),
            Self::Object | Self::PathItem => object_entry(key),
        }
    }

    /// The role of an item of a sequence.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Schema => Self::Schema,
            Self::Object | Self::Names => Self::Object,
            _ => Self::Data,
        }
    }

    /// Whether a `$ref` here is a reference.
    pub(super) fn has_references(self) -> bool {
        self != Self::Data
    }

    /// Whether the entries beside a `$ref` count here.
    pub(super) fn has_siblings(self, version: Version) -> bool {
        match self {
            Self::PathItem => true,
            Self::Schema => version >= Version::V3_1,
            _ => false,
        }
    }
}

fn schema_entry(key: &str) -> Context {
    match key {
        "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => {
            Context::Schemas
        }
        "items"
        | "prefixItems"
        | "additionalItems"
        | "unevaluatedItems"
        | "contains"
        | "not"
        | "allOf"
        | "anyOf"
        | "oneOf"
        | "if"
        | "then"
        | "else"
        | "propertyNames"
        | "additionalProperties"
        | "unevaluatedProperties"
        | "contentSchema" => Context::Schema,
        _ => Context::Data,
    }
}

fn object_entry(key: &str) -> Context {
    match key {
        "paths" | "webhooks" | "pathItems" => Context::Paths,
        "callbacks" => Context::Callbacks,
        "schema" | "items" | "itemSchema" => Context::Schema,
        "schemas" | "definitions" => Context::Schemas,
        "responses"
        | "parameters"
        | "headers"
        | "requestBodies"
        | "securitySchemes"
        | "securityDefinitions"
        | "links"
        | "content"
        | "encoding"
        | "mediaTypes"
        | "additionalOperations" => Context::Names,
        "examples" => Context::Examples,
        "example" | "default" | "enum" => Context::Data,
        _ if key.starts_with("x-") => Context::Data,
        _ => Context::Object,
    }
}

#[cfg(test)]
mod tests {
    use super::Context;

    #[track_caller]
    fn assert_leads(start: Context, keys: &[&str], end: Context) {
        let context = keys.iter().fold(start, |context, key| context.entry(key));
        assert_eq!(context, end, "{keys:?}");
    }

    #[test]
    fn names_are_no_keywords() {
        use Context::{Data, Object, PathItem, Schema};
        assert_leads(Object, &["components", "schemas", "example"], Schema);
        assert_leads(Object, &["components", "schemas", "A", "example"], Data);
        assert_leads(Schema, &["properties", "default"], Schema);
        assert_leads(
            Schema,
            &["properties", "properties", "properties", "x"],
            Schema,
        );
        assert_leads(Object, &["responses", "default"], Object);
        assert_leads(Object, &["paths", "/x-ray"], PathItem);
        assert_leads(Object, &["paths", "x-note"], Data);
        assert_leads(Object, &["callbacks", "done", "{$url}"], PathItem);
        assert_leads(
            Object,
            &["paths", "/a", "get", "callbacks", "a", "b", "post"],
            Object,
        );
    }
}
