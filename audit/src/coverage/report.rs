//! The report of a coverage, and its problems.

use std::{error, fmt, io, path::PathBuf};

use crate::coverage::{
    guard::Guard,
    lock::{Lock, UnreadableLine},
    operation::{Operation, Source},
    probing::Answer,
    problem::Problem,
};

/// What protects each operation, and what is wrong with that.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CoverageReport {
    /// The operations, by path.
    pub operations: Vec<CoveredOperation>,
    /// What is wrong. Empty in a report that a check returns as a success.
    pub problems: Vec<Problem>,
}

/// An operation, and what protects it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CoveredOperation {
    /// The operation.
    pub operation: Operation,
    /// What protects it.
    pub guard: Guard,
    /// What a person has to know of it.
    pub note: Option<String>,
    /// Whether no declaration has it, but a trace.
    pub observed_only: bool,
}

impl CoverageReport {
    pub(super) fn add(&mut self, operation: &Operation, answer: Answer, source: Source) {
        self.operations.push(CoveredOperation {
            operation: operation.clone(),
            guard: answer.guard,
            note: answer.note,
            observed_only: source == Source::Observed,
        });
    }

    /// Without a lock file, everything uncovered is a problem.
    pub(super) fn add_uncovered(&mut self) {
        let uncovered = self
            .operations
            .iter()
            .filter(|found| found.guard.is_uncovered());
        let problems = uncovered.map(|found| Problem::Uncovered(found.operation.clone()));
        self.problems.extend(problems);
    }

    /// The lock file that would fit.
    pub(super) fn lock(&self) -> Lock {
        let lines = self.operations.iter();
        Lock(
            lines
                .map(|found| (found.operation.clone(), found.guard.clone()))
                .collect(),
        )
    }
}

impl fmt::Display for CoverageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .operations
            .iter()
            .map(|found| found.operation.to_string().len());
        let width = width.max().unwrap_or_default();
        for found in &self.operations {
            write!(f, "{:<width$}  {}", found.operation, found.guard)?;
            if found.observed_only {
                f.write_str("; observed only")?;
            }
            if let Some(note) = &found.note {
                write!(f, "; {note}")?;
            }
            writeln!(f)?;
        }
        if !self.problems.is_empty() {
            writeln!(f, "\n{} problems:", self.problems.len())?;
        }
        for problem in &self.problems {
            writeln!(f, "- {problem}")?;
        }
        Ok(())
    }
}

/// Why a coverage was not proven. Its `Debug` is its `Display`, for tests that return it.
#[non_exhaustive]
pub enum CoverageError {
    /// The report has problems.
    Problems(CoverageReport),
    /// The lock file does not exist.
    NoLock(PathBuf),
    /// The line with this number is not understood, or its operation has two.
    UnreadableLine(usize, String),
    /// CI must not update the lock file.
    UpdateInCi,
    /// The lock file cannot be read or written.
    Io(io::Error),
}

impl fmt::Display for CoverageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(report) => write!(f, "the coverage has problems\n\n{report}"),
            Self::NoLock(path) => write!(
                f,
                "there is no {}: make it with INTERLOCK_LOCK=update, and commit it",
                path.display()
            ),
            Self::UnreadableLine(number, line) => {
                write!(
                    f,
                    "line {number} of the lock file is not understood: {line}"
                )
            }
            Self::UpdateInCi => f.write_str("INTERLOCK_LOCK=update is not for CI"),
            Self::Io(error) => write!(f, "the lock file: {error}"),
        }
    }
}

impl fmt::Debug for CoverageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for CoverageError {}

impl From<io::Error> for CoverageError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<UnreadableLine> for CoverageError {
    fn from(UnreadableLine { number, line }: UnreadableLine) -> Self {
        Self::UnreadableLine(number, line)
    }
}
