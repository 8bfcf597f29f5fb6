//! One connection through the proxy, with a thread for each direction.

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
        let replies = Replies {
            server: Arc::clone(&connection.server),
            client: Outlet::new(Arc::clone(&connection.client), shared.delay),
            shared: Arc::clone(shared),
            awaited,
        };
        connection.spawn(|| requests.run());
        connection.spawn(|| replies.run());
        Ok(connection)
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    pub(super) fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        // It fails if the connection is already cut.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    /// Sends the client `farewell`, and cuts the connection.
    pub(super) fn dismiss(&self, farewell: &ServerError) {
        // If it fails, the client is gone.
        let _ = (&*self.client).write_all(&farewell.message().bytes());
        self.cut();
    }

    /// Relays messages, and cuts the connection at the end.
    fn spawn(&self, direction: impl FnOnce() -> io::Result<()> + Send + 'static) {
        let connection = self.clone();
        thread::spawn(move || {
            // An error only concerns the two ends, which notice the cut.
            drop(direction());
            connection.cut();
        });
    }
}

/// A request of the client, up to the message after which the server reports that it is ready.
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
    /// COMMIT and the BEGIN of a next transaction at once.
    CommitAndBegin,
    /// The look of the crate at its locks, in the first runs of a policy. It is not counted.
    Look,
}

impl Step {
    fn of(text: &str) -> Self {
        if text.contains("interlock_look") {
            return Self::Look;
        }
        let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
        let first = words.find(|word| !word.is_empty()).unwrap_or_default();
        let second = words.find(|word| !word.is_empty()).unwrap_or_default();
        match first.to_ascii_uppercase().as_str() {
            "BEGIN" | "START" => Self::Begin,
            "COMMIT" if second.eq_ignore_ascii_case("BEGIN") => Self::CommitAndBegin,
            "COMMIT" | "END" => Self::Commit,
            "ABORT" => Self::Rollback,
            "ROLLBACK" if second.eq_ignore_ascii_case("BEGIN") => Self::Restart,
            "ROLLBACK" if !second.eq_ignore_ascii_case("TO") => Self::Rollback,
            _ => Self::Statement,
        }
    }
}

/// A reply that the server has yet to send.
struct Awaited {
    step: Step,
    /// How many completions are relayed before the treatment.
    completions: usize,
    treatment: Treatment,
    /// The message to the client after the reply, and then the end of the connection.
    farewell: Option<ServerError>,
}

/// The reply to the client.
enum Treatment {
    Relay,
    /// This error, and the message that the server is ready.
    Error(ServerError),
    /// This error, and the end of the connection.
    Terminate(ServerError),
    Cut,
    /// Nothing, now and later.
    Nothing,
}

impl Treatment {
    fn of(fault: Option<&Fault>) -> Self {
        match fault {
            None | Some(Fault::Delay(_)) => Self::Relay,
            Some(Fault::CutBefore | Fault::CutSent | Fault::CutAfter) => Self::Cut,
            Some(Fault::Swallow | Fault::Stall) => Self::Nothing,
            Some(Fault::Reject(error) | Fault::Misreport(error)) => Self::Error(error.clone()),
            Some(Fault::Terminate(error)) => Self::Terminate(error.clone()),
        }
    }
}

/// The direction from the client to the server.
struct Requests {
    client: Arc<TcpStream>,
    server: Outlet,
    shared: Arc<Shared>,
    awaited: Arc<Mutex<VecDeque<Awaited>>>,
    /// The texts of the prepared statements by name.
    texts: HashMap<String, String>,
    /// The statements since BEGIN, while a transaction is open.
    statements: Option<usize>,
}

