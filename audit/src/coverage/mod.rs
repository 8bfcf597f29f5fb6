//! Coverage: what protects each route, asked of the router itself, and a lock file of it.

mod changes;
mod check;
mod date;
mod guard;
mod lock;
mod operation;
mod probing;
mod problem;
mod report;

pub use self::{
    check::Coverage,
    guard::{Exception, Guard},
    operation::Operation,
    problem::Problem,
    report::{CoverageError, CoverageReport, CoveredOperation},
};
pub(crate) use self::{
    date::Date,
    lock::{Lock, UnreadableLine},
};
