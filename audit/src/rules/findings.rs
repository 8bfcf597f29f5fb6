//! What an audit has found.

use super::{
    finding::Finding,
    rule::{Level, Rule},
    suppressions::Suppressed,
};

/// What an [`Audit`](crate::Audit) has found. It displays as a list for people.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Findings {
    /// The findings, by place.
    pub findings: Vec<Finding>,
    /// The findings that are suppressed.
    pub suppressed: Vec<Suppressed>,
    /// How many findings the baseline has.
    pub known: usize,
    /// What the findings are based on.
    pub summary: Summary,
}

/// What findings are based on.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The operations of the document and the lock file.
    pub operations: usize,
    /// The operations that a request of the trace has exercised. `None` without a trace.
    pub exercised: Option<usize>,
    /// The requests of the trace.
    pub requests: usize,
    /// The statements outside of any request.
    pub elsewhere: usize,
    /// The requests in which the recorder may have missed statements.
    pub blind: usize,
}

impl Findings {
    /// The findings at a level or above it that are faults. What the trace does not show is none: see
    /// [`is_incomplete`](Self::is_incomplete).
    pub fn at_least(&self, level: Level) -> impl Iterator<Item = &Finding> {
        let is_gap = |finding: &Finding| {
            let is_unseen =
                finding.rule == Rule::UncoveredOperation && finding.level < Level::Error;
            finding.rule == Rule::RecorderBlind || is_unseen
        };
        let findings = self.findings.iter();
        findings.filter(move |finding| finding.level >= level && !is_gap(finding))
    }

    /// Whether there is something that the audit could not look at: an operation that no request
    /// has exercised, a blind recorder, or no operation at all.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        const GAPS: [Rule; 2] = [Rule::UncoveredOperation, Rule::RecorderBlind];
        let has_gap = self
            .findings
            .iter()
            .any(|finding| GAPS.contains(&finding.rule));
        self.summary.operations == 0 || self.summary.blind > 0 || has_gap
    }
}
