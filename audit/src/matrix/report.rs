//! The report of a matrix, and its faults.

use std::{error, fmt, io, path::PathBuf};

use http::StatusCode;

use crate::matrix::{access::Access, table::align};

/// What each identity may do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MatrixReport {
    /// The names of the identities.
    pub identities: Vec<String>,
    /// The cells, row by row.
    pub cells: Vec<Cell>,
}

/// One operation as one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cell {
    /// The operation.
    pub operation: String,
    /// The identity.
    pub identity: String,
    /// What was expected.
    pub expected: Access,
    /// The status of the response.
    pub status: StatusCode,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// Something that is wrong with a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The status is not the expected one.
    Unexpected,
    /// Access was not allowed, and this statement has written, or may have.
    Written(String),
    /// The recorder was blind, for this reason.
    Blind(String),
    /// The request went to this operation.
    OtherOperation(String),
}

impl MatrixReport {
    pub(super) fn new(identities: Vec<String>) -> Self {
        Self {
            identities,
            cells: Vec::new(),
        }
    }

    /// The cells with a fault.
    pub fn faults(&self) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(|cell| !cell.faults.is_empty())
    }

    /// The table that is committed.
    pub(super) fn snapshot(&self) -> String {
        let table = self.table("operation", |cell| cell.expected.to_string());
        format!("{HEADER}{table}")
    }

    fn table(&self, title: &str, show: impl Fn(&Cell) -> String) -> String {
        let header = [title.to_owned()].into_iter();
        let mut rows: Vec<Vec<String>> = vec![header.chain(self.identities.clone()).collect()];
        for cells in self.cells.chunks(self.identities.len().max(1)) {
            let operation = cells.first().map(|cell| cell.operation.clone());
            rows.push(
                operation
                    .into_iter()
                    .chain(cells.iter().map(&show))
                    .collect(),
            );
        }
        align(&rows)
    }
}

impl fmt::Display for MatrixReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table("", |cell| {
            let mark = match Access::of(cell.status) {
                Some(Access::Allow) => "✔",
                Some(Access::Deny) => "✘",
                Some(Access::Hide) => "∅",
                None => "?",
            };
            let wrong = if cell.faults.is_empty() { "" } else { "!" };
            format!("{mark}{wrong} {}", cell.status.as_u16())
        });
        f.write_str(&table)?;
        for cell in self.faults() {
            for fault in &cell.faults {
                write!(f, "- {} as {}: ", cell.operation, cell.identity)?;
                match fault {
                    Fault::Unexpected => {
                        writeln!(f, "{} is not {}", cell.status.as_u16(), cell.expected)?;
                    }
                    Fault::Written(sql) => writeln!(f, "not allowed, but it wrote: {sql}")?,
                    Fault::Blind(reason) => writeln!(f, "the recorder is blind: {reason}")?,
                    Fault::OtherOperation(other) => writeln!(f, "the request went to `{other}`")?,
                }
            }
        }
        Ok(())
    }
}

/// Why a matrix was not proven. Its `Debug` is its `Display`, for tests that return it.
#[non_exhaustive]
pub enum MatrixError {
    /// Cells have faults.
    Faults(MatrixReport),
    /// The operation of this name has not as many expectations as there are identities.
    Expectations(String),
    /// The committed table is another one.
    #[non_exhaustive]
    Differs {
        /// The table in the file.
        committed: String,
        /// The table of this run.
        found: String,
    },
    /// The snapshot does not exist.
    NoSnapshot(PathBuf),
    /// CI must not update the snapshot.
    UpdateInCi,
    /// The snapshot cannot be read or written.
    Io(io::Error),
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Faults(report) => write!(f, "the matrix has faults\n\n{report}"),
            Self::Expectations(operation) => {
                write!(f, "{operation} needs one expectation for each identity")
            }
            Self::Differs { committed, found } => write!(
                f,
                "the matrix is not the committed one; review it and set INTERLOCK_LOCK=update\n\n\
                 committed:\n{committed}\nfound:\n{found}"
            ),
            Self::NoSnapshot(path) => write!(
                f,
                "there is no {}: make it with INTERLOCK_LOCK=update, and commit it",
                path.display()
            ),
            Self::UpdateInCi => f.write_str("INTERLOCK_LOCK=update is not for CI"),
            Self::Io(error) => write!(f, "the snapshot: {error}"),
        }
    }
}

impl fmt::Debug for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl error::Error for MatrixError {}

impl From<io::Error> for MatrixError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

const HEADER: &str = "\
# Who may do what, for review. Made by https://docs.rs/tower-interlock-audit.
# INTERLOCK_LOCK=update writes it.
";
