//! OpenAPI documents: trees with places, resolved references, operations.

mod build;
mod context;
mod files;
mod inline;
mod limits;
mod operation;
mod parse;
mod place;
mod problems;
mod read;
mod reader;
mod reference;
mod resolve;
mod template;
mod tree;
mod version;

pub use self::{
    inline::TooLarge,
    limits::Limits,
    operation::{Operation, Parameter, Response, Security},
    place::Place,
    problems::{Problem, ProblemKind},
    read::{Document, DocumentError},
    version::Version,
};
pub(crate) use self::{operation::RawSuppression, read::read_suppression_file, template::Template};
