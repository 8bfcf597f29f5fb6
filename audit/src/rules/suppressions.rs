//! Suppressions: findings that were looked at, and are no faults.

use super::{finding::Finding, rule::Rule, subject::Facts};
use crate::{
    coverage::Date,
    document::{Place, RawSuppression, Template},
};

/// A finding that is suppressed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Suppressed {
    /// The finding.
    pub finding: Finding,
    /// The reason of the suppression.
    pub reason: String,
    /// The last day of the suppression.
    pub until: String,
}

/// Takes the suppressed findings out. A suppression that is invalid or needless is a finding.
pub(super) fn apply(
    facts: &Facts<'_>,
    of_file: &[RawSuppression],
    today: Date,
    findings: &mut Vec<Finding>,
) -> Vec<Suppressed> {
    let mut suppressed = Vec::new();
    let mut stale = Vec::new();
    for suppression in all(facts, of_file) {
        match suppression.valid(today) {
            Ok((rule, until)) => {
                let is_it =
                    |finding: &mut Finding| finding.rule == rule && suppression.names(finding);
                let before = suppressed.len();
                suppressed.extend(findings.extract_if(.., is_it).map(|finding| Suppressed {
                    finding,
                    reason: suppression.reason.clone(),
                    until: until.to_string(),
                }));
                if suppressed.len() == before {
                    stale.push(suppression.finding("suppresses nothing"));
                }
            }
            Err(reason) => stale.push(suppression.finding(reason)),
        }
    }
    findings.extend(stale);
    suppressed
}

/// A suppression with the operation that it is for.
struct Suppression {
    rule: String,
    operation: Option<String>,
    fingerprint: Option<String>,
    reason: String,
    until: Option<String>,
    place: Place,
}

fn all(facts: &Facts<'_>, of_file: &[RawSuppression]) -> Vec<Suppression> {
    let of_operations = facts
        .document
        .iter()
        .flat_map(|document| document.operations());
    let of_operations = of_operations.flat_map(|operation| {
        let name = operation.name();
        operation
            .suppressions
            .iter()
            .map(move |raw| (raw, Some(name.clone())))
    });
    let of_file = of_file.iter().map(|raw| (raw, raw.operation.clone()));
    let both = of_operations.chain(of_file);
    let both = both.map(|(raw, operation)| Suppression {
        rule: raw.rule.clone(),
        operation,
        fingerprint: raw.fingerprint.clone(),
        reason: raw.reason.clone(),
        until: raw.until.clone(),
        place: raw.place.clone(),
    });
    both.collect()
}

impl Suppression {
    /// The rule and the last day, or what is wrong.
    fn valid(&self, today: Date) -> Result<(Rule, Date), &'static str> {
        let rule: Rule = self.rule.parse().map_err(|_| "names no rule")?;
        if rule == Rule::StaleSuppression {
            return Err("cannot suppress its own rule");
        }
        if self.reason.trim().is_empty() {
            return Err("has no reason");
        }
        if self.operation.is_none() && self.fingerprint.is_none() {
            return Err("names neither an operation nor a fingerprint");
        }
        let until = self.until.as_deref().ok_or("has no date `until`")?;
        let until: Date = until
            .parse()
            .map_err(|()| "has a date that is none, as 2027-01-31 is")?;
        if until < today {
            return Err("is expired");
        }
        Ok((rule, until))
    }

    /// Whether it is for this finding. No suppression is for a rule as a whole.
    fn names(&self, finding: &Finding) -> bool {
        match (&self.fingerprint, &self.operation, &finding.operation) {
            (Some(fingerprint), ..) => *fingerprint == finding.fingerprint,
            (None, Some(wanted), Some(found)) => is_same(found, wanted),
            (None, ..) => false,
        }
    }

    fn finding(&self, reason: &str) -> Finding {
        let Self {
            rule, operation, ..
        } = self;
        let message = format!("the suppression of {rule} {reason}");
        let what = format!("{rule} {reason}");
        Finding::new(
            Rule::StaleSuppression,
            &self.place,
            operation.as_deref(),
            message,
            &what,
        )
    }
}

/// Whether two operations are the same, whatever their parameters are called.
fn is_same(found: &str, wanted: &str) -> bool {
    let split = |name: &str| {
        let (method, path) = name.split_once(' ')?;
        Some((method.to_uppercase(), Template::read(path.trim())))
    };
    split(found) == split(wanted)
}
