//! Writes that check for themselves: one statement, one round trip, and the reason of a refusal.

use std::{error::Error as StdError, fmt, sync::OnceLock};

use sqlx::{
    Arguments as _, Encode, FromRow, Postgres, Type,
    postgres::{PgArguments, PgRow},
};

use crate::{
    condition::Condition,
    error::{Error, ErrorKind},
    fused::{Fused, Texts, Written},
    template::{self, Facts},
    write_on::WriteOn,
};

/// A write that holds its conditions itself: check and write are one statement.
///
/// For routes where one statement is enough. It costs one round trip where a transaction costs
/// four, CockroachDB repeats it by itself when it meets a conflict, and no revocation fits between
/// the check and the write. When nothing was written, a second statement finds the reason.
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
/// They stand in the WHERE of the statement, at `{conditions}`, all of them. The first one that is
/// not true is the answer, so their order is a decision: `exists` before `permitted` tells a
/// stranger what exists; the other order, or [`hidden`](Condition::hidden), does not.
///
/// | condition | not true |
/// |---|---|
/// | [`exists`](Condition::exists) | 404 `NotFound` |
/// | [`permitted`](Condition::permitted) | 403 `Denied` |
/// | [`available`](Condition::available) | 409 `Conflict` |
/// | [`current`](Condition::current) | 412 `PreconditionFailed` |
/// | [`other`](Condition::other) | the status given, `Refused` |
/// | none of them, and still no row: the statement's own WHERE, row-level security, `ON CONFLICT DO NOTHING` | 404 `NotFound`, or `None` |
///
/// NULL is not true. A condition that fails with an error writes nothing and is a 5xx. Values are
/// bound, and never become a part of the text.
///
/// A condition may be a `SELECT` of one boolean. So one constant can be both the query of a policy
/// and the condition of a write, and a rule is written once.
///
/// # For readers of DynamoDB
///
/// | there | here |
/// |---|---|
/// | `attribute_exists(id)` | `Condition::exists("EXISTS (SELECT 1 FROM documents WHERE id = $1)")` |
/// | `attribute_not_exists(id)` | `Condition::available("NOT EXISTS (SELECT 1 FROM documents WHERE id = $1)")` in an `INSERT … SELECT` |
/// | `#owner = :user` | `Condition::permitted("(SELECT owner FROM documents WHERE id = $1) = $2")` |
/// | `#version = :seen` | `Condition::current("(SELECT version FROM documents WHERE id = $1) = $3")` |
/// | the same for the header `If-Match` | `Condition::current("(SELECT version FROM documents WHERE id = $1) = ANY ($3) OR $3 IS NULL")` and [`IfMatch::versions`](crate::IfMatch::versions) |
/// | `attribute_not_exists(x) OR x = :y` | the same in one condition, with OR inside of it |
/// | `ConditionCheck` on another item | a condition on any other table |
/// | `ConditionalCheckFailedException` | the [`kind`](Error::kind) of the first condition that is not true |
/// | `ReturnValuesOnConditionCheckFailure` | mostly not needed: the reason is known. For the row itself, run the write on a [`Tx`](crate::Tx) and read there |
/// | `TransactWriteItems` | several writes on one [`Tx`](crate::Tx) |
///
/// # Where it runs
///
/// * On `&Interlock` it is a transaction of its own, and the statement is its own COMMIT. A
///   serialization failure runs it again, within [`max_attempts`](crate::Interlock::max_attempts)
///   and the [`deadline`](crate::Interlock::deadline).
/// * On `&mut Tx` or `&mut Savepoint` it is a part of theirs, and the layer settles.
///
/// It writes in a SERIALIZABLE transaction or not at all: the statement says so itself. On a pool
/// whose sessions default to less it is [`Misconfigured`](ErrorKind::Misconfigured);
/// [`pool_options`](crate::Interlock::pool_options) sets the default.
///
/// # Errors
///
/// Of the conditions: see above. Besides, on `&Interlock`:
///
/// * [`OutcomeUnknown`](ErrorKind::OutcomeUnknown) if the connection was lost, or the deadline and
///   its [`grace`](crate::Interlock::grace) have passed, before the server had answered. Nothing is
///   repeated. A connection that had died in the pool looks the same: where servers are restarted
///   under load, let the pool test connections that were idle.
/// * [`Contended`](ErrorKind::Contended), [`Unavailable`](ErrorKind::Unavailable),
///   [`DeadlineExceeded`](ErrorKind::DeadlineExceeded), [`Rejected`](ErrorKind::Rejected),
///   [`Database`](ErrorKind::Database): nothing was written.
///
/// On a `Tx` or a `Savepoint` they are those of any statement. A row that was written but cannot
/// be decoded is a `Database` error; on `&Interlock` it stays written.
///
/// # Cancellation
///
/// On `&Interlock` a statement that was sent is finished in the background, as a COMMIT is: it
/// writes or not, and the connection goes back to the pool clean. On a `Tx` it is as with any
/// statement.
///
/// # Make it a `static`
///
/// Its texts are checked when it is made: in a `static` that is when it is compiled, and a wrong
/// one does not compile. A text passes if it cannot write where the conditions are not true:
///
/// * The statement is one UPDATE, DELETE or `INSERT … SELECT`, with no second write inside.
/// * `{conditions}` stands in it once, in its own WHERE, right behind WHERE or AND. The next thing
///   is AND, the next clause, or the end. OR, CASE and BETWEEN beside it are in parentheses.
/// * An `INSERT … SELECT` does not group, and calls no function in its list that could be an
///   aggregate. `count(*)` is a row even `WHERE false`; in a subquery in FROM it is none.
/// * No UNION, no comment, no `;`, no `$$`, no open parenthesis or quote, neither in the statement
///   nor in a condition. There is at least one condition.
/// * Every parameter up to the last one is used, in the statement or in a condition.
///
/// What a function does that the statement calls is not held back by its WHERE on every server.
pub struct ConditionalWrite {
    statement: &'static str,
    conditions: &'static [Condition],
    lock: Option<&'static str>,
    facts: Facts,
    texts: OnceLock<Texts>,
}

