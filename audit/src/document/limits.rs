//! The limits of a document.

/// The limits of a document, all of its files together unless said otherwise.
///
/// They keep a document that was made to do harm from taking all memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The bytes of one file. 128 MiB.
    pub file_size: u64,
    /// The files. 2000.
    pub files: usize,
    /// The values, where an alias counts as a copy. 20 million.
    pub nodes: usize,
    /// The levels of nesting, through aliases too. 200.
    pub depth: usize,
    /// The aliases of one file. 100 000.
    pub aliases: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_size: 128 << 20,
            files: 2000,
            nodes: 20_000_000,
            depth: 200,
            aliases: 100_000,
        }
    }
}
