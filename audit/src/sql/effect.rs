//! What a statement does.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a statement does.
///
/// The order is that of the damage: a text of several statements has the effect of the worst one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Effect {
    /// It begins, ends or adjusts a transaction or a session.
    Control,
    /// It only reads.
    Read,
    /// It is not understood, and counts as a write.
    Unknown,
    /// It writes.
    Write,
}

impl Effect {
    /// Whether it may write.
    #[must_use]
    pub fn may_write(self) -> bool {
        self >= Self::Unknown
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Control => "control",
            Self::Read => "read",
            Self::Unknown => "unknown",
            Self::Write => "write",
        })
    }
}

/// One statement of a text.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) effect: Effect,
    pub(super) reads: Vec<String>,
    pub(super) writes: Vec<String>,
    pub(super) calls: Vec<String>,
}
