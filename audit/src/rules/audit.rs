//! The audit: from what is known of a service to findings.

use std::{collections::HashSet, fs, io, path::Path};

use sqlx::PgConnection;

use super::{
    contract,
    finding::{Confidence, Evidence, Finding},
    findings::Findings,
    guards::{Unguarded, unguarded},
    object, others,
    rule::{Level, Rule},
    subject::{Facts, Source},
    suppressions, transactions,
};
use crate::{
    coverage::{Date, Lock, UnreadableLine},
    document::{Document, DocumentError, RawSuppression, read_suppression_file},
    race::Verdict,
    trace::Trace,
};

/// Finds faults of authorization in what is known of a service.
///
/// Every part is optional. The more there are, the more rules can find something.
///
/// ```no_run
/// use tower_interlock_audit::{Audit, Document, Limits, findings::Level};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let document = Document::read("openapi.yaml", &Limits::default())?;
/// let findings = Audit::new()
///     .document(document)
///     .lock("authz.lock")?
///     .trace_file("target/interlock/trace.jsonl")?
///     .run();
/// assert!(findings.at_least(Level::Warning).next().is_none(), "{findings}");
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Audit {
    document: Option<Document>,
    lock: Option<Source<Lock>>,
    trace: Option<Source<Trace>>,
    unguarded: Vec<Unguarded>,
    overtaken: Vec<(String, Vec<Evidence>)>,
    suppressions: Vec<RawSuppression>,
    baseline: HashSet<String>,
    today: Option<Date>,
}

impl Audit {
    /// Returns an audit of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the OpenAPI document.
    pub fn document(mut self, document: Document) -> Self {
        self.document = Some(document);
        self
    }

    /// Adds a lock file of [`Coverage`](crate::Coverage).
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn lock(mut self, path: impl AsRef<Path>) -> io::Result<Self> {
        let (name, text) = read(path.as_ref())?;
        let value = Lock::parse(&text).map_err(|UnreadableLine { number, line }| {
            let message = format!("{name}:{number}: the line is not understood: {line}");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        self.lock = Some(Source { name, text, value });
        Ok(self)
    }

    /// Adds the trace of a [`Recorder`](crate::Recorder).
    pub fn trace(mut self, trace: Trace) -> Self {
        self.add_trace("trace".to_owned(), trace);
        self
    }

    /// Adds the trace of a file. There can be several.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn trace_file(mut self, path: impl AsRef<Path>) -> io::Result<Self> {
        let name = name_of(path.as_ref());
        let read = Trace::read(&path);
        let trace =
            read.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        self.add_trace(name, trace);
        Ok(self)
    }

    /// Looks for the guards of the permission tables that the trace and the lock file tell of. Call
    /// it after they are added.
    ///
    /// # Errors
    ///
    /// Returns the error of the database.
    pub async fn guards(mut self, connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let facts = self.facts();
        let tables: Vec<String> = facts.permission_tables.into_iter().collect();
        self.unguarded = unguarded(connection, &tables).await?;
        Ok(self)
    }

    /// Adds the verdict of a race, such as `PUT /documents/{document}`. If it was lost, the finding
    /// of that operation is confirmed.
    pub fn race(mut self, operation: &str, verdict: &Verdict) -> Self {
        let points = verdict.overtaken().map(|point| Evidence {
            place: "revoked before".to_owned(),
            statement: point.held_before.clone(),
        });
        let points: Vec<_> = points.collect();
        if !points.is_empty() {
            self.overtaken.push((operation.to_owned(), points));
        }
        self
    }

    /// Adds the suppressions of a file. Those of the document are known already.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn suppressions(mut self, path: impl AsRef<Path>) -> Result<Self, DocumentError> {
        self.suppressions
            .extend(read_suppression_file(path.as_ref())?);
        Ok(self)
    }

