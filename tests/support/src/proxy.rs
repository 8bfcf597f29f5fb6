//! A man in the middle who knows the PostgreSQL protocol.

mod connection;
mod fault;
mod message;
mod outlet;

use self::connection::Connection;
use crate::database::Database;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{
    fmt,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

pub use self::fault::{Fault, Moment, ServerError};

/// Stands between clients and a server, passes their messages on, counts them, and does what it is told to at the moment
/// that it is told.
///
/// It runs on threads of its own, so that it is exact to some 0.1 ms and no runtime under test has a part in it. It is
/// reached over TCP without TLS, and reaches the server in the same way. Dropped, it cuts every connection.
pub struct Proxy {
    address: SocketAddr,
    options: PgConnectOptions,
    shared: Arc<Shared>,
}

/// What has passed a [`Proxy`] so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were made.
    pub connections: usize,
    /// Round trips that had something to say, after those that make a connection.
    pub round_trips: usize,
    /// Round trips that only ask whether the server is there. sqlx makes one whenever a connection goes back into the
    /// pool, which nobody waits for.
    pub pings: usize,
    /// BEGINs, in whatever words.
    pub begins: usize,
    /// Statements that were executed and are none of the others.
    pub statements: usize,
    /// COMMITs.
    pub commits: usize,
    /// ROLLBACKs, but for those to a savepoint.
    pub rollbacks: usize,
    /// Faults that were brought about.
    pub faults: usize,
}

impl Proxy {
    /// In front of the server of `database`.
    ///
    /// # Panics
    ///
    /// When the system gives it no port, or the server is reached by a Unix socket only.
    pub fn start(database: &Database) -> Self {
        Self::with_delay(database, Duration::ZERO)
    }

    /// In front of the server of `database`, as far away as `round_trip` says.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    #[allow(clippy::panic, reason = "the harness of a test")]
    pub fn with_delay(database: &Database, round_trip: Duration) -> Self {
        Self::try_start(database.options(), round_trip / 2)
            .unwrap_or_else(|error| panic!("no proxy to {database:?}: {error}"))
    }

    fn try_start(server: PgConnectOptions, delay: Duration) -> io::Result<Self> {
        if server.get_socket().is_some() {
            return Err(ErrorKind::Unsupported.into());
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server: (server.get_host().to_owned(), server.get_port()),
            delay,
            strikes: Mutex::default(),
            counters: Counters::default(),
            connections: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self {
            address,
            options: server
                .host(&address.ip().to_string())
                .port(address.port())
                .ssl_mode(PgSslMode::Disable),
            shared,
        })
    }

    /// To the database, through the proxy.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Brings `fault` about when `moment` comes next, on whatever connection.
    pub fn inject(&self, moment: Moment, fault: Fault) {
        self.inject_times(1, moment, fault);
    }

    /// Brings `fault` about the next `times` that `moment` comes.
    pub fn inject_times(&self, times: usize, moment: Moment, fault: Fault) {
        let strike = Strike {
            moment,
            fault,
            left: times,
        };
        lock(&self.shared.strikes).push(strike);
    }

    /// Forgets the faults that have not been brought about yet.
    pub fn relent(&self) {
        lock(&self.shared.strikes).clear();
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        for connection in lock(&self.shared.connections).iter() {
            connection.cut();
        }
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let [
            connections,
            round_trips,
            pings,
            begins,
            statements,
            commits,
            rollbacks,
            faults,
        ] = [
            &counters.connections,
            &counters.round_trips,
            &counters.pings,
            &counters.begins,
            &counters.statements,
            &counters.commits,
            &counters.rollbacks,
            &counters.faults,
        ]
        .map(|counter| counter.load(Ordering::SeqCst));
        Counts {
            connections,
            round_trips,
            pings,
            begins,
            statements,
            commits,
            rollbacks,
            faults,
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
        self.cut();
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("address", &self.address)
            .field("server", &self.shared.server)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

/// What a proxy's connections have in common.
struct Shared {
    server: (String, u16),
    /// In each direction.
    delay: Duration,
    strikes: Mutex<Vec<Strike>>,
    counters: Counters,
    connections: Mutex<Vec<Connection>>,
    stopped: AtomicBool,
}

#[derive(Default)]
struct Counters {
    connections: AtomicUsize,
    round_trips: AtomicUsize,
    pings: AtomicUsize,
    begins: AtomicUsize,
    statements: AtomicUsize,
    commits: AtomicUsize,
    rollbacks: AtomicUsize,
    faults: AtomicUsize,
}

struct Strike {
    moment: Moment,
    fault: Fault,
    left: usize,
}

impl Shared {
    /// The fault that is due at a moment.
    fn strike(&self, is_now: impl Fn(&Moment) -> bool) -> Option<Fault> {
        let mut strikes = lock(&self.strikes);
        let due = strikes.iter().position(|strike| is_now(&strike.moment))?;
        let strike = strikes.get_mut(due)?;
        strike.left = strike.left.saturating_sub(1);
        let fault = strike.fault.clone();
        if strike.left == 0 {
            strikes.remove(due);
        }
        count(&self.counters.faults);
        Some(fault)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        // A server that is away is for the client to notice.
        let connected = client.and_then(|client| Connection::open(client, shared));
        if let Ok(connection) = connected {
            count(&shared.counters.connections);
            let mut connections = lock(&shared.connections);
            connections.retain(Connection::is_open);
            connections.push(connection);
        }
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::SeqCst);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
