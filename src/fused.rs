//! A conditional write on its way to the server: the statement, and the one that finds the reason.

use std::sync::Arc;

use futures_util::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, Either, PgExecutor, Postgres, Row as _, SqlStr,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use sqlx_core::sql_str::SqlSafeStr as _;

use crate::{
    condition::Condition,
    error::{Error, ErrorKind},
};

/// The two texts of a conditional write, which share one list of arguments.
#[derive(Debug, Clone)]
pub(crate) struct Texts {
    write: SqlStr,
    diagnosis: SqlStr,
}

impl Texts {
    /// Composes them, of texts that were checked.
    pub(crate) fn compose(
        statement: &str,
        conditions: &[Condition],
        lock: Option<&str>,
        parameters: u32,
    ) -> Self {
        Self {
            write: text(write(statement, conditions, lock)),
            diagnosis: text(diagnosis(conditions, parameters)),
        }
    }
}

/// A conditional write with its arguments.
#[derive(Clone)]
pub(crate) struct Fused {
    texts: Texts,
    arguments: PgArguments,
    conditions: &'static [Condition],
}

/// What was written. Without a row affected, nothing.
pub(crate) struct Written {
    /// The first row that was returned.
    pub(crate) row: Option<PgRow>,
    pub(crate) rows: u64,
}

impl Fused {
    pub(crate) fn new(
        texts: Texts,
        arguments: PgArguments,
        conditions: &'static [Condition],
    ) -> Self {
        Self {
            texts,
            arguments,
            conditions,
        }
    }

    /// Sends the write, and reads its answer to the end: an error can come after the rows.
    /// `None` if it has written nothing.
    pub(crate) async fn write<'c>(
        &self,
        on: impl PgExecutor<'c>,
    ) -> Result<Option<Written>, sqlx::Error> {
        let mut written = Written { row: None, rows: 0 };
        let mut answers = on.fetch_many(self.query(&self.texts.write));
        while let Some(answer) = answers.try_next().await? {
            match answer {
                Either::Left(done) => written.rows += done.rows_affected(),
                Either::Right(row) => written.row = written.row.or(Some(row)),
            }
        }
        drop(answers);
        Ok((written.rows > 0).then_some(written))
    }

    /// Asks for the reason why nothing was written. `None` if there is none: every condition is
    /// true by now.
    pub(crate) async fn diagnose<'c>(
        &self,
        on: impl PgExecutor<'c>,
    ) -> Result<Option<Error>, sqlx::Error> {
        let row = on.fetch_one(self.query(&self.texts.diagnosis)).await?;
        let reason: Option<i64> = row.try_get(0)?;
        Ok(reason.map(
            |number| match (1..).zip(self.conditions).find(|(n, _)| *n == number) {
                Some((_, condition)) => condition.refusal(),
                None => Error::because(ErrorKind::Misconfigured, WEAK),
            },
        ))
    }

    fn query(&self, text: &SqlStr) -> Query<'static, Postgres, PgArguments> {
        sqlx::query_with(text.clone(), self.arguments.clone())
    }
}

/// The statement with the conditions in it, and its own isolation as the first of them.
fn write(statement: &str, conditions: &[Condition], lock: Option<&str>) -> String {
    let mut all = format!("({SERIALIZABLE})");
    if lock.is_some() {
        all += " AND EXISTS (SELECT 1 FROM interlock_lock)";
    }
    for condition in conditions {
        all += &format!(" AND ({})", condition.sql);
    }
    let write = statement.replacen("{conditions}", &all, 1);
    match lock {
        Some(query) => format!("WITH interlock_lock AS MATERIALIZED ({query} FOR UPDATE) {write}"),
        None => write,
    }
}

/// The number of the first condition that is not true: 0 is the isolation, NULL is none.
///
/// Every parameter is mentioned, because CockroachDB refuses a bind list that has more.
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

const WEAK: &str = "a conditional write below SERIALIZABLE: make the pool with Interlock::pool_options(), \
     or set default_transaction_isolation";
