//! SQL: what a statement does, to which tables, and its text without values.

mod effect;
mod functions;
mod parsed;
mod read;
mod tokens;
mod words;

pub use self::{effect::Effect, read::Sql};
