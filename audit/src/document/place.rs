//! Places in files.

/// A place in a file. Lines and columns are counted from 1, the end is exclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Place {
    /// The path of the file, with slashes.
    pub file: String,
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
    /// The line of the end.
    pub end_line: u32,
    /// The column of the end.
    pub end_column: u32,
}

impl Place {
    /// The first character of a file.
    pub(crate) fn first_of(file: &str) -> Self {
        Self::line_of(file, 1)
    }

    /// A line of a file.
    pub(crate) fn line_of(file: &str, line: u32) -> Self {
        Self {
            file: file.to_owned(),
            line,
            column: 1,
            end_line: line,
            end_column: 1,
        }
    }
}
