//! A finding, with its evidence.

use std::fmt;

use serde::Serialize;

use super::rule::{Level, Rule};
use crate::{
    document::Place,
    trace::{Place as Connection, Statement, Step},
};

/// Something to be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// How bad it is.
    pub level: Level,
    /// How it is known.
    pub confidence: Confidence,
    /// Where it is in the document, or else in the lock file or the trace.
    pub place: Place,
    /// The operation, such as `PUT /documents/{document}`.
    pub operation: Option<String>,
    /// What was found.
    pub message: String,
    /// The statements in their order.
    pub evidence: Vec<Evidence>,
    /// A hash of the rule, the operation and what was found, but not of the place. It stays the same
    /// when lines move.
    pub fingerprint: String,
}

/// How a finding is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Confidence {
    /// From the document, the lock file or the catalog.
    Documented,
    /// From the statements of a request.
    Observed,
    /// A race has used a permission that was revoked.
    Confirmed,
}

/// A statement of a request, or a point of a race.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Evidence {
    /// Where it ran.
    pub place: String,
    /// Its text, without values.
    pub statement: String,
}

impl Finding {
    /// A finding of a rule. `what` tells it from others of the same rule and operation.
    pub(super) fn new(
        rule: Rule,
        place: &Place,
        operation: Option<&str>,
        message: String,
        what: &str,
    ) -> Self {
        Self {
            rule,
            level: rule.level(),
            confidence: Confidence::Documented,
            place: place.clone(),
            operation: operation.map(str::to_owned),
            message,
            evidence: Vec::new(),
            fingerprint: fingerprint(&[rule.id(), operation.unwrap_or_default(), what]),
        }
    }

    pub(super) fn observed(mut self, evidence: Vec<Evidence>) -> Self {
        self.confidence = Confidence::Observed;
        self.evidence = evidence;
        self
    }

    pub(super) fn noted(mut self) -> Self {
        self.level = Level::Note;
        self
    }

    pub(super) fn failed(mut self) -> Self {
        self.level = Level::Error;
        self
    }

    /// The severity, from 0 to 10. What a race has confirmed is critical.
    #[must_use]
    pub fn severity(&self) -> Option<f32> {
        const CRITICAL: f32 = 9.1;
        match self.confidence {
            Confidence::Confirmed => Some(CRITICAL),
            _ if self.level == Level::Note => None,
            _ => self.rule.severity(),
        }
    }
}

impl Confidence {
    /// The name, in small letters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Documented => "documented",
            Self::Observed => "observed",
            Self::Confirmed => "confirmed",
        }
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Evidence {
    pub(super) fn of(statement: &Statement) -> Self {
        let place = match statement.place {
            Connection::Transaction { work, .. } => format!("transaction {}", work + 1),
            Connection::Outside => "outside".to_owned(),
        };
        let step = match statement.step {
            Some(Step::Policy) => ", policy",
            Some(Step::Handler) => ", handler",
            Some(Step::Work) => ", closure",
            Some(Step::Hook) => ", hook",
            None => "",
        };
        Self {
            place: format!("{place}{step}"),
            statement: statement.sql.clone(),
        }
    }
}

/// FNV-1a with 64 bits: the same in every version and on every machine.
fn fingerprint(parts: &[&str]) -> String {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