impl ConditionalWrite {
    /// A write of `statement`, if all of `conditions` are true, which stand at `{conditions}`.
    ///
    /// # Panics
    ///
    /// When a text could write where the conditions are not true; [see above](Self#make-it-a-static).
    /// In a `static` that is a compile error, which says how to mend it.
    #[track_caller]
    #[must_use]
    pub const fn new(statement: &'static str, conditions: &'static [Condition]) -> Self {
        let mut facts = accept(template::statement(statement));
        let mut rest = conditions;
        while let [condition, others @ ..] = rest {
            facts.parameters |= accept_part(template::condition(condition.sql));
            if !matches!(condition.status.as_u16(), 400..=499) {
                refuse("the status of a condition is one of 4xx");
            }
            rest = others;
        }
        if conditions.is_empty() {
            refuse("there is no condition: without one, a plain statement will do");
        }
        let used = facts.parameters >> 1;
        if used & (used + 1) != 0 {
            refuse(
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

    /// Locks the rows of `query` before the conditions are looked at, for rows that many clients
    /// write at once.
    ///
    /// `query` is the row by its key, like `SELECT id FROM documents WHERE id = $2`; FOR UPDATE is
    /// added to it. If it finds nothing, nothing is written. On CockroachDB clients then queue
    /// instead of repeating each other's work: measured on a single hot row, that is 1.7 times the
    /// throughput. On rows that nobody contends for it costs 40 %, so it is not the default.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new).
    #[track_caller]
    #[must_use]
    pub const fn lock(mut self, query: &'static str) -> Self {
        if accept_part(template::lock(query)) & !self.facts.parameters != 0 {
            refuse("the lock uses a parameter that neither the statement nor a condition uses");
        }
        self.lock = Some(query);
        self
    }

    /// Begins to bind: the first value is that of `$1`.
    pub fn bind<'t, T>(&self, value: T) -> BoundWrite<'_>
    where
        T: Encode<'t, Postgres> + Type<Postgres>,
    {
        self.unbound().bind(value)
    }

    /// The write with no value bound yet, for one that has no parameters.
    pub fn unbound(&self) -> BoundWrite<'_> {
        BoundWrite {
            write: self,
            arguments: PgArguments::default(),
            fault: None,
        }
    }

    fn texts(&self) -> &Texts {
        let parameters = self.facts.parameters.count_ones();
        self.texts
            .get_or_init(|| Texts::compose(self.statement, self.conditions, self.lock, parameters))
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

/// A [`ConditionalWrite`] with its values, ready to run.
#[must_use = "it writes when it is run"]
pub struct BoundWrite<'w> {
    write: &'w ConditionalWrite,
    arguments: PgArguments,
    /// The first value that could not be encoded.
    fault: Option<Error>,
}

impl BoundWrite<'_> {
    /// Binds the next value.
    pub fn bind<'t, T>(mut self, value: T) -> Self
    where
        T: Encode<'t, Postgres> + Type<Postgres>,
    {
        if let Err(error) = self.arguments.add(value) {
            let error = Error::from(sqlx::Error::Encode(error));
            self.fault.get_or_insert(error);
        }
        self
    }

    /// Writes, and returns the first row of its RETURNING.
    ///
    /// # Errors
    ///
    /// The reason why nothing was written, [`NotFound`](ErrorKind::NotFound) if no condition is;
    /// or [what else can go wrong](ConditionalWrite#errors).
    pub async fn fetch_one<'e, R>(self, on: impl Into<WriteOn<'e>>) -> Result<R, Error>
    where
        R: for<'r> FromRow<'r, PgRow>,
    {
        self.fetch_optional(on).await?.ok_or_else(unexplained)
    }

    /// As [`fetch_one`](Self::fetch_one), but `None` if nothing was written although every
    /// condition is true.
    ///
    /// # Errors
    ///
    /// As [`fetch_one`](Self::fetch_one). A condition that is not true is an error here, too.
    pub async fn fetch_optional<'e, R>(self, on: impl Into<WriteOn<'e>>) -> Result<Option<R>, Error>
    where
        R: for<'r> FromRow<'r, PgRow>,
    {
        if !self.write.facts.returning {
            return Err(misconfigured(
                "a row of a conditional write without RETURNING",
            ));
        }
        match self.run(on.into()).await? {
            Some(Written { row: Some(row), .. }) => Ok(Some(R::from_row(&row)?)),
            Some(Written { row: None, .. }) | None => Ok(None),
        }
    }

