//! The names of an attempt's policies.

use std::ops::Deref;

/// The names of the policies of an attempt, or that of its transaction. One takes no allocation.
#[derive(Debug, Clone, Default)]
pub(crate) enum Names {
    #[default]
    None,
    One([&'static str; 1]),
    Several(Vec<&'static str>),
}

impl Names {
    pub(crate) fn push(&mut self, name: &'static str) {
        match self {
            Self::None => *self = Self::One([name]),
            Self::One([first]) => *self = Self::Several(vec![*first, name]),
            Self::Several(names) => names.push(name),
        }
    }
}

impl Deref for Names {
    type Target = [&'static str];

    fn deref(&self) -> &[&'static str] {
        match self {
            Self::None => &[],
            Self::One(name) => name,
            Self::Several(names) => names,
        }
    }
}
