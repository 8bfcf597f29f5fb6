use crate::{
    random,
    server::{Kind, Server},
    sql, url,
};
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use std::{fmt, time::Duration};

/// A database of its own for one test.
///
/// It exists until [`Database::drop`]. [`test`](crate::test()) drops it by itself.
#[derive(Clone)]
pub struct Database {
    kind: Kind,
    name: String,
    url: String,
    maintenance: PgConnectOptions,
}

impl Database {
    pub(crate) async fn create(server: &Server, hint: &str) -> Result<Self, sqlx::Error> {
        let name = format!("{}_{}", sanitised(hint), random());
        let database = Self {
            kind: server.kind(),
            url: url::with_database(&server.url(), &name),
            name,
            maintenance: server.options(),
        };
        let name = &database.name;
        database
            .administer(match database.kind {
                // Copying a database waits for its sessions. `template0` never has any.
                Kind::PostgreSql => format!("CREATE DATABASE \"{name}\" TEMPLATE template0"),
                Kind::CockroachDb => format!("CREATE DATABASE \"{name}\""),
            })
            .await?;
        Ok(database)
    }

    /// The database system of its server.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its name, which consists of lower-case letters, digits and underscores.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL of this database.
    pub fn options(&self) -> PgConnectOptions {
        self.maintenance.clone().database(&self.name)
    }

    /// To this database, with the password if there is one.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// A pool of up to `n` connections.
    ///
    /// # Panics
    ///
    /// If the server rejects the first connection.
    #[allow(clippy::panic, reason = "the harness of a test")]
    pub async fn pool(&self, n: u32) -> PgPool {
        let pool = PgPoolOptions::new()
            .max_connections(n)
            .connect_with(self.options());
        pool.await
            .unwrap_or_else(|error| panic!("no connection to {self:?}: {error}"))
    }

    /// Runs statements one by one, each in a transaction of its own.
    ///
    /// # Panics
    ///
    /// If a statement fails, with its text.
    #[allow(clippy::panic, reason = "the harness of a test")]
    pub async fn run(&self, sql: &'static str) {
        let done = self.try_run(sql).await;
        done.unwrap_or_else(|(statement, error)| panic!("{error}\nin {self:?}: {statement}"));
    }

    /// Drops the database. PostgreSQL terminates its sessions.
    ///
    /// # Errors
    ///
    /// If the server rejects it permanently.
    pub async fn drop(self) -> Result<(), sqlx::Error> {
        let name = &self.name;
        self.administer(match self.kind {
            Kind::PostgreSql => format!("DROP DATABASE \"{name}\" WITH (FORCE)"),
            Kind::CockroachDb => format!("DROP DATABASE \"{name}\" CASCADE"),
        })
        .await
    }

    async fn try_run(&self, sql: &'static str) -> Result<(), (&'static str, sqlx::Error)> {
        let connected = PgConnection::connect_with(&self.options()).await;
        let mut connection = connected.map_err(|error| ("connecting", error))?;
        for statement in sql::statements(sql) {
            let done = sqlx::raw_sql(statement).execute(&mut connection).await;
            done.map_err(|error| (statement, error))?;
        }
        connection.close().await.map_err(|error| ("closing", error))
    }

    /// Runs a statement on the maintenance database, and retries it if the server asks for that.
    async fn administer(&self, statement: String) -> Result<(), sqlx::Error> {
        let mut retries = 0..20;
        loop {
            match execute(&self.maintenance, statement.clone()).await {
                Err(error) if is_transient(&error) && retries.next().is_some() => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                result => return result,
            }
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("kind", &self.kind)
            .field("url", &url::without_password(&self.url))
            .finish_non_exhaustive()
    }
}

async fn execute(options: &PgConnectOptions, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    connection.close().await
}

/// The template is being copied, or a schema change conflicts with another one.
fn is_transient(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55006" | "40001"))
}

/// The end of `hint` as a part of a name. The end is what distinguishes tests.
fn sanitised(hint: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    let name: String = hint.chars().map(plain).collect();
    let end = name
        .get(name.len().saturating_sub(40)..)
        .unwrap_or_default();
    format!("t_{}", end.trim_matches('_'))
}

#[cfg(test)]
mod tests {
    use super::sanitised;

    #[test]
    fn database_names_are_plain_and_short() {
        assert_eq!(sanitised("retry::Gives up"), "t_retry__gives_up");
        assert_eq!(sanitised("ä\"; --"), "t_");
        assert_eq!(sanitised(&"x".repeat(99)).len(), 42);
    }
}