    /// Writes, and returns how many rows were written: at least one.
    ///
    /// # Errors
    ///
    /// As [`fetch_one`](Self::fetch_one).
    pub async fn execute<'e>(self, on: impl Into<WriteOn<'e>>) -> Result<u64, Error> {
        let written = self.run(on.into()).await?.ok_or_else(unexplained)?;
        Ok(written.rows)
    }

    async fn run(self, on: WriteOn<'_>) -> Result<Option<Written>, Error> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let expected = self.write.facts.parameters.count_ones() as usize;
        if self.arguments.len() != expected {
            let bound = self.arguments.len();
            return Err(misconfigured(format!(
                "{bound} values bound to the {expected} parameters of a conditional write"
            )));
        }
        let texts = self.write.texts().clone();
        on.run(Fused::new(texts, self.arguments, self.write.conditions))
            .await
    }
}

impl fmt::Debug for BoundWrite<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundWrite")
            .field("write", &self.write)
            .finish_non_exhaustive()
    }
}

fn unexplained() -> Error {
    Error::because(
        ErrorKind::NotFound,
        "every condition is true, and no row was written",
    )
}

fn misconfigured(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
    Error::because(ErrorKind::Misconfigured, cause)
}

#[track_caller]
const fn accept(checked: Result<Facts, &'static str>) -> Facts {
    match checked {
        Ok(facts) => facts,
        Err(reason) => refuse(reason),
    }
}

#[track_caller]
const fn accept_part(checked: Result<u128, &'static str>) -> u128 {
    match checked {
        Ok(parameters) => parameters,
        Err(reason) => refuse(reason),
    }
}

#[track_caller]
#[expect(
    clippy::panic,
    reason = "in a static it is a compile error, with this text"
)]
const fn refuse(reason: &'static str) -> ! {
    panic!("{}", reason)
}
