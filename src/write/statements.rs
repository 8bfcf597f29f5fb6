//! The statements of a conditional write: the write, and the one that finds the failed condition.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, Either, PgExecutor, Postgres, Row as _, SqlSafeStr as _, SqlStr,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    database::Server,
    error::{Error, ErrorKind},
    tx::alters_session,
    write::{
        condition::Condition,
        row::{RowQuery, Writer, Writers},
    },
};

/// The texts of a conditional write, which share one list of arguments.
#[derive(Debug)]
pub(crate) struct Texts {
    write: SqlStr,
    /// For a row that others write at the same time.
    contended: Option<ContendedWrite>,
    diagnosis: SqlStr,
    /// Whether they may leave something on their session, by a function that a condition calls.
    alters_session: bool,
}

/// The write that locks its row first.
#[derive(Debug)]
struct ContendedWrite {
    text: SqlStr,
    /// The parameters that tell one row from another, as bits.
    key: u128,
    writers: Writers,
}

impl Texts {
    /// Composes them of texts that were checked.
    pub(crate) fn compose(
        statement: &str,
        conditions: &[Condition],
        lock: Option<&str>,
        parameters: u32,
    ) -> Self {
        let write = write(statement, conditions, lock);
        let row = RowQuery::of(statement).filter(|_| lock.is_none());
        Self {
            alters_session: alters_session(&write),
            write: text(write),
            contended: row.map(|row| ContendedWrite {
                text: text(self::write(statement, conditions, Some(&row.text))),
                key: row.parameters,
                writers: Writers::default(),
            }),
            diagnosis: text(diagnosis(conditions, parameters)),
        }
    }
}

/// A conditional write without its values.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The statement, as the user wrote it.
    pub(crate) name: &'static str,
    pub(crate) texts: Arc<Texts>,
    pub(crate) conditions: &'static [Condition],
    pub(crate) parameters: usize,
    pub(crate) returning: bool,
}

impl Plan {
    /// Whether the value of this parameter tells one row from another.
    pub(crate) fn is_key(&self, parameter: u32) -> bool {
        let contended = self.texts.contended.as_ref();
        let rest = contended.and_then(|it| it.key.checked_shr(parameter));
        rest.is_some_and(|rest| rest & 1 == 1)
    }
}

/// A conditional write with its values.
#[derive(Debug, Clone)]
#[expect(unnameable_types, reason = "a part of what seals WriteTarget")]
pub struct BoundStatement {
    name: &'static str,
    texts: Arc<Texts>,
    /// The hash of what tells its row from others.
    row: u64,
    locks_first: bool,
    conditions: &'static [Condition],
    arguments: PgArguments,
}

/// The rows that were written: at least one.
#[derive(Debug)]
#[expect(unnameable_types, reason = "a part of what seals WriteTarget")]
pub struct Written {
    /// The first row that was returned.
    pub(crate) row: Option<PgRow>,
    pub(crate) rows: u64,
}

impl BoundStatement {
    pub(crate) fn new(plan: Plan, arguments: PgArguments, row: u64) -> Self {
        Self {
            name: plan.name,
            texts: plan.texts,
            row,
            locks_first: false,
            conditions: plan.conditions,
            arguments,
        }
    }

