//! Rules: from a document, a lock file, a trace and a catalog to findings.

mod audit;
mod contract;
mod finding;
mod findings;
mod guards;
mod mapping;
mod object;
mod others;
mod rule;
mod subject;
mod suppressions;
mod transactions;

pub use self::{
    audit::Audit,
    finding::{Confidence, Evidence, Finding},
    findings::{Findings, Summary},
    mapping::Mapping,
    rule::{Level, Precision, Rule},
    suppressions::Suppressed,
};