    /// Leaves out the findings of an earlier report in JSON.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read.
    pub fn baseline(mut self, path: impl AsRef<Path>) -> io::Result<Self> {
        let (name, text) = read(path.as_ref())?;
        let fail = |message: &str| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{name}: {message}"))
        };
        let report: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| fail(&error.to_string()))?;
        let findings = report.get("findings").and_then(serde_json::Value::as_array);
        let findings = findings.ok_or_else(|| fail("it is no report in JSON"))?;
        let fingerprints = findings
            .iter()
            .filter_map(|finding| finding.get("fingerprint")?.as_str());
        self.baseline.extend(fingerprints.map(str::to_owned));
        Ok(self)
    }

    /// Applies all rules.
    #[must_use]
    pub fn run(&self) -> Findings {
        let facts = self.facts();
        let mut findings = Vec::new();
        for subject in &facts.subjects {
            findings.extend(transactions::find(&facts, subject));
            findings.extend(object::find(subject));
            findings.extend(contract::find(&facts, subject));
        }
        findings.extend(others::find(&facts, &self.unguarded));
        self.confirm(&facts, &mut findings);
        let mut seen = HashSet::new();
        findings.retain(|finding| seen.insert(finding.fingerprint.clone()));
        let today = self.today.unwrap_or_else(Date::today);
        let suppressed = suppressions::apply(&facts, &self.suppressions, today, &mut findings);
        let before = findings.len();
        findings.retain(|finding| !self.baseline.contains(&finding.fingerprint));
        findings.sort_by(|a, b| (&a.place, a.rule).cmp(&(&b.place, b.rule)));
        Findings {
            known: before - findings.len(),
            findings,
            suppressed,
            summary: others::summary(&facts),
        }
    }

    fn add_trace(&mut self, name: String, trace: Trace) {
        let all = self.trace.get_or_insert_with(|| Source {
            name,
            text: String::new(),
            value: Trace::default(),
        });
        all.value.exchanges.extend(trace.exchanges);
        all.value.elsewhere.extend(trace.elsewhere);
        all.value.elsewhere_blind = all.value.elsewhere_blind.take().or(trace.elsewhere_blind);
    }

    fn facts(&self) -> Facts<'_> {
        Facts::gather(
            self.document.as_ref(),
            self.lock.as_ref(),
            self.trace.as_ref(),
        )
    }

    /// Raises the findings whose race was lost. A lost race without a finding is one.
    fn confirm(&self, facts: &Facts<'_>, findings: &mut Vec<Finding>) {
        const BY_RACE: [Rule; 5] = [
            Rule::UncheckedMutation,
            Rule::SplitCheckAndWrite,
            Rule::WriteOutsideTransaction,
            Rule::CheckOutsideTransaction,
            Rule::StaleClaims,
        ];
        for (operation, points) in &self.overtaken {
            let is_it = |finding: &&mut Finding| {
                BY_RACE.contains(&finding.rule) && finding.operation.as_ref() == Some(operation)
            };
            let mut is_found = false;
            for finding in findings.iter_mut().filter(is_it) {
                is_found = true;
                finding.level = Level::Error;
                finding.confidence = Confidence::Confirmed;
                finding.evidence.extend(points.iter().cloned());
            }
            if !is_found {
                let mut subjects = facts.subjects.iter();
                let subject = subjects.find(|subject| subject.name == *operation);
                let place = subject.map_or(&facts.start, |subject| &subject.place);
                let message = "a race has written with a permission that was revoked".to_owned();
                let rule = Rule::SplitCheckAndWrite;
                let found = Finding::new(rule, place, Some(operation), message, "race");
                let mut found = found.observed(points.clone());
                found.confidence = Confidence::Confirmed;
                findings.push(found);
            }
        }
    }
}

fn name_of(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}

fn read(path: &Path) -> io::Result<(String, String)> {
    let name = name_of(path);
    match fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(io::Error::new(error.kind(), format!("{name}: {error}"))),
    }
}
