//! One connection through the proxy: a thread in each direction.

use super::{
    Shared, count,
    fault::{Fault, Moment, ServerError},
    lock,
    message::{Message, Opening},
    outlet::Outlet,
};
use std::{
    collections::{HashMap, VecDeque},
    io::{self, BufReader, ErrorKind, Write as _},
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Both ends of a connection.
#[derive(Clone)]
pub(super) struct Connection {
    client: Arc<TcpStream>,
    server: Arc<TcpStream>,
    open: Arc<AtomicBool>,
}

impl Connection {
    /// Connects `client` to the server.
    pub(super) fn open(client: TcpStream, shared: &Arc<Shared>) -> io::Result<Self> {
        let (host, port) = &shared.server;
        let server = TcpStream::connect((host.as_str(), *port))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let connection = Self {
            client: Arc::new(client),
            server: Arc::new(server),
            open: Arc::new(AtomicBool::new(true)),
        };
        let awaited = Arc::new(Mutex::new(VecDeque::new()));
        let requests = Requests {
            client: Arc::clone(&connection.client),
            server: Outlet::new(Arc::clone(&connection.server), shared.delay),
            shared: Arc::clone(shared),
            awaited: Arc::clone(&awaited),
            texts: HashMap::new(),
            statements: None,
        };
        let answers = Answers {
            server: Arc::clone(&connection.server),
            client: Outlet::new(Arc::clone(&connection.client), shared.delay),
            shared: Arc::clone(shared),
            awaited,
        };
        connection.spawn(|| requests.run());
        connection.spawn(|| answers.run());
        Ok(connection)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        // Cut already, if it fails.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    /// Passes messages on, and cuts the connection when that is over.
    fn spawn(&self, direction: impl FnOnce() -> io::Result<()> + Send + 'static) {
        let connection = self.clone();
        thread::spawn(move || {
            // However it ends, there is nobody to be told but the two ends.
            drop(direction());
            connection.cut();
        });
    }
}

/// What the client asks for, up to the message that makes the server say when it is ready again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Ping,
    Prepare,
    Begin,
    Statement,
    Commit,
    Rollback,
    /// ROLLBACK and BEGIN at once.
    Restart,
}

impl Step {
    fn of(text: &str) -> Self {
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let first = words.find(|word| !word.is_empty()).unwrap_or_default();
        let second = words.find(|word| !word.is_empty()).unwrap_or_default();
        match first.to_ascii_uppercase().as_str() {
            "BEGIN" | "START" => Self::Begin,
            "COMMIT" | "END" => Self::Commit,
            "ABORT" => Self::Rollback,
            "ROLLBACK" if second.eq_ignore_ascii_case("BEGIN") => Self::Restart,
            "ROLLBACK" if !second.eq_ignore_ascii_case("TO") => Self::Rollback,
            _ => Self::Statement,
        }
    }
}

/// An answer that the server owes.
struct Awaited {
    step: Step,
    treatment: Treatment,
}

/// What the client gets in place of an answer.
enum Treatment {
    Relay,
    /// This error, and that the server is ready.
    Error(ServerError),
    /// This error, and the end of the connection.
    Terminate(ServerError),
    Cut,
    /// Nothing, now and later.
    Nothing,
}

/// From the client to the server.
struct Requests {
    client: Arc<TcpStream>,
    server: Outlet,
    shared: Arc<Shared>,
    awaited: Arc<Mutex<VecDeque<Awaited>>>,
    /// Of the prepared statements, by name.
    texts: HashMap<String, String>,
    /// Since BEGIN, while a transaction is open.
    statements: Option<usize>,
}

impl Requests {
    fn run(mut self) -> io::Result<()> {
        let client = Arc::clone(&self.client);
        let mut client = BufReader::new(&*client);
        loop {
            let opening = Opening::read(&mut client)?;
            if !opening.asks_for_encryption() {
                // It is answered like any request.
                self.request(opening.bytes(), Step::Open, "")?;
                break;
            }
            (&*self.client).write_all(b"N")?;
        }
        let mut request = Vec::new();
        let mut step = Step::Ping;
        let mut text = String::new();
        loop {
            let message = Message::read(&mut client)?;
            message.write_to(&mut request);
            match message.kind {
                b'P' => {
                    let mut strings = message.strings();
                    let name = strings.next().unwrap_or_default();
                    self.texts.insert(name, strings.next().unwrap_or_default());
                    step = Step::Prepare;
                }
                b'B' => {
                    let name = message.strings().nth(1).unwrap_or_default();
                    text = self.texts.get(&name).cloned().unwrap_or_default();
                }
                b'E' => step = Step::of(&text),
                b'Q' => {
                    text = message.strings().next().unwrap_or_default();
                    step = Step::of(&text);
                }
                b'C' if step == Step::Ping => step = Step::Prepare,
                // Sync, after what it belongs to.
                b'S' | b'D' | b'C' => {}
                // Nothing that is answered for itself: a password, a part of a COPY, the end.
                _ => {
                    self.server.send(std::mem::take(&mut request))?;
                    continue;
                }
            }
            if matches!(message.kind, b'Q' | b'S') {
                self.request(std::mem::take(&mut request), step, &text)?;
                step = Step::Ping;
                text.clear();
            }
        }
    }

    fn request(&mut self, request: Vec<u8>, step: Step, text: &str) -> io::Result<()> {
        let counters = &self.shared.counters;
        match step {
            Step::Begin => {
                self.statements = Some(0);
                count(&counters.begins);
            }
            Step::Statement => {
                self.statements = self.statements.map(|statements| statements + 1);
                count(&counters.statements);
            }
            Step::Commit => {
                self.statements = None;
                count(&counters.commits);
            }
            Step::Rollback => {
                self.statements = None;
                count(&counters.rollbacks);
            }
            Step::Restart => {
                self.statements = Some(0);
                count(&counters.rollbacks);
            }
            Step::Open | Step::Ping | Step::Prepare => {}
        }
        let nth = self.statements;
        let fault = self.shared.strike(|moment| match moment {
            Moment::Connect => step == Step::Open,
            Moment::Begin => matches!(step, Step::Begin | Step::Restart),
            Moment::Statement(n) => step == Step::Statement && nth == Some(*n),
            Moment::Text(part) => step == Step::Statement && text.contains(part),
            Moment::Commit => step == Step::Commit,
            Moment::Rollback => matches!(step, Step::Rollback | Step::Restart),
        });
        // What keeps its ROLLBACK from being done keeps its BEGIN from it, too.
        let done = matches!(fault, None | Some(Fault::Delay(_)));
        if step == Step::Restart && done {
            count(&counters.begins);
        }
        let treatment = match &fault {
            None | Some(Fault::Delay(_)) => Treatment::Relay,
            Some(Fault::CutBefore | Fault::CutSent | Fault::CutAfter) => Treatment::Cut,
            Some(Fault::Swallow | Fault::Stall) => Treatment::Nothing,
            Some(Fault::Refuse(error) | Fault::Misreport(error)) => Treatment::Error(error.clone()),
            Some(Fault::Terminate(error)) => Treatment::Terminate(error.clone()),
        };
        // Before the server can answer.
        lock(&self.awaited).push_back(Awaited { step, treatment });
        match fault {
            None | Some(Fault::Swallow | Fault::Misreport(_) | Fault::CutAfter) => {
                self.server.send(request)
            }
            Some(Fault::Delay(delay)) => {
                thread::sleep(delay);
                self.server.send(request)
            }
            Some(Fault::CutBefore) => Err(ErrorKind::ConnectionAborted.into()),
            Some(Fault::CutSent) => {
                self.server.send(request)?;
                Err(ErrorKind::ConnectionAborted.into())
            }
            // The thread rests until the client hangs up.
            Some(Fault::Stall) => io::copy(&mut &*self.client, &mut io::sink()).map(drop),
            // The server cannot be asked for anything yet.
            Some(Fault::Refuse(error) | Fault::Terminate(error)) if step == Step::Open => {
                (&*self.client).write_all(&error.message().bytes())?;
                Err(ErrorKind::ConnectionAborted.into())
            }
            Some(Fault::Refuse(_) | Fault::Terminate(_)) => {
                self.server.send(Message::query(refusal(step)).bytes())
            }
        }
    }
}

/// What the server is asked instead, so that it gets into the state that the refusal tells of.
fn refusal(step: Step) -> &'static str {
    match step {
        Step::Statement => "SELECT 1 / 0",
        Step::Commit | Step::Rollback | Step::Restart => "ROLLBACK",
        Step::Open | Step::Ping | Step::Prepare | Step::Begin => "SELECT 1",
    }
}

