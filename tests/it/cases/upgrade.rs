//! A 101 is a success to the client, and a value that works only once is not used twice.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{
        Extension,
        ws::{Message, WebSocketUpgrade},
    },
    http::{Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use support::{Fault, Moment, Proxy, ServerError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Tx};

use super::cause;
use crate::kit::{Kit, TestResponse, anyone, conflict_once, get, guarded, note, send, test};

// Through the router

#[test]
fn switching_protocols_is_committed_before_it_leaves() {
    test(async |kit| {
        let hook = Arc::new(AtomicUsize::new(0));
        let ran = Arc::clone(&hook);
        let handler = async move |mut tx: Tx| {
            note(&mut tx, 1).await?;
            tx.after_commit(async move {
                ran.fetch_add(1, Ordering::SeqCst);
            });
            Ok::<_, Error>(StatusCode::SWITCHING_PROTOCOLS)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = get(&app, "/1").await;
        assert_eq!(
            (response.status.as_u16(), response.outcome()),
            (101, Outcome::Committed)
        );
        kit.interlock.drain().await;
        assert_eq!(
            (kit.notes().await, hook.load(Ordering::SeqCst)),
            (vec![1], 1)
        );
    });
}

#[test]
fn switching_protocols_over_a_swallowed_error_is_a_500() {
    test(async |kit| {
        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            let _ = sqlx::query("SELECT missing").execute(&mut tx).await;
            Ok::<_, Error>(StatusCode::SWITCHING_PROTOCOLS)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = get(&app, "/1").await;
        assert_eq!(
            (response.status.as_u16(), response.outcome()),
            (500, Outcome::RolledBack)
        );
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_eq!(kit.notes().await, [0_i64; 0]);
    });
}

#[test]
fn switching_protocols_over_the_denial_of_a_policy_is_a_500() {
    test(async |kit| {
        async fn no() -> Result<(), Error> {
            Err(tower_interlock::Denied::new("no").into())
        }
        let app = Router::new()
            .route("/{id}", axum::routing::any(async || ()))
            .route_layer(kit.interlock.require(no))
            .route_layer(axum::middleware::map_response(async |_: Response| {
                StatusCode::SWITCHING_PROTOCOLS
            }))
            .route_layer(kit.interlock.require(anyone));
        let response = get(&app, "/1").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        assert_eq!(response.status, 500);
    });
}

#[test]
fn switching_protocols_that_commit_if_declines_is_rolled_back() {
    test(async |kit| {
        let interlock = kit.builder().commit_if(|_| false).build();
        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            Ok::<_, Error>(StatusCode::SWITCHING_PROTOCOLS)
        };
        let response = get(&guarded(interlock.require(anyone), handler), "/1").await;
        assert_eq!(
            (response.status.as_u16(), response.outcome()),
            (101, Outcome::RolledBack)
        );
        assert_eq!(kit.notes().await, [0_i64; 0]);
    });
}

/// hyper replaces any other 1xx of a handler by a 500.
#[test]
fn other_informational_responses_are_rolled_back() {
    test(async |kit| {
        for status in [100, 102, 103] {
            let handler = async move |mut tx: Tx| {
                note(&mut tx, 1).await?;
                Ok::<_, Error>(StatusCode::from_u16(status).unwrap())
            };
            let response = get(&guarded(kit.interlock.require(anyone), handler), "/1").await;
            assert_eq!(response.outcome(), Outcome::RolledBack, "{status}");
            assert_eq!(kit.notes().await, [0_i64; 0]);
        }
    });
}

/// Sends a GET with this `Upgrade`, whose first attempt meets a conflict.
async fn conflict_with_upgrade(kit: &Kit, upgrade: &'static str) -> TestResponse {
    let outside = kit.outside.clone();
    let handler = async move |mut tx: Tx| {
        conflict_once(&mut tx, &outside).await?;
        Ok::<_, Error>(note(&mut tx, 1).await?)
    };
    let app = guarded(kit.interlock.require(anyone), handler);
    let request = Request::get("/1").header(header::UPGRADE, upgrade);
    send(&app, request.body(Body::empty()).unwrap()).await
}

#[test]
fn request_that_asks_for_an_upgrade_is_not_run_again() {
    test(async |kit| {
        for upgrade in ["websocket", "WebSocket, h2c", "connect-ip"] {
            let response = conflict_with_upgrade(&kit, upgrade).await;
            response.assert_problem(ErrorKind::RetriesExhausted);
            assert_eq!(response.report().attempts(), 1);
            assert_eq!(kit.notes().await, [0_i64; 0]);
        }
    });
}

/// Clients offer h2c with any request.
#[test]
fn request_that_offers_h2c_is_run_again() {
    test(async |kit| {
        let response = conflict_with_upgrade(&kit, "h2c").await;
        assert_eq!(
            (response.status.as_u16(), response.report().attempts()),
            (200, 2)
        );
        assert_eq!(kit.notes().await, [1]);
    });
}

/// A middleware may have asked for the upgrade without a header.
#[test]
fn switching_protocols_after_a_conflict_is_not_run_again() {
    test(async |kit| {
        let outside = kit.outside.clone();
        let handler = async move |mut tx: Tx| {
            let _ = conflict_once(&mut tx, &outside).await;
            StatusCode::SWITCHING_PROTOCOLS
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = get(&app, "/1").await;
        response.assert_problem(ErrorKind::RetriesExhausted);
        assert_eq!(
            (response.report().attempts(), response.outcome()),
            (1, Outcome::RolledBack)
        );
    });
}

// Through a socket

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

/// Asks for a WebSocket. Returns the status and the connection.
async fn handshake(address: SocketAddr) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /1 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(Duration::from_secs(20), stream.read_u8()).await;
        head.push(byte.expect("no response").unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (status, stream)
}

/// Sends "hi", and returns the text that comes back, if one does.
async fn talk(stream: &mut TcpStream) -> Option<String> {
    timeout(Duration::from_secs(5), async {
        // The final frame, a text of two bytes, under a mask of zeros.
        let hi = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
        stream.write_all(&hi).await.ok()?;
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.ok()?;
        let mut text = vec![0; usize::from(head[1])];
        stream.read_exact(&mut text).await.ok()?;
        String::from_utf8(text).ok()
    })
    .await
    .ok()?
}

/// The upgrades that the attempts have asked for, and their ends.
#[derive(Clone, Default)]
struct Upgrades {
    asked: Arc<AtomicUsize>,
    ran: Arc<Mutex<Vec<u32>>>,
    over: Arc<AtomicUsize>,
}

/// Lives as long as the task that waits for the socket.
struct Waiting(Upgrades);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.over.fetch_add(1, Ordering::SeqCst);
    }
}

