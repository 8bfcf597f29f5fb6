//! The report in JSON, which is also the baseline of a later run.

use serde_json::{Value, json};

use crate::rules::{Finding, Findings, Rule};

impl Findings {
    /// Returns the report as JSON. `version` counts the versions of this format.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let findings: Vec<_> = self.findings.iter().map(one).collect();
        let suppressed = self.suppressed.iter().map(|suppressed| {
            json!({
                "rule": suppressed.finding.rule.id(),
                "operation": suppressed.finding.operation,
                "fingerprint": suppressed.finding.fingerprint,
                "reason": suppressed.reason,
                "until": suppressed.until,
            })
        });
        json!({
            "version": 1,
            "summary": self.summary,
            "findings": findings,
            "suppressed": suppressed.collect::<Vec<_>>(),
            "known": self.known,
        })
    }
}

fn one(finding: &Finding) -> Value {
    json!({
        "rule": finding.rule.id(),
        "name": finding.rule.name(),
        "level": finding.level.name(),
        "severity": finding.severity().map(tenths),
        "confidence": finding.confidence,
        "operation": finding.operation,
        "message": finding.message,
        "place": finding.place,
        "evidence": finding.evidence,
        "relevant_to": relevant(finding.rule),
        "fingerprint": finding.fingerprint,
    })
}

fn relevant(rule: Rule) -> Value {
    let mapping = rule.mapping();
    json!({
        "cwe": mapping.cwe,
        "owasp_api_2023": mapping.owasp,
        "asvs_5_0_0": mapping.asvs,
        "soc2": mapping.soc2,
        "pci_dss_4_0_1": mapping.pci,
    })
}

/// The number with one digit after the point, as it is written.
pub(super) fn tenths(number: f32) -> f64 {
    (f64::from(number) * 10.0).round() / 10.0
}
