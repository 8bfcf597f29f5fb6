//! The first look at the server, and what is set on each connection to it.

use std::time::Duration;

use sqlx::{Executor as _, PgConnection, Row as _, postgres::PgPoolOptions};

use crate::error::{Error, ErrorKind};

/// Which server this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    CockroachDb,
    PostgreSql,
}

/// Looks once at the server: refuses a setting that breaks a promise, warns of one that weakens it.
///
/// # Errors
///
/// [`ErrorKind::Misconfigured`] for a refused setting, else what the look failed with.
pub(crate) async fn inspect(connection: &mut PgConnection) -> Result<Kind, sqlx::Error> {
    let row = connection.fetch_one(SETTINGS).await?;
    let setting = |name| row.try_get::<Option<String>, _>(name);
    let version = setting("version")?.unwrap_or_default();
    let kind = Kind::of(&version);
    tracing::debug!(version, "first look at the server");

    for (name, harm) in REFUSED {
        if setting(name)?.as_deref() == Some("on") {
            let cause = format!(
                "{name} is on: {harm}; make the pool with Interlock::pool_options(), or switch it off"
            );
            return Err(Error::because(ErrorKind::Misconfigured, cause).into_sqlx());
        }
    }
    if setting("read_only")?.as_deref() == Some("on") {
        tracing::warn!("default_transaction_read_only is on: every write will fail");
    }
    if kind == Kind::PostgreSql {
        if setting("isolation")?.as_deref() != Some("serializable") {
            tracing::warn!(
                "default_transaction_isolation is not serializable: a permission that this pool changes \
                 outside the layer can still be written against; see sql/serializable_guard.sql"
            );
        }
        if setting("synchronous_commit")?.as_deref() == Some("off") {
            tracing::warn!(
                "synchronous_commit is off: a crash of the server can lose a COMMIT that it acknowledged"
            );
        }
        if connection
            .server_version_num()
            .is_some_and(|number| number < 130_000)
        {
            tracing::warn!(version, "PostgreSQL before 13 is not supported");
        }
    }
    Ok(kind)
}

/// The pool options of [`Interlock::pool_options`](crate::Interlock::pool_options).
pub(crate) fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new()
        .acquire_timeout(Duration::from_secs(5))
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(prepare(connection)))
}

/// Makes the settings of a new connection, each where the server knows it.
async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let row = connection.fetch_one("SELECT version()").await?;
    let kind = Kind::of(row.try_get(0)?);
    for (only, statement) in SESSION {
        if only.is_some_and(|only| only != kind) {
            continue;
        }
        if let Err(error) = connection.execute(statement).await {
            match error {
                sqlx::Error::Database(error) => {
                    tracing::debug!(%error, statement, "the server does not know this setting");
                }
                error => return Err(error),
            }
        }
    }
    Ok(())
}

impl Kind {
    fn of(version: &str) -> Self {
        if version.contains("CockroachDB") {
            Self::CockroachDb
        } else {
            Self::PostgreSql
        }
    }
}

/// Settings of CockroachDB that break a promise: <https://www.cockroachlabs.com/docs/stable/session-variables>.
const REFUSED: [(&str, &str); 3] = [
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

/// With its second argument, `current_setting` is NULL for what the server does not know.
const SETTINGS: &str = "SELECT version() AS version, \
     current_setting('autocommit_before_ddl', true) AS autocommit_before_ddl, \
     current_setting('default_transaction_use_follower_reads', true) AS default_transaction_use_follower_reads, \
     current_setting('force_savepoint_restart', true) AS force_savepoint_restart, \
     current_setting('default_transaction_read_only', true) AS read_only, \
     current_setting('default_transaction_isolation', true) AS isolation, \
     current_setting('synchronous_commit', true) AS synchronous_commit";

/// The timeouts are above the default deadline and its grace: CockroachDB's statement timeout
/// bounds COMMIT too, and must not be what makes an outcome unknown.
const SESSION: [(Option<Kind>, &str); 4] = [
    (None, "SET default_transaction_isolation = 'serializable'"),
    (None, "SET statement_timeout = '20s'"),
    (None, "SET idle_in_transaction_session_timeout = '30s'"),
    (Some(Kind::CockroachDb), "SET autocommit_before_ddl = off"),
];
