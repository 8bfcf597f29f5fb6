//! Conditional writes: check and write are one statement.

mod autocommit;
mod bound;
mod condition;
mod lexer;
mod row;
pub(crate) mod sql_check;
mod statements;
mod target;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use sqlx::{Encode, Postgres, Type};

pub(crate) use self::{
    autocommit::run as run_autocommit,
    statements::{BoundStatement, Written},
    target::{Unreadable, sealed},
};
pub use self::{bound::BoundWrite, condition::Condition, target::WriteTarget};
use self::{
    sql_check::Facts,
    statements::{Plan, Texts},
};
#[cfg(doc)]
use crate::error::{Error, ErrorKind};

/// A write whose statement contains its conditions: check and write are one statement.
///
/// It is for routes where one statement is enough. It takes one round trip where a transaction
/// takes four, CockroachDB retries it on the server, and no revocation fits between the check and
/// the write. If nothing was written, a second statement finds the condition that failed.
///
/// ```
/// use tower_interlock::{Condition, ConditionalWrite, Error, Interlock};
///
/// static UPDATE: ConditionalWrite = ConditionalWrite::new(
///     "UPDATE documents SET body = $3, version = version + 1 WHERE id = $2 AND {conditions} RETURNING version",
///     &[
///         Condition::exists("EXISTS (SELECT 1 FROM documents WHERE id = $2)"),
///         Condition::permitted("EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)"),
///         Condition::current("(SELECT version FROM documents WHERE id = $2) = $4"),
///     ],
/// );
///
/// async fn update(interlock: &Interlock, user: i64, id: i64, body: &str, seen: i64) -> Result<i64, Error> {
///     let (version,) = UPDATE.bind(user).bind(id).bind(body).bind(seen).fetch_one(interlock).await?;
///     Ok(version)
/// }
/// ```
///
/// # Conditions
///
/// All of them are in the WHERE of the statement, at `{conditions}`. The first one that is not true
/// decides the error, so their order matters: `exists` before `permitted` reveals to an
/// unauthorized caller what exists; the other order, or [`hidden`](Condition::hidden), does not.
///
/// | condition | not true |
/// |---|---|
/// | [`exists`](Condition::exists) | 404 `NotFound` |
/// | [`authenticated`](Condition::authenticated) | 401 `Unauthenticated` |
/// | [`permitted`](Condition::permitted) | 403 `Denied` |
/// | [`available`](Condition::available) | 409 `Conflict` |
/// | [`current`](Condition::current) | 412 `PreconditionFailed` |
/// | [`other`](Condition::other) | its own status, `ConditionFailed` |
/// | none, and still no row: the statement's own WHERE, row-level security, `ON CONFLICT DO NOTHING` | 404 `NotFound`, or `None` |
///
/// NULL is not true. A condition that fails with an error writes nothing and is a 5xx. Values are
/// bound, and are never part of the text.
///
/// A condition may be a `SELECT` of one boolean. One constant can therefore be the query of a
/// policy and the condition of a write, so that a rule is written once.
///
/// # For readers of DynamoDB
///
/// | there | here |
/// |---|---|
/// | `attribute_exists(id)` | `Condition::exists("EXISTS (SELECT 1 FROM documents WHERE id = $1)")` |
/// | `attribute_not_exists(id)` | `Condition::available("NOT EXISTS (SELECT 1 FROM documents WHERE id = $1)")` in an `INSERT … SELECT` |
/// | `#owner = :user` | `Condition::permitted("(SELECT owner FROM documents WHERE id = $1) = $2")` |
/// | `#version = :seen` | `Condition::current("(SELECT version FROM documents WHERE id = $1) = $3")` |
/// | the same for the header `If-Match` | `Condition::current("(SELECT version FROM documents WHERE id = $1) = ANY ($3) OR ($3 IS NULL AND EXISTS (SELECT 1 FROM documents WHERE id = $1))")` and [`IfMatch::versions`](crate::precondition::IfMatch::versions) |
/// | `attribute_not_exists(x) OR x = :y` | the same in one condition, with OR inside |
/// | `ConditionCheck` on another item | a condition on any other table |
/// | `ConditionalCheckFailedException` | the [`kind`](Error::kind) of the first condition that is not true |
/// | `ReturnValuesOnConditionCheckFailure` | seldom needed, since the failed condition is known; for the row itself, run the write on a [`Tx`](crate::Tx) and read there |
/// | `TransactWriteItems` | several writes on one [`Tx`](crate::Tx) |
///
/// # Where it runs
///
/// * On `&Interlock` it is a transaction of its own, and the statement is its own COMMIT. After a
///   serialization failure it is retried, within
///   [`max_attempts`](crate::InterlockBuilder::max_attempts) and the
///   [`deadline`](crate::InterlockBuilder::deadline). While a task has a [`Tx`](crate::Tx) on the
///   same pool open, it is [`Misconfigured`](ErrorKind::Misconfigured): it would wait for the locks
///   of its own request.
/// * On `&mut Tx` or `&mut Savepoint` it is part of that transaction.
///
/// It writes in a SERIALIZABLE transaction or not at all, which the statement checks itself. On a
/// pool whose sessions default to a lower level it is [`Misconfigured`](ErrorKind::Misconfigured);
/// [`pool_options`](crate::Interlock::pool_options) sets the default.
///
/// # Contended rows
///
/// CockroachDB [locks the row of an UPDATE](https://www.cockroachlabs.com/docs/stable/select-for-update),
/// so writers of one row wait for each other. It does not if a filter is left to evaluate behind the
/// scan, as EXPLAIN shows. Conditions are such filters, so conditional writes of one row would
/// conflict again and again. On `&Interlock`, a write that finds another one of the same statement
/// and row under way in this process locks the row first, within the statement. Measured on v22.1
/// with 16 clients on one row, that is 1.1 times the throughput of a transaction instead of 0.6
/// times, and half of its 99th percentile.
///
/// The row is told by the statement: an UPDATE of one table whose WHERE, beside the conditions, has
/// a parameter and neither parentheses nor brackets. For others there is [`lock`](Self::lock).
/// Statements that find one row by different indexes, where one changes the key of the other, wait
/// for each other's locks. That costs time, but no write.
///
/// # Errors
///
/// Those of the conditions are above. On `&Interlock` there are also:
///
/// * [`OutcomeUnknown`](ErrorKind::OutcomeUnknown) if the connection was lost, or the deadline and
///   its [`grace`](crate::InterlockBuilder::grace) period passed, before the server replied. It is
///   not retried. A connection that died in the pool looks the same: where servers are restarted
///   under load, let the pool test connections that were idle.
/// * [`RetriesExhausted`](ErrorKind::RetriesExhausted), [`Unavailable`](ErrorKind::Unavailable),
///   [`DeadlineExceeded`](ErrorKind::DeadlineExceeded),
///   [`ConstraintViolation`](ErrorKind::ConstraintViolation), [`Database`](ErrorKind::Database):
///   nothing was written.
/// * [`WrittenButUnreadable`](ErrorKind::WrittenButUnreadable) if a row was written and cannot be
///   decoded, such as an INT4 into an `i64`: the write is kept.
///
/// On a `Tx` or a `Savepoint` they are those of any statement, and a row that cannot be decoded is
/// a `Database` error.
///
/// # Cancellation
///
/// On `&Interlock` a statement that was sent is finished in the background, as a COMMIT is, and the
/// connection returns to the pool clean. On a `Tx` it is a statement like any other.
///
/// # Make it a `static`
///
/// Its texts are checked when it is constructed. For a `static` that is at compile time, so a wrong
/// text does not compile. A text is accepted if it cannot write where a condition is not true:
///
/// * The statement is one UPDATE, DELETE or `INSERT … SELECT`, with no second write inside.
/// * `{conditions}` appears once, in its own WHERE, directly after WHERE or AND. AND, the next
///   clause or the end follows. OR, CASE and BETWEEN beside it are in parentheses.
/// * An `INSERT … SELECT` does not group, and calls no function in its list that could be an
///   aggregate. `count(*)` returns a row even `WHERE false`; in a subquery in FROM it does not.
/// * No UNION, no comment, no `;`, no `$$`, no open parenthesis or quote, neither in the statement
///   nor in a condition. There is at least one condition.
/// * Every parameter up to the last one is used, in the statement or in a condition.
///
/// Side effects of functions in the statement may happen even if the WHERE is false.
pub struct ConditionalWrite {
    statement: &'static str,
    conditions: &'static [Condition],
    lock: Option<&'static str>,
    facts: Facts,
    texts: OnceLock<Arc<Texts>>,
}

