use crate::{
    blocking::block_on, cockroach, database::Database, error::StartError, find, postgres::Postgres,
    url, watchdog::Watchdog,
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use std::{
    env, fmt,
    io::{self, Write},
    process,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The database system of a [`Server`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    PostgreSql,
    /// CockroachDB.
    CockroachDb,
}

/// How [`Server::restart`] stops a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Disconnects the clients, rolls their transactions back and stops cleanly.
    Fast,
    /// Stops as if it had crashed and recovers at the next start.
    Immediate,
}

/// A database server: the one that `DATABASE_URL` names, or one that we started.
///
/// Dropping one that we started stops it, removes its files and waits until that is done.
pub struct Server {
    kind: Kind,
    version: String,
    url: String,
    options: PgConnectOptions,
    process: Process,
}

impl Server {
    /// Connects to the server of `DATABASE_URL` or starts one of our own, as the [crate docs](crate) say.
    ///
    /// Blocks until the server takes connections.
    ///
    /// # Errors
    ///
    /// When there is no server, or when the one there is cannot be reached or started.
    pub fn start() -> Result<Self, StartError> {
        if let Some(url) = env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()) {
            return Self::connect(url, Process::Foreign);
        }
        if let Some(program) = find::cockroach() {
            let (node, url) = cockroach::start(&program)?;
            return Self::connect(url, Process::Cockroach(Mutex::new(node)));
        }
        if let Some(programs) = find::postgres() {
            return Self::postgres(Postgres::start(&programs)?);
        }
        Err(StartError::not_found())
    }

    /// The one server of this process, started by the first call, which also says on stderr what it is.
    ///
    /// Ends the process with the message of the [`StartError`] when there is none: no test could run.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let server = Self::start();
            // Not `eprintln`, which the test harness swallows when the test passes.
            let _ = match &server {
                Ok(server) => writeln!(io::stderr(), "database: {server}"),
                Err(error) => writeln!(io::stderr(), "{error}"),
            };
            server.unwrap_or_else(|_| process::exit(1))
        })
    }

    /// The database system.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the server answers to `SELECT version()`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// To the server's maintenance database.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// To the server's maintenance database, with the password if there is one.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Whether we started it, so that it and its databases go when this process ends.
    pub fn is_ours(&self) -> bool {
        !matches!(self.process, Process::Foreign)
    }

    /// Creates an empty database with a name of its own, of which `hint` becomes a part.
    ///
    /// # Errors
    ///
    /// When the server refuses, other than for a moment.
    pub async fn create_database(&self, hint: &str) -> Result<Database, sqlx::Error> {
        Database::create(self, hint).await
    }

    /// Stops a PostgreSQL server that we started and starts it again, on the same port with the same data.
    ///
    /// Blocks until it takes connections again.
    ///
    /// # Errors
    ///
    /// Of kind [`Unsupported`](io::ErrorKind::Unsupported) for any other server. A CockroachDB in memory would come back
    /// empty.
    pub fn restart(&self, shutdown: Shutdown) -> io::Result<()> {
        let Process::Postgres(postgres) = &self.process else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut postgres = postgres.lock().unwrap_or_else(PoisonError::into_inner);
        postgres.restart(shutdown)
    }

    /// Starts a hot standby that follows this server, when it is a PostgreSQL that we started, else `None`.
    ///
    /// # Panics
    ///
    /// When the standby does not start.
    #[allow(clippy::panic, reason = "the harness of a test")]
    pub fn standby(&self) -> Option<Self> {
        let Process::Postgres(postgres) = &self.process else {
            return None;
        };
        let standby = postgres
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .standby();
        match standby.map_err(StartError::from).and_then(Self::postgres) {
            Ok(standby) => Some(standby),
            Err(error) => panic!("no standby: {error}"),
        }
    }

    fn postgres(postgres: Postgres) -> Result<Self, StartError> {
        Self::connect(postgres.url(), Process::Postgres(Mutex::new(postgres)))
    }

    fn connect(url: String, process: Process) -> Result<Self, StartError> {
        let explain = |error: &dyn fmt::Display| {
            StartError::new(format!(
                "no database at {}: {error}",
                url::without_password(&url)
            ))
        };
        let options: PgConnectOptions =
            url.parse().map_err(|error: sqlx::Error| explain(&error))?;
        let patience = match process {
            Process::Foreign => Duration::ZERO,
            // It listens before it answers.
            Process::Cockroach(_) | Process::Postgres(_) => Duration::from_secs(30),
        };
        let version = block_on(version(&options, patience))?.map_err(|error| explain(&error))?;
        let kind = if version.contains("CockroachDB") {
            Kind::CockroachDb
        } else {
            Kind::PostgreSql
        };
        Ok(Self {
            kind,
            version,
            url,
            options,
            process,
        })
    }
}

/// Name, version and origin, such as `PostgreSQL 15.18, started for this run`.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // "PostgreSQL 17.2 on x86_64 …", "PostgreSQL 15.18 (Debian …) on …", "CockroachDB CCL v26.2.1 (x86_64 …)"
        let name = self.version.split(" (").next().unwrap_or_default();
        let name = name.split(" on ").next().unwrap_or_default();
        if self.is_ours() {
            write!(f, "{name}, started for this run")
        } else {
            write!(
                f,
                "{name}, at DATABASE_URL ({})",
                url::without_password(&self.url)
            )
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("kind", &self.kind)
            .field("url", &url::without_password(&self.url))
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// What we hold of a server.
#[derive(Debug)]
enum Process {
    Foreign,
    Cockroach(#[allow(dead_code, reason = "held for its drop")] Mutex<Watchdog>),
    Postgres(Mutex<Postgres>),
}

async fn version(options: &PgConnectOptions, patience: Duration) -> Result<String, sqlx::Error> {
    let deadline = Instant::now() + patience;
    loop {
        match ask_version(options).await {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(50)).await,
            answer => return answer,
        }
    }
}

async fn ask_version(options: &PgConnectOptions) -> Result<String, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    let version = sqlx::query_scalar("SELECT version()")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(version)
}
