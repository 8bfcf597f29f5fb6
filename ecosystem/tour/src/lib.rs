//! What the tours share: a database, requests with an expected response, the race.
//!
//! A tour is the `main` of an example: it sends requests to the service above it, and fails if a
//! response is not the expected one. Nothing of this crate is needed to use tower-interlock.

use std::error::Error;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{self, Request, Response, StatusCode},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use support::{Database, Server};
use tower::ServiceExt as _;
use tower_interlock::{Interlock, Tx, schema::SERIALIZABLE_GUARD};
use tower_interlock_audit::{Race, Wire};
use tracing_subscriber::{filter::Targets, fmt, prelude::*, registry};

pub use support::Kind;

/// The result of a tour.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A database for one tour.
pub struct Tour {
    database: Database,
    wire: Wire,
    role: Option<String>,
    // Dropped last: it stops the server, if the tour has started it.
    _server: Server,
}

impl Tour {
    /// Creates a database on the server of `DATABASE_URL`, or on one that it starts.
    ///
    /// On PostgreSQL only SERIALIZABLE transactions may change the tables of `permissions`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no server, or it rejects something.
    pub async fn start(
        name: &str,
        schema: &'static str,
        permissions: &[&'static str],
    ) -> Result<Self> {
        // The log has the causes, which no response has. Unless the example has a log of its own.
        let log = fmt::layer().without_time().with_ansi(false);
        let targets: Targets = "warn,sqlx=error".parse()?;
        let _ = registry().with(log).with(targets).try_init();
        let server = Server::start()?;
        println!("database: {server}");
        let database = server.create_database(name).await?;
        database.run(schema).await;
        let tour = Self {
            wire: Wire::to(database.options()).await?,
            database,
            role: None,
            _server: server,
        };
        tour.guard(permissions).await?;
        Ok(tour)
    }

    /// The database system.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.database.kind()
    }

    /// The options for the pool of the service.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.wire.options()
    }

    /// Runs statements one by one, each in a transaction of its own.
    pub async fn run(&self, sql: &'static str) {
        self.database.run(sql).await;
    }

    /// Lets only SERIALIZABLE transactions change these tables. CockroachDB has no other ones.
    ///
    /// # Errors
    ///
    /// Returns the error of the server.
    pub async fn guard(&self, tables: &[&str]) -> Result {
        if self.kind() == Kind::CockroachDb {
            return Ok(());
        }
        self.run(SERIALIZABLE_GUARD).await;
        for table in tables {
            self.administer(format!(
                "CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
                     ON {table} FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
                 ALTER TABLE {table} ENABLE ALWAYS TRIGGER interlock_guard"
            ))
            .await?;
        }
        Ok(())
    }

    /// Creates a role with these privileges, and returns the options for a pool of that role.
    ///
    /// # Errors
    ///
    /// Returns the error of the server.
    pub async fn create_role(&mut self, privileges: &str) -> Result<PgConnectOptions> {
        let role = self.database.name().to_owned();
        self.administer(format!("CREATE ROLE {role}; GRANT {privileges} TO {role}")).await?;
        let options = self.options().options([("role", &role)]);
        self.role = Some(role);
        Ok(options)
    }

    /// Changes something as an administrator does, in a SERIALIZABLE transaction.
    ///
    /// # Errors
    ///
    /// Returns the error of the statement.
    pub async fn change(&self, sql: &'static str) -> Result {
        let administrator = Interlock::connect_with(self.database.options(), 1).build();
        administrator
            .transact(async |mut tx: Tx| {
                sqlx::query(sql).execute(&mut tx).await?;
                Ok::<_, tower_interlock::Error>(())
            })
            .await?;
        println!("  changed: {}", in_one_line(sql));
        Ok(())
    }

    /// Reads one value as an administrator does.
    ///
    /// # Errors
    ///
    /// Returns the error of the query.
    pub async fn read<T>(&self, sql: &'static str) -> Result<T>
    where
        T: Send + Unpin + sqlx::Type<sqlx::Postgres> + for<'r> sqlx::Decode<'r, sqlx::Postgres>,
    {
        let mut connection = PgConnection::connect_with(&self.database.options()).await?;
        let value = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(value)
    }

    /// Revokes a permission before each statement of a request, and proves by the rows of `effect`
    /// that it was not used to write after that.
    ///
    /// # Errors
    ///
    /// Returns an error if the permission was used to write, or if the race proves nothing.
    pub async fn race(
        &self,
        app: &Router,
        request: impl Fn() -> http::Result<Request<Body>> + 'static,
        revocation: Revocation,
    ) -> Result {
        let Revocation { prepare, revoke, effect } = revocation;
        request()?;
        println!("revoked at each point of the request:");
        let verdict = Race::of(app.clone(), &self.wire)
            .request(move || request().unwrap_or_default())
            .prepare(async move |tx| sqlx::raw_sql(prepare).execute(tx).await)
            .revoke(async move |tx| sqlx::raw_sql(revoke).execute(tx).await)
            .effect(effect)
            .run()
            .await?;
        for line in verdict.to_string().lines() {
            println!("  {:.100}", in_one_line(line));
        }
        if !verdict.is_safe() {
            return Err("a revoked permission was used to write".into());
        }
        Ok(())
    }

    /// Drops the database.
    ///
    /// # Errors
    ///
    /// Returns an error if the server rejects it.
    pub async fn end(self) -> Result {
        if let Some(role) = &self.role {
            self.administer(format!("DROP OWNED BY {role}; DROP ROLE {role}")).await?;
        }
        Ok(self.database.drop().await?)
    }

    async fn administer(&self, sql: String) -> Result {
        let mut connection = PgConnection::connect_with(&self.database.options()).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }
}

/// The statements of a race.
pub struct Revocation {
    /// Gives the permission, and undoes the write.
    pub prepare: &'static str,
    /// Revokes the permission.
    pub revoke: &'static str,
    /// Reads what the request writes.
    pub effect: &'static str,
}

/// Sends a request, prints its response, and returns it.
///
/// # Errors
///
/// Returns an error if the status is not the expected one.
pub async fn send(
    app: &Router,
    title: &str,
    request: http::Result<Request<Body>>,
    expected: StatusCode,
) -> Result<Response<String>> {
    let (parts, body) = app.clone().oneshot(request?).await?.into_parts();
    let body = to_bytes(body, usize::MAX).await?;
    let body = String::from_utf8(body.into())
        .unwrap_or_else(|binary| format!("({} bytes)", binary.as_bytes().len()));
    println!("  {title}: {} {}", parts.status, summary(&body));
    if parts.status == expected {
        Ok(Response::from_parts(parts, body))
    } else {
        Err(format!("{title}: expected {expected}").into())
    }
}

/// The code of a problem document, or the first line.
fn summary(body: &str) -> &str {
    let code = body.rsplit_once(r#","code":""#).map(|(_, code)| code);
    code.and_then(|code| code.strip_suffix("\"}"))
        .unwrap_or(body.lines().next().unwrap_or_default())
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