impl ConditionalWrite {
    /// Returns a write of `statement` under `conditions`, which take the place of `{conditions}`.
    ///
    /// # Panics
    ///
    /// Panics if a text could write where a condition is not true; [see
    /// above](Self#make-it-a-static). In a `static` that is a compile error, which says how to fix
    /// it.
    #[track_caller]
    #[must_use]
    pub const fn new(statement: &'static str, conditions: &'static [Condition]) -> Self {
        let mut facts = accept(sql_check::statement(statement));
        let mut rest = conditions;
        while let [condition, others @ ..] = rest {
            facts.parameters |= accept_fragment(sql_check::condition(condition.sql));
            if !matches!(condition.status.as_u16(), 400..=499) {
                reject("the status of a condition is one of 4xx");
            }
            rest = others;
        }
        if conditions.is_empty() {
            reject("there is no condition: without one, use a plain statement");
        }
        let used = facts.parameters >> 1;
        if used & (used + 1) != 0 {
            reject(
                "a parameter is left out: use every one from $1 to the last, in the statement or in a condition",
            );
        }
        Self {
            statement,
            conditions,
            lock: None,
            facts,
            texts: OnceLock::new(),
        }
    }

    /// Locks the row of `query` before the conditions are evaluated, in every write.
    ///
    /// It is for CockroachDB and rows that many processes write at once, and for statements that do
    /// not [show their row](Self#contended-rows). `query` selects the row by its key, as in `SELECT
    /// id FROM documents WHERE id = $2`; FOR UPDATE is added to it, for which the role needs the
    /// privilege to UPDATE. If it finds no row, nothing is written. It locks the first row that it
    /// finds, and must not name a column of the row that is written: it is a condition, too.
    ///
    /// Measured on v22.1 with 16 clients in seven runs, the throughput is 1.2 to 4.3 times as high on
    /// one row, and 0.73 to 0.99 times on 10,000 rows, so it is not the default.
    ///
    /// # Panics
    ///
    /// Panics as [`new`](Self::new) does.
    #[track_caller]
    #[must_use]
    pub const fn lock(mut self, query: &'static str) -> Self {
        if accept_fragment(sql_check::lock(query)) & !self.facts.parameters != 0 {
            reject("the lock uses a parameter that neither the statement nor a condition uses");
        }
        self.lock = Some(query);
        self
    }