    /// Counts the write among those of its row. `None` if it does not matter whether there are
    /// others.
    ///
    /// On CockroachDB the conditions take away the lock that an UPDATE takes on its row, so writes
    /// of one row would conflict instead of waiting.
    pub(crate) fn enter(&self, server: Option<Server>) -> Option<Writer<'_>> {
        let contended = self.texts.contended.as_ref()?;
        (server == Some(Server::CockroachDb)).then(|| contended.writers.enter(self.row))
    }

    /// Locks the row before the conditions are evaluated.
    pub(crate) fn lock_first(&mut self) {
        self.locks_first = true;
    }

    /// The statement, as the user wrote it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The text of the write, as it is sent.
    pub(crate) fn write_text(&self) -> &str {
        self.write_sql().as_str()
    }

    /// The text of the diagnosis, as it is sent.
    pub(crate) fn diagnosis_text(&self) -> &str {
        self.texts.diagnosis.as_str()
    }

    /// Whether the texts may leave something on their session (T12).
    pub(crate) fn alters_session(&self) -> bool {
        self.texts.alters_session
    }

    /// Sends the write, and reads its reply to the end, since an error can follow the rows. `None`
    /// if it has written nothing.
    pub(crate) async fn write<'c>(
        &self,
        on: impl PgExecutor<'c>,
    ) -> Result<Option<Written>, sqlx::Error> {
        let mut written = Written { row: None, rows: 0 };
        let mut results = on.fetch_many(self.query(self.write_sql()));
        while let Some(result) = results.try_next().await? {
            match result {
                Either::Left(done) => written.rows += done.rows_affected(),
                Either::Right(row) => written.row = written.row.or(Some(row)),
            }
        }
        drop(results);
        Ok((written.rows > 0).then_some(written))
    }

    /// Returns the error of the first condition that is not true. `None` if all are true by now.
    pub(crate) async fn diagnose<'c>(
        &self,
        on: impl PgExecutor<'c>,
    ) -> Result<Option<Error>, sqlx::Error> {
        let row = on.fetch_one(self.query(&self.texts.diagnosis)).await?;
        let failed: Option<i64> = row.try_get(0)?;
        Ok(failed.map(|number| {
            let mut numbered = (1..).zip(self.conditions);
            match numbered.find(|(condition, _)| *condition == number) {
                Some((_, condition)) => condition.error(),
                None => Error::because(ErrorKind::Misconfigured, NOT_SERIALIZABLE),
            }
        }))
    }

    fn write_sql(&self) -> &SqlStr {
        let contended = self.texts.contended.as_ref();
        let locking = contended.filter(|_| self.locks_first);
        locking.map_or(&self.texts.write, |it| &it.text)
    }

    fn query(&self, text: &SqlStr) -> Query<'static, Postgres, PgArguments> {
        sqlx::query_with(text.clone(), self.arguments.clone())
    }
}

/// The statement with its conditions, of which the isolation level is the first.
///
/// The lock is a condition, too. As a WITH it would cost CockroachDB's commit in one phase.
fn write(statement: &str, conditions: &[Condition], lock: Option<&str>) -> String {
    let mut all = format!("({SERIALIZABLE})");
    if let Some(query) = lock {
        all += &format!(" AND EXISTS ({query} FOR UPDATE)");
    }
    for condition in conditions {
        all += &format!(" AND ({})", condition.sql);
    }
    statement.replacen("{conditions}", &all, 1)
}

/// Selects the number of the first condition that is not true: 0 is the isolation level, NULL is
/// none.
///
/// It mentions every parameter, because CockroachDB rejects a longer bind list.
fn diagnosis(conditions: &[Condition], parameters: u32) -> String {
    let mut text = format!("SELECT CASE WHEN ({SERIALIZABLE}) IS NOT TRUE THEN 0");
    for (number, condition) in (1..).zip(conditions) {
        text += &format!(" WHEN ({}) IS NOT TRUE THEN {number}", condition.sql);
    }
    text += " END::INT8";
    for parameter in 1..=parameters {
        text += &format!(", ${parameter} IS NULL");
    }
    text
}

fn text(text: String) -> SqlStr {
    AssertSqlSafe(Arc::<str>::from(text)).into_sql_str()
}

const SERIALIZABLE: &str = "current_setting('transaction_isolation') = 'serializable'";

const NOT_SERIALIZABLE: &str = "a conditional write below SERIALIZABLE: make the pool with Interlock::pool_options(), \
     or set default_transaction_isolation; behind PgBouncer with transaction pooling, which keeps no SET, by \
     ALTER ROLE or ALTER DATABASE";
