//! What is wrong with an operation.

use std::fmt;

use crate::coverage::{guard::Guard, operation::Operation};

/// Something that is wrong with an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Nothing protects it.
    Uncovered(Operation),
    /// It lets more pass than the lock file says, or what differs cannot be compared.
    Looser(Operation, Guard, Guard),
    /// It lets less pass than the lock file says, which is to be locked in.
    Stricter(Operation, Guard, Guard),
    /// The lock file does not have it.
    New(Operation, Guard),
    /// The lock file has it, and nothing else does.
    Gone(Operation),
    /// The date of its line has passed.
    Expired(Operation, String),
    /// No route takes it.
    NotRouted(Operation),
    /// There is no operation.
    NoOperations,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uncovered(operation) => write!(
                f,
                "{operation} is uncovered: add a layer or a mark. A line UNCOVERED is added by hand"
            ),
            Self::Looser(operation, locked, found) => write!(
                f,
                "{operation} is looser, or not comparable: it was `{locked}` and is `{found}`"
            ),
            Self::Stricter(operation, locked, found) => write!(
                f,
                "{operation} is stricter: it was `{locked}` and is `{found}`; lock that with \
                 INTERLOCK_LOCK=update"
            ),
            Self::New(operation, found) => write!(
                f,
                "{operation} is not in the lock file: `{found}`; add it with INTERLOCK_LOCK=update"
            ),
            Self::Gone(operation) => write!(
                f,
                "{operation} is in the lock file only; remove it with INTERLOCK_LOCK=update"
            ),
            Self::Expired(operation, until) => {
                write!(
                    f,
                    "{operation} is uncovered, and was to be so until {until}"
                )
            }
            Self::NotRouted(operation) => {
                write!(f, "{operation} is declared, but no route takes it")
            }
            Self::NoOperations => f.write_str("no operation was declared or observed"),
        }
    }
}
