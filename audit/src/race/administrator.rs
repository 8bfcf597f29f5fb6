//! The administrator: prepares, revokes and looks at the rows, on a connection of its own.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use sqlx::{
    Connection as _, Executor as _, PgConnection, Row as _, SqlStr, ValueRef as _,
    postgres::{PgConnectOptions, PgRow},
};

use crate::race::verdict::RaceError;

/// A script of the user.
pub(super) type Script =
    Box<dyn for<'c> Fn(&'c mut PgConnection) -> LocalBoxFuture<'c, Result<(), sqlx::Error>>>;

pub(super) fn script<T>(
    script: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error> + 'static,
) -> Script {
    let script = Rc::new(script);
    Box::new(move |connection| {
        let script = Rc::clone(&script);
        Box::pin(async move { script(connection).await.map(drop) })
    })
}

/// The rows of the effect, as text.
pub(super) type Rows = Vec<String>;

/// The administrator.
pub(super) struct Administrator {
    connection: PgConnection,
    effect: SqlStr,
}

impl Administrator {
    /// Connects past the wire.
    pub(super) async fn connect(
        options: &PgConnectOptions,
        effect: &SqlStr,
    ) -> Result<Self, RaceError> {
        Ok(Self {
            connection: PgConnection::connect_with(options).await?,
            effect: effect.clone(),
        })
    }

    /// Prepares the rows, and returns those of the effect.
    pub(super) async fn prepare(&mut self, script: &Script) -> Result<Rows, RaceError> {
        let prepared = self.run(script).await;
        prepared.map_err(|error| RaceError::Script("prepare", error))
    }

    /// Revokes, and returns the rows of the effect that the revoking transaction saw.
    pub(super) async fn revoke(&mut self, script: &Script) -> Result<Rows, RaceError> {
        let revoked = self.run(script).await;
        revoked.map_err(|error| RaceError::Script("revoke", error))
    }

    /// The rows of the effect by now.
    pub(super) async fn look(&mut self) -> Result<Rows, RaceError> {
        Ok(look(&mut self.connection, &self.effect).await?)
    }

    /// Runs the script and the effect in one SERIALIZABLE transaction, until it commits.
    async fn run(&mut self, script: &Script) -> Result<Rows, sqlx::Error> {
        loop {
            let ran = self.try_run(script).await;
            let Err(error) = ran else {
                return ran;
            };
            // After a failed COMMIT no transaction is open, and CockroachDB rejects the ROLLBACK.
            match self.connection.execute("ROLLBACK").await {
                Ok(_) | Err(sqlx::Error::Database(_)) => {}
                Err(lost) => return Err(lost),
            }
            if !is_serialization_failure(&error) {
                return Err(error);
            }
        }
    }

    async fn try_run(&mut self, script: &Script) -> Result<Rows, sqlx::Error> {
        let connection = &mut self.connection;
        connection
            .execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            .await?;
        script(connection).await?;
        let rows = look(connection, &self.effect).await?;
        connection.execute("COMMIT").await?;
        Ok(rows)
    }
}

/// The simple protocol returns every type as text.
async fn look(connection: &mut PgConnection, effect: &SqlStr) -> Result<Rows, sqlx::Error> {
    let rows = sqlx::raw_sql(effect.clone()).fetch_all(connection).await?;
    rows.iter().map(text).collect()
}

fn text(row: &PgRow) -> Result<String, sqlx::Error> {
    let columns = (0..row.len()).map(|at| {
        let value = row.try_get_raw(at)?;
        if value.is_null() {
            return Ok("NULL");
        }
        value.as_str().map_err(sqlx::Error::Decode)
    });
    let columns: Result<Vec<&str>, sqlx::Error> = columns.collect();
    Ok(columns?.join("\t"))
}

fn is_serialization_failure(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}
