//! A server and its files do not outlive the process that started it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use sqlx::{PgPool, postgres::PgConnectOptions};
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{Kind, Server};

#[test]
fn dropped_server_is_stopped() {
    let Some(server) = own_server() else { return };
    let traces = Traces::of(&server);
    assert!(traces.complete(), "{traces:?}");
    drop(server);
    assert!(traces.gone(), "{traces:?}");
}

#[test]
fn crashed_server_leaves_no_files() {
    let Some(server) = own_server() else { return };
    let traces = Traces::of(&server);
    if let Some(folder) = &traces.folder {
        let lock = fs::read_to_string(folder.join("data/postmaster.pid")).unwrap();
        kill(lock.lines().next().unwrap());
        drop(server);
        assert!(traces.gone(), "{traces:?}");
    }
}

#[test]
fn normal_exit_leaves_no_server() {
    let Some(mut other) = Other::start("exit") else {
        return;
    };
    assert!(other.process.wait().unwrap().success());
    other.traces.assert_going();
}

#[test]
fn sigkill_leaves_no_server() {
    let Some(mut other) = Other::start("stay") else {
        return;
    };
    assert!(other.traces.complete(), "{:?}", other.traces);
    other.process.kill().unwrap();
    other.process.wait().unwrap();
    other.traces.assert_going();

    // The child process was still alive, and kept nothing alive.
    kill(&other.child);
}

/// The tests above run this in another process. It does nothing by itself.
#[test]
fn other_process() {
    let Ok(role) = env::var(ROLE) else { return };
    let traces = Traces::of(Server::shared());
    let folder = traces.folder.unwrap_or_default();
    let report = |child| println!("\n{MARK} {} {} {child}", traces.port, folder.display());
    if role == "exit" {
        return report(0);
    }

    let mut child = Command::new("sleep");
    let mut child = child.arg("60").stdout(Stdio::null()).spawn().unwrap();
    report(child.id());
    child.wait().unwrap();
}

/// A process that has started a server.
struct Other {
    process: Child,
    traces: Traces,
    /// The process id of a child process of it.
    child: String,
}

impl Other {
    /// Runs `other_process` in another process.
    fn start(role: &str) -> Option<Self> {
        if env::var("DATABASE_URL").is_ok_and(|url| !url.is_empty()) {
            not_tested();
            return None;
        }

        let mut process = Command::new(env::current_exe().unwrap())
            .args(["--exact", "other_process", "--nocapture"])
            .env(ROLE, role)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.find_map(|line| Some(line.ok()?.strip_prefix(MARK)?.to_owned()));
        // The test harness of the other process still prints something.
        thread::spawn(|| lines.for_each(drop));

        let line = line.unwrap();
        let mut words = line.trim_start().split(' ');
        let mut word = || words.next().unwrap().to_owned();
        let port = word().parse().unwrap();
        let folder = Some(word()).filter(|it| !it.is_empty()).map(PathBuf::from);
        let traces = Traces { port, folder };
        Some(Self {
            process,
            traces,
            child: word(),
        })
    }
}

/// The visible traces of a server.
#[derive(Debug)]
struct Traces {
    port: u16,
    /// Only for PostgreSQL.
    folder: Option<PathBuf>,
}

impl Traces {
    fn of(server: &Server) -> Self {
        let postgres = server.kind() == Kind::PostgreSql;
        Self {
            port: server.options().get_port(),
            folder: postgres.then(|| folder(server.options())),
        }
    }

    fn complete(&self) -> bool {
        self.listens() && self.folder.as_ref().is_none_or(|it| it.exists())
    }

    fn gone(&self) -> bool {
        !self.listens() && self.folder.as_ref().is_none_or(|it| !it.exists())
    }

    fn assert_going(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.gone() {
            assert!(Instant::now() < deadline, "still there: {self:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn listens(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }
}

#[tokio::main(flavor = "current_thread")]
async fn folder(options: PgConnectOptions) -> PathBuf {
    let pool = PgPool::connect_with(options).await.unwrap();
    let query = sqlx::query_scalar("SHOW data_directory");
    let data: String = query.fetch_one(&pool).await.unwrap();
    PathBuf::from(data).parent().unwrap().to_owned()
}

fn own_server() -> Option<Server> {
    let server = Server::start().unwrap();
    if server.is_ours() {
        return Some(server);
    }
    not_tested();
    None
}

fn not_tested() {
    let _ = writeln!(
        io::stderr(),
        "not tested: the server of DATABASE_URL is not ours to stop"
    );
}

fn kill(process: &str) {
    let status = Command::new("kill").args(["-s", "KILL", process]).status();
    assert!(status.unwrap().success());
}

const ROLE: &str = "SUPPORT_TEST_ROLE";
const MARK: &str = "traces:";
