//! A proxy that understands the PostgreSQL protocol.

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

/// A proxy between clients and a server that relays and counts messages and injects faults.
///
/// It runs on threads of its own. That makes it exact to about 0.1 ms, and independent of the
/// runtime under test. Both sides use TCP without TLS. When it is dropped, it cuts every
/// connection.
pub struct Proxy {
    address: SocketAddr,
    options: PgConnectOptions,
    shared: Arc<Shared>,
}

/// The counts of what passed a [`Proxy`] so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were opened.
    pub connections: usize,
    /// Round trips, without those that open a connection and without pings.
    pub round_trips: usize,
    /// Round trips that only test the connection. sqlx makes one in the background whenever a
    /// connection returns to the pool.
    pub pings: usize,
    /// BEGINs in any form.
    pub begins: usize,
    /// Looks at what a policy reads. They count as nothing else.
    pub looks: usize,
    /// Other statements that were executed.
    pub statements: usize,
    /// COMMITs.
    pub commits: usize,
    /// ROLLBACKs, except those to a savepoint.
    pub rollbacks: usize,
    /// Faults that were injected.
    pub faults: usize,
}

impl Proxy {
    /// Starts a proxy in front of the server of `database`.
    ///
    /// # Panics
    ///
    /// If there is no free port, or the server only has a Unix socket.
    pub fn start(database: &Database) -> Self {
        Self::with_delay(database, Duration::ZERO)
    }

    /// Starts a proxy that adds the latency `round_trip`.
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

    /// The options for a connection to the database through the proxy.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Injects `fault` at the next `moment`, on any connection.
    pub fn inject(&self, moment: Moment, fault: Fault) {
        self.inject_times(1, moment, fault);
    }

    /// Injects `fault` at the next `times` occurrences of `moment`.
    pub fn inject_times(&self, times: usize, moment: Moment, fault: Fault) {
        let strike = Strike {
            moment,
            fault,
            farewell: None,
            left: times,
        };
        lock(&self.shared.strikes).push(strike);
    }

    /// Injects `fault` at the next `moment`. After its reply the server sends `farewell`, which no
    /// request has asked for, and closes the connection, as a CockroachDB node that drains does.
    /// `Fault::Delay(Duration::ZERO)` leaves the reply as it is.
    pub fn inject_farewell(&self, moment: Moment, fault: Fault, farewell: ServerError) {
        let strike = Strike {
            moment,
            fault,
            farewell: Some(farewell),
            left: 1,
        };
        lock(&self.shared.strikes).push(strike);
    }

    /// Sends `farewell`, which no request has asked for, on every connection, and closes it.
    pub fn dismiss(&self, farewell: &ServerError) {
        for connection in lock(&self.shared.connections).iter() {
            connection.dismiss(farewell);
        }
    }

    /// Forgets the faults that were not injected yet.
    pub fn relent(&self) {
        lock(&self.shared.strikes).clear();
    }

    /// Cuts every connection.
    pub fn cut(&self) {
        for connection in lock(&self.shared.connections).iter() {
            connection.cut();
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let [
            connections,
            round_trips,
            pings,
            begins,
            looks,
            statements,
            commits,
            rollbacks,
            faults,
        ] = [
            &counters.connections,
            &counters.round_trips,
            &counters.pings,
            &counters.begins,
            &counters.looks,
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
            looks,
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
        // Wakes the accepting thread.
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

/// The state that the connections of a proxy share.
struct Shared {
    server: (String, u16),
    /// The delay in each direction.
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
    looks: AtomicUsize,
    statements: AtomicUsize,
    commits: AtomicUsize,
    rollbacks: AtomicUsize,
    faults: AtomicUsize,
}

struct Strike {
    moment: Moment,
    fault: Fault,
    /// The message that the server sends after the response, before it closes the connection.
    farewell: Option<ServerError>,
    left: usize,
}

impl Shared {
    /// The fault to inject at a moment, and what the server sends after its reply.
    fn strike(&self, is_now: impl Fn(&Moment) -> bool) -> Option<(Fault, Option<ServerError>)> {
        let mut strikes = lock(&self.strikes);
        let due = strikes.iter().position(|strike| is_now(&strike.moment))?;
        let strike = strikes.get_mut(due)?;
        strike.left = strike.left.saturating_sub(1);
        let due_now = (strike.fault.clone(), strike.farewell.clone());
        if strike.left == 0 {
            strikes.remove(due);
        }
        count(&self.counters.faults);
        Some(due_now)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        // The client notices that the server is unavailable.
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
