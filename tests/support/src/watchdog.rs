//! A server process that does not outlive this process, and neither does its folder.

use crate::{account::Account, random};
use std::{
    env, fs,
    io::{self, BufRead, BufReader, ErrorKind, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// The handle of the `sh` process of `watchdog.sh`, which owns the server and its folder.
///
/// The pipe to it keeps the server alive. This process has its only writing end, which no child
/// inherits. The pipe closes when this value is dropped or this process ends.
#[derive(Debug)]
pub(crate) struct Watchdog {
    shell: Child,
    pipe: Option<ChildStdin>,
    events: Receiver<Event>,
    folder: PathBuf,
    server: u32,
}

impl Watchdog {
    /// Starts a server in a new folder. `signal` stops it.
    ///
    /// `command` adds the program, its arguments and its environment. The folder is its working
    /// directory.
    pub(crate) fn start(
        signal: &str,
        account: Option<Account>,
        command: impl FnOnce(&mut Command),
    ) -> io::Result<Self> {
        let folder = parent(account).join(format!("interlock-{}", random()));
        let mut shell = Command::new("sh");
        shell
            .args(["-c", include_str!("watchdog.sh"), "watchdog"])
            .arg(&folder)
            .arg(signal)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        if let Some(account) = account {
            account.apply(&mut shell);
        }
        command(&mut shell);

        let mut shell = shell.spawn()?;
        let mut watchdog = Self {
            pipe: shell.stdin.take(),
            events: events(shell.stdout.take()),
            shell,
            folder,
            server: 0,
        };
        watchdog.server = watchdog.started()?;
        Ok(watchdog)
    }

    /// The folder of the server's files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process id of the server.
    pub(crate) fn server(&self) -> u32 {
        self.server
    }

    /// Calls `ready` until it returns a value, the server has exited or the time is over.
    ///
    /// The error holds the end of the server's log. It is of kind `TimedOut` only in the last case.
    pub(crate) fn wait_until<T>(&self, ready: impl Fn(&Self) -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            match self.events.recv_timeout(POLL) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(RecvTimeoutError::Timeout) => return Err(self.error(ErrorKind::TimedOut)),
                _ => return Err(self.error(ErrorKind::Other)),
            }
        }
    }

    /// Stops the server with `signal` and restarts it.
    pub(crate) fn restart(&mut self, signal: &str) -> io::Result<()> {
        self.send_line(signal)?;
        let Ok(Event::Exited) = self.events.recv_timeout(STOP_TIMEOUT) else {
            return Err(self.error(ErrorKind::TimedOut));
        };
        self.send_line("")?;
        self.server = self.started()?;
        Ok(())
    }

    fn send_line(&mut self, line: &str) -> io::Result<()> {
        let pipe = self.pipe.as_mut().ok_or(ErrorKind::BrokenPipe)?;
        writeln!(pipe, "{line}")
    }

    fn started(&self) -> io::Result<u32> {
        match self.events.recv_timeout(START_TIMEOUT) {
            Ok(Event::Started(server)) => Ok(server),
            _ => Err(self.error(ErrorKind::Other)),
        }
    }

    /// An error with the end of the server's log.
    fn error(&self, kind: ErrorKind) -> io::Error {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let end = lines
            .get(lines.len().saturating_sub(20)..)
            .unwrap_or_default();
        io::Error::new(
            kind,
            format!("the database server does not come up\n{}", end.join("\n")),
        )
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.shell.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
    }
}

/// A line of the watchdog's standard output.
#[derive(Debug)]
enum Event {
    Started(u32),
    Exited,
}

fn events(output: Option<ChildStdout>) -> Receiver<Event> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = output.into_iter().flat_map(|it| BufReader::new(it).lines());
        for line in lines.map_while(Result::ok) {
            let event = line.parse().map_or(Event::Exited, Event::Started);
            if sender.send(event).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The parent of the folder. The server's account can access it, and the path of a socket is short.
fn parent(account: Option<Account>) -> PathBuf {
    let folder = env::temp_dir();
    if account.is_none() && folder.as_os_str().len() < 70 {
        folder
    } else {
        PathBuf::from("/tmp")
    }
}

const POLL: Duration = Duration::from_millis(10);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
