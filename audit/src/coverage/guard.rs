//! What protects an operation, as a line of the lock file has it.

use std::fmt;

use tower_interlock::{
    ErrorKind,
    probe::{ProbedCondition, Protection},
};

use crate::coverage::date::Date;
use crate::sql::Sql;

/// What protects an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guard {
    /// Policies, the outermost first.
    #[non_exhaustive]
    Requires {
        /// The names of the policies.
        policies: Vec<String>,
        /// Whether the outermost one takes a parameter of the path, as far as its types tell.
        by_path: bool,
        /// Whether the transaction is READ ONLY.
        read_only: bool,
    },
    /// A conditional write. Each condition has the tables that it reads: `permitted(grants)`.
    Conditional(Vec<String>),
    /// Nothing, on purpose, with the reason.
    Public(String),
    /// The handler always responds with an error, because there is no layer.
    FailsClosed,
    /// Nothing.
    Uncovered(Exception),
}

/// What a line says of an operation that is uncovered. Empty for what was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exception {
    pub(super) until: Option<Date>,
    pub(super) reason: String,
}

impl Guard {
    pub(super) fn uncovered() -> Self {
        Self::Uncovered(Exception::default())
    }

    pub(super) fn is_uncovered(&self) -> bool {
        matches!(self, Self::Uncovered(_))
    }

    /// The guard that a probe has found.
    pub(super) fn of(protection: &Protection) -> Self {
        match protection {
            Protection::Policy {
                name,
                read_only,
                extractors,
                ..
            } => Self::Requires {
                policies: vec![(*name).to_owned()],
                by_path: PATHS.iter().any(|path| extractors.contains(path)),
                read_only: *read_only,
            },
            Protection::Public { reason, .. } => Self::Public((*reason).to_owned()),
            Protection::Conditional { conditions, .. } if authorizes(conditions) => {
                Self::Conditional(conditions.iter().map(condition).collect())
            }
            _ => Self::uncovered(),
        }
    }

    /// Reads the text of a line.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text == "fails closed" {
            return Some(Self::FailsClosed);
        }
        let (word, rest) = text.split_once(' ')?;
        match word {
            "requires" => {
                let (rest, read_only) = without(rest, READ_ONLY);
                let (names, by_path) = without(rest, BY_PATH);
                Some(Self::Requires {
                    policies: names.split(AND).map(str::to_owned).collect(),
                    by_path,
                    read_only,
                })
            }
            "conditional" => {
                let conditions = rest.split_whitespace().map(str::to_owned);
                Some(Self::Conditional(conditions.collect()))
            }
            "public" => Some(Self::Public(quoted(rest)?)),
            "UNCOVERED" => {
                let (date, reason) = rest.strip_prefix("until ")?.split_once(' ')?;
                Some(Self::Uncovered(Exception {
                    until: Some(date.parse().ok()?),
                    reason: quoted(reason)?,
                }))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requires {
                policies,
                by_path,
                read_only,
            } => {
                let by_path = if *by_path { BY_PATH } else { "" };
                let read_only = if *read_only { READ_ONLY } else { "" };
                write!(f, "requires {}{by_path}{read_only}", policies.join(AND))
            }
            Self::Conditional(conditions) => write!(f, "conditional {}", conditions.join(" ")),
            Self::Public(reason) => write!(f, "public \"{reason}\""),
            Self::FailsClosed => f.write_str("fails closed"),
            Self::Uncovered(Exception {
                until: Some(until),
                reason,
            }) => write!(f, "UNCOVERED until {until} \"{reason}\""),
            Self::Uncovered(_) => f.write_str("UNCOVERED"),
        }
    }
}

/// Whether the conditions say who may write. A version alone does not.
fn authorizes(conditions: &[ProbedCondition]) -> bool {
    let says_who = [ErrorKind::Denied, ErrorKind::Unauthenticated];
    conditions
        .iter()
        .any(|condition| says_who.contains(&condition.kind))
}

fn condition(condition: &ProbedCondition) -> String {
    let name = match condition.kind {
        ErrorKind::Denied => "permitted".to_owned(),
        ErrorKind::Unauthenticated => "authenticated".to_owned(),
        ErrorKind::NotFound => "exists".to_owned(),
        ErrorKind::Conflict => "available".to_owned(),
        ErrorKind::PreconditionFailed => "current".to_owned(),
        _ => format!("other[{}]", condition.status.as_u16()),
    };
    let sql = condition.sql.trim_start();
    let query = if sql
        .get(..6)
        .is_some_and(|word| word.eq_ignore_ascii_case("select"))
    {
        Sql::read(sql)
    } else {
        Sql::read(&format!("SELECT {sql}"))
    };
    format!("{name}({})", query.reads.join(","))
}

/// The text without a suffix, and whether it had that.
fn without<'t>(text: &'t str, suffix: &str) -> (&'t str, bool) {
    match text.strip_suffix(suffix) {
        Some(text) => (text, true),
        None => (text, false),
    }
}

fn quoted(text: &str) -> Option<String> {
    let text = text.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some(text.to_owned())
}

const AND: &str = " + ";
const BY_PATH: &str = ", by path";
const READ_ONLY: &str = ", read-only";

/// The extractors of axum that read parameters of the path, in the names of types.
const PATHS: [&str; 2] = ["::path::Path<", "::RawPathParams"];
