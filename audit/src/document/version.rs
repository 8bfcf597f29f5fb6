//! The versions of OpenAPI.

use std::fmt;

/// A version of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Version {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3_0,
    /// OpenAPI 3.1.
    V3_1,
    /// OpenAPI 3.2, as far as it is as 3.1, with `query` and `additionalOperations`.
    V3_2,
}

impl Version {
    /// The version that the values of `swagger` and `openapi` name.
    pub(super) fn read(swagger: Option<&str>, openapi: Option<&str>) -> Option<Self> {
        let is = |text: &str, version: &str| {
            let rest = text.strip_prefix(version);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
        };
        match (swagger, openapi) {
            (Some(text), _) if is(text, "2.0") || text == "2" => Some(Self::V2),
            (_, Some(text)) if is(text, "3.0") => Some(Self::V3_0),
            (_, Some(text)) if is(text, "3.1") => Some(Self::V3_1),
            (_, Some(text)) if is(text, "3.2") => Some(Self::V3_2),
            _ => None,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V2 => "2.0",
            Self::V3_0 => "3.0",
            Self::V3_1 => "3.1",
            Self::V3_2 => "3.2",
        })
    }
}
