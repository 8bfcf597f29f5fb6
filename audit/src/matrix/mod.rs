//! The matrix: who may do what, and that a denial writes nothing.

mod access;
mod report;
mod run;
mod table;

pub use self::{
    access::Access,
    report::{Cell, Fault, MatrixError, MatrixReport},
    run::Matrix,
};
