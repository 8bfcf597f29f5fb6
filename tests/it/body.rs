//! The request body: replayed for each attempt, limited, and read before a connection is acquired.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{Next, from_fn},
    routing::put as put_route,
};
use futures::{StreamExt as _, future::join_all, stream};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Tx};

use crate::kit::{
    Kit, TestResponse, anyone, can_edit, conflict, conflict_once, guarded, put, send, test,
    test_with_pool, update,
};

type Frame = http_body::Frame<Bytes>;

async fn store(tx: &mut Tx, id: i64, body: &str) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(id)
        .bind(body)
        .execute(tx)
        .await?;
    Ok(())
}

fn app(interlock: &Interlock) -> Router {
    Router::new().route(
        "/{id}",
        put_route(update).route_layer(interlock.require(can_edit)),
    )
}

/// A body without an announced length.
fn chunked(chunks: &[&'static str]) -> Body {
    Body::from_stream(stream::iter(chunks.to_vec()).map(Ok::<_, Infallible>))
}

/// A body that receives its chunks from the sender.
fn open_body() -> (mpsc::UnboundedSender<&'static str>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let chunks = stream::unfold(receiver, async |mut receiver| {
        let chunk = receiver.recv().await?;
        Some((Ok::<_, Infallible>(chunk), receiver))
    });
    (sender, Body::from_stream(chunks))
}

async fn send_body(app: &Router, body: Body) -> TestResponse {
    send(app, Request::put("/1").body(body).unwrap()).await
}

#[test]
fn body_is_replayed_on_retry() {
    async fn handler(State(kit): State<Kit>, mut tx: Tx, body: String) -> Result<String, Error> {
        conflict_once(&mut tx, &kit.outside).await?;
        store(&mut tx, 1, &body).await?;
        Ok(format!("{} {body}", tx.attempt()))
    }
    test(async |kit| {
        let app = Router::new()
            .route("/{id}", put_route(handler))
            .route_layer(kit.interlock.require(can_edit))
            .with_state(kit.clone());
        for body in [Body::from("new"), chunked(&["n", "e", "w"])] {
            let response = send_body(&app, body).await;
            assert_eq!((response.status.as_u16(), &*response.body), (200, "2 new"));
            assert_eq!(response.report().attempts(), 2);
            assert_eq!(kit.body(1).await, "new");
        }
    });
}

#[test]
fn trailers_are_replayed_on_retry() {
    async fn handler(
        State(kit): State<Kit>,
        mut tx: Tx,
        request: Request,
    ) -> Result<String, Error> {
        conflict_once(&mut tx, &kit.outside).await?;
        let body = request.into_body().collect().await.unwrap();
        let sum = body.trailers().unwrap()["sum"].to_str().unwrap().to_owned();
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        store(&mut tx, 1, &text).await?;
        Ok(format!("{} {text} {sum}", tx.attempt()))
    }
    test(async |kit| {
        let app = Router::new()
            .route("/{id}", put_route(handler))
            .route_layer(kit.interlock.require(can_edit))
            .with_state(kit.clone());
        let trailers = HeaderMap::from_iter([(
            header::HeaderName::from_static("sum"),
            HeaderValue::from_static("7"),
        )]);
        let frames = [Frame::data("new".into()), Frame::trailers(trailers)];
        let frames = stream::iter(frames).map(Ok::<_, Infallible>);
        let response = send_body(&app, Body::new(StreamBody::new(frames))).await;
        assert_eq!(
            (response.status.as_u16(), &*response.body),
            (200, "2 new 7")
        );
        assert_eq!(kit.body(1).await, "new");
    });
}

#[test]
fn body_at_limit_is_accepted() {
    test(async |kit| {
        let app = app(&kit.builder().body_limit(8).build());
        for body in [Body::from("8 bytes."), chunked(&["8 byt", "es."])] {
            let response = send_body(&app, body).await;
            assert_eq!(
                (response.status.as_u16(), &*response.body),
                (200, "8 bytes.")
            );
            assert_eq!(response.outcome(), Outcome::Committed);
        }
        assert_eq!(kit.body(1).await, "8 bytes.");
    });
}