impl Upgrades {
    /// The response that opens a socket, on which the number of the attempt is sent.
    fn open(&self, upgrade: WebSocketUpgrade, attempt: u32) -> Response {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(self.clone());
        upgrade.on_upgrade(async move |mut socket| {
            // hyper also passes on the connection of a request that was rejected, after its end.
            // Then no message comes.
            if let Some(Ok(Message::Text(_))) = socket.recv().await {
                waiting.0.ran.lock().unwrap().push(attempt);
                let said = Message::Text(format!("attempt {attempt}").into());
                let _ = socket.send(said).await;
            }
            drop(waiting);
        })
    }

    /// Asserts that no task waits any more for a socket that it will not get.
    async fn assert_over(&self) {
        let asked = self.asked.load(Ordering::SeqCst);
        for _ in 0..200 {
            if self.over.load(Ordering::SeqCst) == asked {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        let over = self.over.load(Ordering::SeqCst);
        panic!("{asked} upgrades were asked for, {over} are over");
    }

    fn ran(&self) -> Vec<u32> {
        self.ran.lock().unwrap().clone()
    }
}

/// A handler that notes that the session is open.
fn app(interlock: &Interlock, upgrades: &Upgrades) -> Router {
    let upgrades = upgrades.clone();
    let handler = async move |upgrade: WebSocketUpgrade, mut tx: Tx| {
        note(&mut tx, 1).await?;
        Ok::<_, Error>(upgrades.open(upgrade, tx.attempt()))
    };
    guarded(interlock.require(anyone), handler)
}

#[test]
fn web_socket_opens_once_its_session_is_committed() {
    test(async |kit| {
        let (upgrades, hook) = (Upgrades::default(), Arc::new(AtomicUsize::new(0)));
        let (own, ran) = (upgrades.clone(), Arc::clone(&hook));
        let handler = async move |upgrade: WebSocketUpgrade, mut tx: Tx| {
            note(&mut tx, 1).await?;
            tx.after_commit(async move {
                ran.fetch_add(1, Ordering::SeqCst);
            });
            Ok::<_, Error>(own.open(upgrade, tx.attempt()))
        };
        let address = serve(guarded(kit.interlock.require(anyone), handler)).await;
        let (status, mut stream) = handshake(address).await;
        assert_eq!(status, "101");
        assert_eq!(kit.notes().await, [1], "the session is not stored");
        assert_eq!(talk(&mut stream).await.as_deref(), Some("attempt 1"));
        kit.interlock.drain().await;
        assert_eq!(hook.load(Ordering::SeqCst), 1);
        upgrades.assert_over().await;
    });
}

/// The request is rejected, nothing is stored, and no task gets the socket.
async fn assert_not_opened(kit: &Kit, app: Router, upgrades: &Upgrades) {
    let (status, stream) = handshake(serve(app).await).await;
    assert_eq!((&*status, kit.notes().await), ("503", vec![]));
    // hyper gives an upgrade up when its connection ends.
    drop(stream);
    upgrades.assert_over().await;
    assert_eq!(upgrades.ran(), [0_u32; 0]);
}

#[test]
fn web_socket_after_a_conflict_is_rejected() {
    test(async |kit| {
        let upgrades = Upgrades::default();
        let (own, outside) = (upgrades.clone(), kit.outside.clone());
        let handler = async move |upgrade: WebSocketUpgrade, mut tx: Tx| {
            conflict_once(&mut tx, &outside).await?;
            note(&mut tx, 1).await?;
            Ok::<_, Error>(own.open(upgrade, tx.attempt()))
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_not_opened(&kit, app, &upgrades).await;
    });
}

/// A task waits for the socket already. It does not get the socket, and does not wait forever.
#[test]
fn web_socket_asked_for_before_a_conflict_is_rejected() {
    test(async |kit| {
        let upgrades = Upgrades::default();
        let (own, outside) = (upgrades.clone(), kit.outside.clone());
        let handler = async move |upgrade: WebSocketUpgrade, mut tx: Tx| {
            note(&mut tx, 1).await?;
            let response = own.open(upgrade, tx.attempt());
            conflict_once(&mut tx, &outside).await?;
            Ok::<_, Error>(response)
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        assert_not_opened(&kit, app, &upgrades).await;
    });
}

#[test]
fn web_socket_whose_commit_meets_a_conflict_is_rejected() {
    test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
        let (interlock, upgrades) = (Interlock::new(pool), Upgrades::default());
        proxy.inject(Moment::Commit, Fault::Reject(ServerError::RESTART));
        let app = app(&interlock, &upgrades);
        assert_not_opened(&kit, app, &upgrades).await;
        interlock.drain().await;
    });
}

#[test]
fn web_socket_whose_commit_is_unknown_is_not_opened() {
    test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
        let (interlock, upgrades) = (Interlock::new(pool), Upgrades::default());
        proxy.inject(Moment::Commit, Fault::CutAfter);
        let address = serve(app(&interlock, &upgrades)).await;
        let (status, stream) = handshake(address).await;
        assert_eq!((&*status, kit.notes().await), ("500", vec![1]));
        drop(stream);
        upgrades.assert_over().await;
        assert_eq!(upgrades.ran(), [0_u32; 0]);
        interlock.drain().await;
    });
}

