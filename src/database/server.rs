//! The first look at the server: which one it is, whether its settings keep the promises, and
//! whether it has the tables that are needed.

use std::sync::OnceLock;

use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _, SqlSafeStr as _};

use crate::error::{Error, ErrorKind, sqlstate};

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    CockroachDb,
    PostgreSql,
}

impl Server {
    pub(crate) fn of_version(version: &str) -> Self {
        if version.contains("CockroachDB") {
            Self::CockroachDb
        } else {
            Self::PostgreSql
        }
    }
}

/// A table of this crate that a setting needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequiredTable {
    pub(crate) name: &'static str,
    /// A query for its columns that returns no row.
    pub(crate) query: &'static str,
    /// The mistake if the query fails, and the mend.
    pub(crate) missing: &'static str,
}

/// The server of a pool, once one of its connections was inspected.
pub(crate) struct KnownServer {
    tables: Vec<RequiredTable>,
    known: OnceLock<Inspected>,
}

/// The findings of the first connection.
struct Inspected {
    server: Server,
    /// The required tables with their schemas, in order. A request may change its search path, and
    /// must not use other tables then.
    tables: Vec<String>,
}

impl KnownServer {
    pub(crate) fn new(tables: Vec<RequiredTable>) -> Self {
        Self {
            tables,
            known: OnceLock::new(),
        }
    }

    pub(crate) fn get(&self) -> Option<Server> {
        self.known.get().map(|inspected| inspected.server)
    }

    /// The table of this name, with the schema in which the first connection has found it.
    pub(crate) fn table(&self, name: &str) -> Option<&str> {
        let index = self.tables.iter().position(|table| table.name == name)?;
        self.known.get()?.tables.get(index).map(String::as_str)
    }

    /// Inspects the server that `connection` leads to: rejects a setting that breaks a promise or a
    /// missing table, warns of a setting that weakens a promise.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Misconfigured`], or the error of the query.
    pub(crate) async fn inspect(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Server, sqlx::Error> {
        let server = inspect_settings(connection).await?;
        let mut tables = Vec::new();
        for table in &self.tables {
            tables.push(inspect_table(connection, *table).await?);
        }
        let inspected = Inspected { server, tables };
        Ok(self.known.get_or_init(|| inspected).server)
    }
}

/// Returns the table with its schema.
async fn inspect_table(
    connection: &mut PgConnection,
    table: RequiredTable,
) -> Result<String, sqlx::Error> {
    let Err(error) = connection.execute(table.query).await else {
        let schema = sqlx::query_scalar(SCHEMA).bind(table.name);
        let schema: String = schema.fetch_one(connection).await?;
        return Ok(format!(
            "\"{}\".{}",
            schema.replace('"', "\"\""),
            table.name
        ));
    };
    match sqlstate::code(&error).as_deref() {
        Some(
            sqlstate::UNDEFINED_TABLE
            | sqlstate::UNDEFINED_COLUMN
            | sqlstate::INSUFFICIENT_PRIVILEGE,
        ) => {
            let cause = format!("{}: {error}", table.missing);
            Err(Error::because(ErrorKind::Misconfigured, cause).into_sqlx())
        }
        _ => Err(error),
    }
}

const SCHEMA: &str = "\
    SELECT n.nspname::TEXT FROM pg_catalog.pg_class AS c \
    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
    WHERE c.oid = CAST(CAST($1 AS TEXT) AS REGCLASS)";

async fn inspect_settings(connection: &mut PgConnection) -> Result<Server, sqlx::Error> {
    let row = connection
        .fetch_one(AssertSqlSafe(query()).into_sql_str())
        .await?;
    let setting = |name| row.try_get::<Option<String>, _>(name);
    let is_on = |name| Ok::<_, sqlx::Error>(setting(name)?.as_deref() == Some("on"));
    let version = setting("version")?.unwrap_or_default();
    let server = Server::of_version(&version);
    tracing::debug!(version, "inspected the server");

    for (name, harm) in REJECTED {
        if is_on(name)? {
            let cause = format!(
                "{name} is on: {harm}; make the pool with Interlock::pool_options(), or switch it off"
            );
            return Err(Error::because(ErrorKind::Misconfigured, cause).into_sqlx());
        }
    }
    if is_on("default_transaction_read_only")? {
        tracing::warn!("default_transaction_read_only is on: every write will fail");
    }
    if server == Server::PostgreSql {
        let isolation = setting("default_transaction_isolation")?;
        if isolation.as_deref() != Some("serializable") {
            tracing::warn!(
                "default_transaction_isolation is not serializable: a permission that this pool changes \
                 outside the layer can still be used to write; make the pool with \
                 Interlock::pool_options(), and see sql/serializable_guard.sql"
            );
        }
        if setting("synchronous_commit")?.as_deref() == Some("off") {
            tracing::warn!(
                "synchronous_commit is off: a crash of the server can lose a COMMIT that it acknowledged"
            );
        }
        let number = connection.server_version_num();
        if number.is_some_and(|number| number < 130_000) {
            tracing::warn!(version, "PostgreSQL before 13 is not supported");
        }
    }
    Ok(server)
}

/// With its second argument, `current_setting` is NULL for a setting that the server lacks.
fn query() -> String {
    let mut query = "SELECT version() AS version".to_owned();
    for name in REJECTED.iter().map(|(name, _)| name).chain(&WARNED) {
        query += &format!(", current_setting('{name}', true) AS {name}");
    }
    query
}

/// Settings of CockroachDB that break a promise, and how:
/// <https://www.cockroachlabs.com/docs/stable/session-variables>.
const REJECTED: [(&str, &str); 3] = [
    (
        "autocommit_before_ddl",
        "a DDL statement would commit what was written before it",
    ),
    (
        "default_transaction_use_follower_reads",
        "permission checks would read stale rows",
    ),
    (
        "force_savepoint_restart",
        "releasing a savepoint would commit",
    ),
];

/// Settings that weaken a promise.
const WARNED: [&str; 3] = [
    "default_transaction_read_only",
    "default_transaction_isolation",
    "synchronous_commit",
];