    /// Binds the value of `$1`.
    pub fn bind<'t, T>(&self, value: T) -> BoundWrite
    where
        T: Encode<'t, Postgres> + Type<Postgres>,
    {
        self.unbound().bind(value)
    }

    /// Its statement, with `{conditions}` in it.
    pub(crate) fn statement(&self) -> &'static str {
        self.statement
    }

    pub(crate) fn conditions(&self) -> &'static [Condition] {
        self.conditions
    }

    /// Returns the write with no value bound, for one without parameters.
    pub fn unbound(&self) -> BoundWrite {
        let parameters = self.facts.parameters.count_ones();
        let texts = self.texts.get_or_init(|| {
            let (statement, conditions) = (self.statement, self.conditions);
            Arc::new(Texts::compose(statement, conditions, self.lock, parameters))
        });
        BoundWrite::new(Plan {
            name: self.statement,
            texts: Arc::clone(texts),
            conditions: self.conditions,
            parameters: parameters as usize,
            returning: self.facts.returning,
        })
    }
}

impl fmt::Debug for ConditionalWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConditionalWrite")
            .field("statement", &self.statement)
            .field("conditions", &self.conditions)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

#[track_caller]
const fn accept(checked: Result<Facts, &'static str>) -> Facts {
    match checked {
        Ok(facts) => facts,
        Err(reason) => reject(reason),
    }
}

#[track_caller]
const fn accept_fragment(checked: Result<u128, &'static str>) -> u128 {
    match checked {
        Ok(parameters) => parameters,
        Err(reason) => reject(reason),
    }
}

#[track_caller]
#[expect(
    clippy::panic,
    reason = "in a static it is a compile error with this text"
)]
const fn reject(reason: &'static str) -> ! {
    panic!("{}", reason)
}