#[test]
fn web_socket_of_a_request_that_is_rejected_is_not_opened() {
    test(async |kit| {
        let upgrades = Upgrades::default();
        let own = upgrades.clone();
        let handler = async move |upgrade: WebSocketUpgrade, mut tx: Tx| {
            note(&mut tx, 1).await?;
            drop(own.open(upgrade, tx.attempt()));
            Err::<(), _>(Error::not_found())
        };
        let address = serve(guarded(kit.interlock.require(anyone), handler)).await;
        let (status, stream) = handshake(address).await;
        assert_eq!((&*status, kit.notes().await), ("404", vec![]));
        drop(stream);
        upgrades.assert_over().await;
        assert_eq!(upgrades.ran(), [0_u32; 0]);
    });
}

/// The crate does not know that the value works only once. The route allows one attempt.
#[test]
fn one_shot_extension_with_one_attempt_is_never_missing() {
    type Once = Arc<Mutex<Option<&'static str>>>;
    test(async |kit| {
        let outside = kit.outside.clone();
        let handler = async move |Extension(once): Extension<Once>, mut tx: Tx| {
            let taken = once.lock().unwrap().take();
            assert!(taken.is_some(), "missing");
            conflict_once(&mut tx, &outside).await?;
            Ok::<_, Error>("done".into_response())
        };
        let interlock = kit.builder().max_attempts(1).build();
        let once: Once = Arc::new(Mutex::new(Some("once")));
        let app = guarded(interlock.require(anyone), handler).layer(Extension(once));
        let response = get(&app, "/1").await;
        assert_eq!(response.report().attempts(), 1, "{}", cause(&response));
        response.assert_problem(ErrorKind::RetriesExhausted);
    });
}
