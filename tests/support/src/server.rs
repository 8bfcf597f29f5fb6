use crate::{
    blocking::block_on, cockroach, database::Database, embedded, error::StartError, find,
    postgres::Postgres, url, watchdog::Watchdog,
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

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PostgreSql => "PostgreSQL",
            Self::CockroachDb => "CockroachDB",
        })
    }
}

/// How [`Server::restart`] stops a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Terminates the sessions, rolls their transactions back and stops cleanly.
    Fast,
    /// Stops as in a crash, and recovers at the next start.
    Immediate,
}

/// A database server: the one of `DATABASE_URL`, or one that this process started.
///
/// When a server that this process started is dropped, it is stopped and its files are removed.
pub struct Server {
    kind: Kind,
    version: String,
    url: String,
    options: PgConnectOptions,
    process: Process,
}

impl Server {
    /// Connects to the server of `DATABASE_URL` or starts one, as the [crate docs](crate) describe.
    ///
    /// Blocks until the server accepts connections.
    ///
    /// # Errors
    ///
    /// If there is no server, or it cannot be reached or started.
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
        let programs = embedded::postgres().map_err(|reason| StartError::not_found(&reason))?;
        Self::postgres(Postgres::start(&programs)?)
    }

    /// The server of this process. The first call starts it and prints its version to stderr.
    ///
    /// Without a server it ends the process with the message of the [`StartError`].
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| {
            let server = Self::start();
            // The test harness hides the output of `eprintln` in a test that passes.
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

    /// The result of `SELECT version()`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The URL of its maintenance database.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// The options for its maintenance database, with the password if there is one.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Whether this process started it, so that it is removed when this process ends.
    pub fn is_ours(&self) -> bool {
        !matches!(self.process, Process::Foreign)
    }

    /// Creates an empty database. Its name is unique and contains a part of `hint`.
    ///
    /// # Errors
    ///
    /// If the server rejects it permanently.
    pub async fn create_database(&self, hint: &str) -> Result<Database, sqlx::Error> {
        Database::create(self, hint).await
    }

    /// Restarts a PostgreSQL server that this process started, with the same port and data.
    ///
    /// Blocks until it accepts connections.
    ///
    /// # Errors
    ///
    /// Fails with [`Unsupported`](io::ErrorKind::Unsupported) for any other server. A CockroachDB
    /// in memory would lose its data.
    pub fn restart(&self, shutdown: Shutdown) -> io::Result<()> {
        let Process::Postgres(postgres) = &self.process else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let mut postgres = postgres.lock().unwrap_or_else(PoisonError::into_inner);
        postgres.restart(shutdown)
    }

    /// Starts a hot standby of a PostgreSQL server that this process started. `None` for any other.
    ///
    /// # Panics
    ///
    /// If the standby does not start.
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
            // It listens before it accepts statements.
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
        // "PostgreSQL 17.2 on x86_64 …", "PostgreSQL 15.18 (Debian …) on …", "CockroachDB CCL
        // v26.2.1 (x86_64 …)"
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

/// The handle of a server.
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
            connected => return connected,
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
