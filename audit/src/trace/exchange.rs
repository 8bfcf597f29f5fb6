//! Requests, and the statements that each of them ran.

use serde::{Deserialize, Serialize};
use tower_interlock::{
    Outcome,
    observe::{Phase, WorkKind},
};

use crate::sql::Effect;

/// What a [`Recorder`](crate::Recorder) has recorded. It has no values, and no bodies or headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The requests, in the order in which they began.
    pub exchanges: Vec<Exchange>,
    /// The statements that ran outside of any request.
    pub elsewhere: Vec<Statement>,
    /// Why statements outside of any request may be missing. `None`: all of the interlock's own were
    /// seen both ways.
    pub elsewhere_blind: Option<String>,
}

impl Trace {
    /// Why statements may be missing, if the recorder was blind in a request or outside of any.
    #[must_use]
    pub fn blind(&self) -> Option<&str> {
        let of_requests = self.exchanges.iter().find_map(Exchange::blind);
        of_requests.or(self.elsewhere_blind.as_deref())
    }
}

/// A request and its response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exchange {
    /// Its number within the process.
    pub id: u64,
    /// The method.
    pub method: String,
    /// The template of its route, such as `/documents/{document}`. `None` if no route matched.
    pub route: Option<String>,
    /// The status of the response. `None` if there was none, as after a disconnect.
    pub status: Option<u16>,
    /// The work that it was: the request behind the layer, conditional writes, closures.
    pub works: Vec<WorkDone>,
    /// The statements, in the order in which they ended.
    pub statements: Vec<Statement>,
    /// Why statements may be missing. `None`: all of the interlock's own were seen both ways.
    pub blind: Option<String>,
}

impl Exchange {
    /// Why statements may be missing, if the recorder was blind.
    #[must_use]
    pub fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }

    /// The name of the operation, such as `PUT /documents/{document}`.
    #[must_use]
    pub fn operation(&self) -> Option<String> {
        let route = self.route.as_ref()?;
        Some(format!("{} {route}", self.method))
    }

    /// The policies that were checked, the outermost first.
    #[must_use]
    pub fn policies(&self) -> &[String] {
        let request = self.works.iter().find(|work| work.kind == Kind::Request);
        request.map_or(&[], |work| &work.names)
    }

    /// The writes that are or may be committed.
    ///
    /// A write in the transaction counts if that was committed, or may have been. A write outside
    /// of it always counts, since nothing tells whether it was rolled back.
    pub fn committed_writes(&self) -> impl Iterator<Item = &Statement> {
        let written = |statement: &&Statement| statement.effect.may_write() && statement.rows > 0;
        let kept = |statement: &&Statement| match statement.place {
            Place::Outside => true,
            Place::Transaction { work, attempt } => self.works.get(work).is_none_or(|work| {
                let outcome = work.outcome;
                let kept = outcome.is_none_or(|outcome| outcome.may_be_committed());
                kept && (work.attempts == 0 || work.attempts == attempt)
            }),
        };
        self.statements.iter().filter(written).filter(kept)
    }
}

/// Work of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkDone {
    /// What it is.
    pub kind: Kind,
    /// The policies, the name of the closure, or the statement of the conditional write.
    pub names: Vec<String>,
    /// The number of attempts. 0 while it is under way.
    pub attempts: u32,
    /// The outcome of its transaction. `None` while it is under way, or if it was dropped.
    pub outcome: Option<Ending>,
}

/// The kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A request behind a layer.
    Request,
    /// A closure of `transact`.
    Closure,
    /// A conditional write on the `Interlock`.
    ConditionalWrite,
    /// It is under way, or was dropped.
    Unfinished,
}

impl From<WorkKind> for Kind {
    fn from(kind: WorkKind) -> Self {
        match kind {
            WorkKind::Request => Self::Request,
            WorkKind::ConditionalWrite => Self::ConditionalWrite,
            _ => Self::Closure,
        }
    }
}

/// The outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// There was no transaction.
    NoTransaction,
    /// It was committed.
    Committed,
    /// It was rolled back.
    RolledBack,
    /// It cannot be known.
    Unknown,
}

impl Ending {
    fn may_be_committed(self) -> bool {
        matches!(self, Self::Committed | Self::Unknown)
    }
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NoTransaction => Self::NoTransaction,
            Outcome::Committed => Self::Committed,
            Outcome::RolledBack => Self::RolledBack,
            _ => Self::Unknown,
        }
    }
}

/// A statement that was executed, or the call of [`Tx::connection`](tower_interlock::Tx::connection).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Statement {
    /// Its text, without values and comments.
    pub sql: String,
    /// What it does.
    pub effect: Effect,
    /// The tables that it reads.
    pub reads: Vec<String>,
    /// The tables that it writes.
    pub writes: Vec<String>,
    /// The functions that it calls and that are none of the server's, which may write unseen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<String>,
    /// Where it ran.
    pub place: Place,
    /// The part of the work that ran it. `None` outside of work.
    pub step: Option<Step>,
    /// How many rows it has written or returned. 0 for one that failed.
    pub rows: u64,
}

/// Where a statement ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Place {
    /// In a transaction of the interlock. What follows a
    /// [`Tx::connection`](tower_interlock::Tx::connection) in its part of the work counts as being
    /// on that, up to the next statement on the `Tx`.
    Transaction {
        /// The index of its work in the exchange.
        work: usize,
        /// The attempt at that work, counted from 1.
        attempt: u32,
    },
    /// On any other connection. The interlock's own `BEGIN`, `COMMIT` and the like are here too.
    Outside,
}

/// The part of the work that runs a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Step {
    /// A policy.
    Policy,
    /// The handler, and the middleware between the layer and the handler.
    Handler,
    /// A closure, or a conditional write outside of other work.
    Work,
    /// A hook after the COMMIT.
    Hook,
}

impl From<Phase> for Step {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Policy => Self::Policy,
            Phase::Handler => Self::Handler,
            Phase::Hook => Self::Hook,
            _ => Self::Work,
        }
    }
}