/// From the server to the client.
struct Answers {
    server: Arc<TcpStream>,
    client: Outlet,
    shared: Arc<Shared>,
    awaited: Arc<Mutex<VecDeque<Awaited>>>,
}

impl Answers {
    fn run(mut self) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        let mut server = BufReader::new(&*server);
        let mut answer = Vec::new();
        loop {
            let message = Message::read(&mut server)?;
            message.write_to(&mut answer);
            let ready = message.kind == b'Z';
            // What the server says unasked, it says before it closes.
            let relayed = {
                let awaited = lock(&self.awaited);
                let next = awaited.front().map(|awaited| &awaited.treatment);
                matches!(next, None | Some(Treatment::Relay))
            };
            if !ready {
                if relayed && server.buffer().is_empty() {
                    self.client.send(std::mem::take(&mut answer))?;
                }
                continue;
            }
            let answer = std::mem::take(&mut answer);
            let awaited = lock(&self.awaited).pop_front();
            let Some(Awaited { step, treatment }) = awaited else {
                self.client.send(answer)?;
                continue;
            };
            match step {
                Step::Open => {}
                Step::Ping => count(&self.shared.counters.pings),
                _ => count(&self.shared.counters.round_trips),
            }
            match treatment {
                Treatment::Relay => self.client.send(answer)?,
                Treatment::Error(error) => {
                    let mut instead = error.message().bytes();
                    message.write_to(&mut instead);
                    self.client.send(instead)?;
                }
                Treatment::Terminate(error) => {
                    self.client.send(error.message().bytes())?;
                    return Ok(());
                }
                Treatment::Cut => return Ok(()),
                Treatment::Nothing => return io::copy(&mut server, &mut io::sink()).map(drop),
            }
        }
    }
}
