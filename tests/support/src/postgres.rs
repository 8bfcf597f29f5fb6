//! PostgreSQL on a cluster of its own.

use crate::{account::Account, server::Shutdown, watchdog::Watchdog};
use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

/// A PostgreSQL server that this crate started.
#[derive(Debug)]
pub(crate) struct Postgres {
    programs: PathBuf,
    port: u16,
    watchdog: Watchdog,
}

impl Postgres {
    /// Starts the server in the folder `programs` on a new cluster.
    pub(crate) fn start(programs: &Path) -> io::Result<Self> {
        Self::start_from(programs, INITDB)
    }

    /// Starts a hot standby of this server.
    pub(crate) fn standby(&self) -> io::Result<Self> {
        let backup = format!("pg_basebackup -h 127.0.0.1 -p {} {BASEBACKUP}", self.port);
        Self::start_from(&self.programs, &backup)
    }

    /// Stops the server and starts it again on the same cluster and port.
    pub(crate) fn restart(&mut self, shutdown: Shutdown) -> io::Result<()> {
        self.watchdog.restart(match shutdown {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
        })?;
        self.watchdog.wait_until(is_ready)
    }

    /// The URL of one of its databases, as a superuser.
    pub(crate) fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/postgres?sslmode=disable",
            self.port
        )
    }

    /// Starts a server on the cluster that the shell command `create` leaves in `./data`.
    fn start_from(programs: &Path, create: &str) -> io::Result<Self> {
        let account = Account::to_switch_to()?;
        let mut retries = 0..2;
        loop {
            let port = free_port()?;
            let watchdog = Watchdog::start("QUIT", account, |command| {
                environment(command, programs);
                command.args(["sh", "-c", &script(create, port)]);
            })?;
            match watchdog.wait_until(is_ready) {
                Ok(()) => {
                    return Ok(Self {
                        programs: programs.to_owned(),
                        port,
                        watchdog,
                    });
                }
                // Another process may have taken the port meanwhile.
                Err(error) if error.kind() == ErrorKind::Other && retries.next().is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the server has written into its lock file that it accepts connections.
///
/// A connection could reach another server. The file belongs to this one.
fn is_ready(watchdog: &Watchdog) -> Option<()> {
    let file = fs::read_to_string(watchdog.folder().join("data/postmaster.pid")).ok()?;
    let lines: Vec<_> = file.lines().map(str::trim).collect();
    let own = lines.first()? == &watchdog.server().to_string();
    (own && lines.get(7)? == &"ready").then_some(())
}

/// `exec` keeps the process id that the watchdog knows.
fn script(create: &str, port: u16) -> String {
    format!(
        "[ -e data/PG_VERSION ] || {create} || exit
        exec postgres -D data -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=\"$PWD\" {SETTINGS}"
    )
}

/// Removes the user's settings for PostgreSQL programs.
fn environment(command: &mut Command, programs: &Path) {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }

    let mut path = OsString::from(programs);
    if let Some(rest) = env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    command
        .env("PATH", path)
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
}

fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

const INITDB: &str = "initdb -D data -U postgres --auth=trust --encoding=UTF8 --locale=C --no-sync --no-instructions";
const BASEBACKUP: &str =
    "-D data -U postgres --checkpoint=fast --wal-method=stream --write-recovery-conf --no-sync";

/// The data must survive a crash of the server, but not of the machine.
const SETTINGS: &str = "-c fsync=off -c full_page_writes=off -c max_connections=300";
