//! Tests for services on [`tower_interlock`]: which routes are covered, who may do what, and
//! whether a revocation can be overtaken.
//!
//! The promises of tower-interlock hold for routes that use it. This crate proves in a test which
//! routes do, and that what looks covered is.
//!
//! * [`Coverage`] asks the router what protects each route, and keeps that in a lock file for
//!   review.
//! * [`Race`] revokes a permission while a request is held, at every point of the request. The rows
//!   tell whether it could still write. The app may check in any way.
//! * [`Matrix`] sends each operation as each identity. A denial must have written nothing.
//! * [`Recorder`] records which statements a request has run, inside and outside of its
//!   transaction.
//! * [`Audit`] makes findings of what they tell, of the OpenAPI [`Document`], and of the catalog of
//!   PostgreSQL. The program `interlock-audit` is the same for the command line.
//!
//! [The guide](https://docs.rs/crate/tower-interlock/latest/source/docs/audit.md) shows how to get
//! from a service to the first four, and
//! [findings](https://docs.rs/crate/tower-interlock/latest/source/docs/findings.md) has the rules.
//!
//! It is a dev-dependency. The tests run on PostgreSQL and CockroachDB, through the service itself:
//! there are no mocks.

mod coverage;
mod document;
mod matrix;
mod mode;
mod race;
mod recorder;
mod report;
mod rules;
mod sql;
mod trace;

pub use crate::{
    coverage::{Coverage, CoverageError, CoverageReport},
    document::{Document, DocumentError, Limits},
    matrix::{Access, Matrix, MatrixError, MatrixReport},
    race::{Race, RaceError, Verdict, Wire},
    recorder::Recorder,
    rules::{Audit, Findings, Rule},
    trace::{Exchange, Statement, Trace},
};

/// The parts of a [`CoverageReport`].
pub mod covered {
    pub use crate::coverage::{CoveredOperation, Exception, Guard, Operation, Problem};
}

/// The parts of a [`MatrixReport`].
pub mod cells {
    pub use crate::matrix::{Cell, Fault};
}

/// The parts of a [`Verdict`].
pub mod verdict {
    pub use crate::race::{Finding, Point};
}

/// The parts of a [`Trace`], and the layers of a [`Recorder`].
pub mod recording {
    pub use crate::{
        recorder::{Events, RecorderLayer, RecorderService},
        sql::{Effect, Sql},
        trace::{Ending, Kind, Place, Step, WorkDone},
    };
}

/// The parts of a [`Document`].
pub mod documented {
    pub use crate::document::{
        Operation, Parameter, Place, Problem, ProblemKind, Response, Security, TooLarge, Version,
    };
}

/// The parts of [`Findings`].
pub mod findings {
    pub use crate::{
        report::Colours,
        rules::{Confidence, Evidence, Finding, Level, Mapping, Precision, Summary, Suppressed},
    };
}
