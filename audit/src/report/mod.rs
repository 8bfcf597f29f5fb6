//! Reports of findings: a list for people, JSON and SARIF.

mod json;
mod list;
mod sarif;

pub use self::list::Colours;