#[test]
fn body_over_limit_is_rejected() {
    test(async |kit| {
        let app = app(&kit.builder().body_limit(8).build());
        for body in [Body::from("9 bytes.."), chunked(&["9 bytes.", "."])] {
            let response = send_body(&app, body).await;
            response.assert_problem(ErrorKind::BodyTooLarge);
            assert_eq!(response.outcome(), Outcome::NoTransaction);
            assert_eq!(response.report().attempts(), 0);
        }
        assert_eq!(kit.pool.size(), 0);
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn content_length_over_limit_is_rejected_before_body_arrives() {
    test(async |kit| {
        let server = Server::start(app(&kit.builder().body_limit(8).build())).await;
        let mut client = server.connect().await;
        client.put("content-length: 9\r\n", "").await;
        assert!(client.response().await.starts_with("HTTP/1.1 413 "));
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn default_limit_is_2_mib() {
    test(async |kit| {
        let app = app(&kit.interlock);
        let large = |size| Body::from(vec![b'x'; size]);
        let response = send_body(&app, large(2 * 1024 * 1024)).await;
        assert_eq!(response.status, 200);
        assert_eq!(kit.body(1).await.len(), 2 * 1024 * 1024);
        let response = send_body(&app, large(2 * 1024 * 1024 + 1)).await;
        response.assert_problem(ErrorKind::BodyTooLarge);
    });
}

#[test]
fn broken_body_is_bad_request() {
    test(async |kit| {
        let chunks = [Ok("new"), Err(std::io::Error::other("cut"))];
        let response = send_body(
            &app(&kit.interlock),
            Body::from_stream(stream::iter(chunks)),
        )
        .await;
        response.assert_problem(ErrorKind::BodyUnreadable);
        assert_eq!(response.status, 400);
        assert_eq!(response.outcome(), Outcome::NoTransaction);
        assert_eq!(kit.pool.size(), 0);
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn malformed_chunk_over_http_is_bad_request() {
    test(async |kit| {
        let server = Server::start(app(&kit.interlock)).await;
        let mut client = server.connect().await;
        let chunks = "3\r\nnew\r\nno number\r\n";
        client.put("transfer-encoding: chunked\r\n", chunks).await;
        assert!(client.response().await.starts_with("HTTP/1.1 400 "));
        assert_eq!(kit.pool.size(), 0);
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn stalled_body_is_timeout() {
    test(async |kit| {
        let app = app(&kit
            .builder()
            .body_timeout(Duration::from_millis(50))
            .build());
        let (chunks, body) = open_body();
        chunks.send("new").unwrap();
        let response = send_body(&app, body).await;
        response.assert_problem(ErrorKind::BodyTimeout);
        assert_eq!(response.status, 408);
        assert_eq!(response.outcome(), Outcome::NoTransaction);
        assert!(chunks.send("more").is_err(), "it is still being read");
        assert_eq!(kit.pool.size(), 0);
        assert_eq!(kit.body(1).await, "old");
    });
}

#[derive(Clone)]
struct Upload {
    kit: Kit,
    seen: mpsc::UnboundedSender<Bytes>,
}

/// Reports each chunk, and stores all of them.
async fn upload(State(upload): State<Upload>, mut tx: Tx, body: Body) -> Result<String, Error> {
    let mut chunks = body.into_data_stream();
    let mut text = String::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        upload.seen.send(chunk).unwrap();
    }
    if text == "conflict" {
        conflict(&mut tx, &upload.kit.outside).await?;
    }
    store(&mut tx, 1, &text).await?;
    Ok(text)
}

fn upload_app(kit: &Kit, interlock: &Interlock) -> (Router, mpsc::UnboundedReceiver<Bytes>) {
    let (seen, seen_by_test) = mpsc::unbounded_channel();
    let kit = kit.clone();
    let layer = interlock.require(can_edit).unbuffered();
    let app = Router::new()
        .route("/{id}", put_route(upload).route_layer(layer))
        .with_state(Upload { kit, seen });
    (app, seen_by_test)
}

#[test]
fn unbuffered_body_streams_to_handler() {
    test(async |kit| {
        // The limit does not apply, because nothing is kept in memory.
        let (app, mut seen) = upload_app(&kit, &kit.builder().body_limit(3).build());
        let (chunks, body) = open_body();
        let response = tokio::spawn(async move { send_body(&app, body).await });
        for chunk in ["one, ", "two, ", "three"] {
            chunks.send(chunk).unwrap();
            let seen = timeout(Duration::from_secs(10), seen.recv()).await;
            assert_eq!(seen.expect("it waits for the end").unwrap(), chunk);
        }
        assert_eq!(kit.body(1).await, "old");
        drop(chunks);
        let response = response.await.unwrap();
        assert_eq!(
            (response.status.as_u16(), &*response.body),
            (200, "one, two, three")
        );
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.body(1).await, "one, two, three");
    });
}

#[test]
fn unbuffered_request_is_not_retried() {
    test(async |kit| {
        let (app, _seen) = upload_app(&kit, &kit.interlock);
        let response = put(&app, "/1", "conflict").await;
        response.assert_problem(ErrorKind::RetriesExhausted);
        assert_eq!(response.header(header::RETRY_AFTER), Some("1"));
        assert_eq!(response.report().attempts(), 1);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn unbuffered_deadline_includes_reading_the_body() {
    test(async |kit| {
        let interlock = kit.builder().deadline(Duration::from_millis(300)).build();
        let (app, _seen) = upload_app(&kit, &interlock);
        let (chunks, body) = open_body();
        chunks.send("new").unwrap();
        let response = send_body(&app, body).await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn slow_clients_hold_no_connection() {
    const CLIENTS: usize = 200;
    test_with_pool(2, async |kit| {
        let interlock = kit.builder().body_timeout(Duration::from_secs(3)).build();
        let (waiting, mut waited) = watch::channel(0);
        let responded = Arc::new(AtomicUsize::new(0));
        let count = from_fn({
            let responded = Arc::clone(&responded);
            move |request: Request, next: Next| {
                let (waiting, responded) = (waiting.clone(), Arc::clone(&responded));
                async move {
                    waiting.send_modify(|waiting| *waiting += 1);
                    let response = next.run(request).await;
                    responded.fetch_add(1, Ordering::SeqCst);
                    response
                }
            }
        });
        let server = Server::start(app(&interlock).layer(count)).await;

        let address = server.address;
        let slow = (0..CLIENTS).map(|number| tokio::spawn(slow_client(address, number)));
        let slow: Vec<_> = slow.collect();
        waited
            .wait_for(|waiting| *waiting == CLIENTS)
            .await
            .unwrap();

        let busy = || kit.pool.size() as usize - kit.pool.num_idle();
        assert_eq!(busy(), 0);
        for _ in 0..20 {
            let mut quick = server.connect().await;
            quick.put("content-length: 3\r\n", "new").await;
            assert!(quick.response().await.starts_with("HTTP/1.1 200 "));
        }
        // A connection returns to the pool shortly after the response.
        while busy() > 0 {
            yield_now().await;
        }
        assert_eq!(
            responded.load(Ordering::SeqCst),
            20,
            "a slow client got a response"
        );
        assert_eq!(kit.body(1).await, "new");

        for response in join_all(slow).await {
            let response = response.unwrap();
            assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
        }
        assert_eq!(kit.body(1).await, "new");
    });
}

/// Sends a body without end, in one of two encodings, and returns the beginning of the response.
async fn slow_client(address: SocketAddr, number: usize) -> String {
    let mut client = Client::connect(address).await;
    if number.is_multiple_of(2) {
        client.put("content-length: 1000\r\n", "x").await;
        client.trickle("x").await
    } else {
        let chunk = "1\r\nx\r\n";
        client.put("transfer-encoding: chunked\r\n", chunk).await;
        client.trickle(chunk).await
    }
}

/// A server for a router. It stops when it is dropped.
struct Server {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(app: Router) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = async move { axum::serve(listener, app).await.unwrap() };
        Self {
            address,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }
}

/// A client that may be slow or violate the protocol.
struct Client(TcpStream);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends the head of a request, and `body`.
    async fn put(&mut self, headers: &str, body: &str) {
        let head =
            format!("PUT /1 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n");
        let request = head + body;
        self.0.write_all(request.as_bytes()).await.unwrap();
    }

    /// Sends `more` repeatedly until the response begins.
    async fn trickle(mut self, more: &str) -> String {
        let (mut reader, mut writer) = self.0.split();
        let trickle = async {
            loop {
                sleep(Duration::from_millis(100)).await;
                // After its response the server stops reading.
                let _ = writer.write_all(more.as_bytes()).await;
            }
        };
        let mut response = [0; 13];
        tokio::select! {
            read = reader.read_exact(&mut response) => read.unwrap(),
            () = trickle => unreachable!(),
        };
        String::from_utf8(response.to_vec()).unwrap()
    }

    /// The beginning of the response.
    async fn response(&mut self) -> String {
        let mut response = [0; 13];
        self.0.read_exact(&mut response).await.unwrap();
        String::from_utf8(response.to_vec()).unwrap()
    }
}

#[test]
fn outer_body_limit_gives_same_response() {
    test(async |kit| {
        let app = guarded(kit.interlock.require(anyone), async || ());
        let limited = http_body_util::Limited::new(Body::from("too much"), 4);
        let request = Request::put("/1").body(Body::new(limited)).unwrap();
        let response = send(&app, request).await;
        response.assert_problem(ErrorKind::BodyTooLarge);
    });
}