impl Requests {
    fn run(mut self) -> io::Result<()> {
        let client = Arc::clone(&self.client);
        let mut client = BufReader::new(&*client);
        loop {
            let opening = Opening::read(&mut client)?;
            if !opening.asks_for_encryption() {
                // The server replies to it as to any request.
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
                // Sync ends a request.
                b'S' | b'D' | b'C' => {}
                // A message without a reply of its own: a password, a part of a COPY, the end.
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
        self.track(step);
        let behind = (step == Step::CommitAndBegin)
            .then(|| self.shared.strike(|moment| *moment == Moment::NextBegin))
            .flatten();
        let completions = usize::from(behind.is_some());
        let (fault, farewell) = behind.or_else(|| self.fault(step, text)).unzip();
        // A fault that prevents the ROLLBACK or the COMMIT also prevents the BEGIN.
        let done = matches!(fault, None | Some(Fault::Delay(_)));
        if matches!(step, Step::Restart | Step::CommitAndBegin) && done {
            count(&self.shared.counters.begins);
        }
        let treatment = Treatment::of(fault.as_ref());
        // This must come before the server can reply.
        lock(&self.awaited).push_back(Awaited {
            step,
            completions,
            treatment,
            farewell: farewell.flatten(),
        });
        match fault {
            Some(Fault::Reject(_) | Fault::Terminate(_)) if completions > 0 => {
                let failing = Message::query("COMMIT; SELECT 1 / 0");
                self.server.send(failing.bytes())
            }
            Some(Fault::Delay(_)) | None => self.deliver(request, step, fault),
            Some(_) if completions > 0 => self.server.send(request),
            Some(_) => self.deliver(request, step, fault),
        }
    }

    /// Counts the request, and the statements of the transaction.
    fn track(&mut self, step: Step) {
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
            Step::CommitAndBegin => {
                self.statements = Some(0);
                count(&counters.commits);
            }
            Step::Look => count(&counters.looks),
            Step::Open | Step::Ping | Step::Prepare => {}
        }
    }

    /// The fault to inject at the request, and what the server sends after its reply.
    fn fault(&self, step: Step, text: &str) -> Option<(Fault, Option<ServerError>)> {
        let nth = self.statements;
        self.shared.strike(|moment| match moment {
            Moment::Connect => step == Step::Open,
            Moment::Begin => matches!(step, Step::Begin | Step::Restart),
            Moment::Statement(n) => step == Step::Statement && nth == Some(*n),
            Moment::Text(part) => step == Step::Statement && text.contains(part),
            Moment::Commit => matches!(step, Step::Commit | Step::CommitAndBegin),
            Moment::NextBegin => false,
            Moment::Rollback => matches!(step, Step::Rollback | Step::Restart),
            Moment::Ping => step == Step::Ping,
        })
    }

    fn deliver(&mut self, request: Vec<u8>, step: Step, fault: Option<Fault>) -> io::Result<()> {
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
            // The thread sleeps until the client disconnects.
            Some(Fault::Stall) => io::copy(&mut &*self.client, &mut io::sink()).map(drop),
            // The server accepts no statement yet.
            Some(Fault::Reject(error) | Fault::Terminate(error)) if step == Step::Open => {
                (&*self.client).write_all(&error.message().bytes())?;
                Err(ErrorKind::ConnectionAborted.into())
            }
            Some(Fault::Reject(_) | Fault::Terminate(_)) => self
                .server
                .send(Message::query(failing_statement(step)).bytes()),
        }
    }
}

/// The statement that brings the server into the state that the error implies.
fn failing_statement(step: Step) -> &'static str {
    match step {
        Step::Statement => "SELECT 1 / 0",
        Step::Commit | Step::CommitAndBegin | Step::Rollback | Step::Restart => "ROLLBACK",
        Step::Open | Step::Ping | Step::Prepare | Step::Begin | Step::Look => "SELECT 1",
    }
}

/// The direction from the server to the client.
struct Replies {
    server: Arc<TcpStream>,
    client: Outlet,
    shared: Arc<Shared>,
    awaited: Arc<Mutex<VecDeque<Awaited>>>,
}

impl Replies {
    fn run(mut self) -> io::Result<()> {
        let server = Arc::clone(&self.server);
        let mut server = BufReader::new(&*server);
        let mut reply = Vec::new();
        loop {
            let message = Message::read(&mut server)?;
            message.write_to(&mut reply);
            if message.kind == b'C' && self.relays_completion() {
                self.client.send(std::mem::take(&mut reply))?;
                continue;
            }
            let ready = message.kind == b'Z';
            // Unsolicited messages of the server precede its disconnect.
            let relayed = {
                let awaited = lock(&self.awaited);
                let next = awaited.front().map(|awaited| &awaited.treatment);
                matches!(next, None | Some(Treatment::Relay))
            };
            if !ready {
                if relayed && server.buffer().is_empty() {
                    self.client.send(std::mem::take(&mut reply))?;
                }
                continue;
            }
            let reply = std::mem::take(&mut reply);
            let awaited = lock(&self.awaited).pop_front();
            let Some(Awaited {
                step,
                treatment,
                farewell,
                ..
            }) = awaited
            else {
                self.client.send(reply)?;
                continue;
            };
            match step {
                Step::Open | Step::Look => {}
                Step::Ping => count(&self.shared.counters.pings),
                _ => count(&self.shared.counters.round_trips),
            }
            match treatment {
                Treatment::Relay => self.client.send(reply)?,
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
            if let Some(farewell) = farewell {
                return self.client.send(farewell.message().bytes());
            }
        }
    }

    /// Whether the completion of a statement is relayed before the treatment of the reply.
    fn relays_completion(&self) -> bool {
        match lock(&self.awaited).front_mut() {
            Some(awaited) if awaited.completions > 0 => {
                awaited.completions -= 1;
                true
            }
            _ => false,
        }
    }
}
