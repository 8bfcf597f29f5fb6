//! Preconditions as bytes on a connection. A header that names another version, or is unreadable,
//! never counts as a missing one.

use std::{net::SocketAddr, slice};

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, header::IF_MATCH},
    routing::put,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;
use tower_interlock::{Error, Tx, precondition::IfMatch};

use crate::kit::{Kit, can_edit, test};

/// Header lines that do not name the stored version 0.
const HOSTILE: &[&[u8]] = &[
    b"",
    b"If-Match:",
    b"If-Match: ,,, ,",
    b"If-Match: 0",
    b"If-Match: '0'",
    b"If-Match: \"0",
    b"If-Match: 0\"",
    b"If-Match: \"0\" \"0\"",
    b"If-Match: \"0\"; q=1",
    b"If-Match: \"\\0\"",
    b"If-Match: \"00\"",
    b"If-Match: \"-0\"",
    b"If-Match: \"+0\"",
    b"If-Match: \" 0\"",
    b"If-Match: \"0,0\"",
    b"If-Match: \"0x0\"",
    b"If-Match: \"\xd9\xa0\"",
    b"If-Match: \"9\xff\"",
    b"If-Match: \xff",
    b"If-Match: W/\"0\"",
    b"If-Match: w/\"0\"",
    b"If-Match: \"18446744073709551616\"",
    b"If-Match: \"9\"",
    b"iF-mATCH: \"9\"",
    b"If-Match:\t\"9\"\t",
    b"If-Match: *, \"9\"",
    b"If-Match: \"9\", *",
    b"If-Match: \"*\"",
    b"If-Match: **",
    b"If-Match: \"9\"\r\nIf-Match: *",
    b"If-Match: *\r\nIf-Match: *",
    b"If-Match: *\r\nIf-Match: \"9\"",
    b"If-Match: \"\r\nIf-Match: 0\"",
    b"If-Match: \"0\r\nIf-Match: \"",
    b"If-Match: W/\r\nIf-Match: \"0\"\r\nIf-Match: 9",
    b"If-Match: \"9\"\r\nIf-None-Match: *",
    b"If-None-Match: \"0\"",
    b"If_Match: \"0\"",
    b"X-If-Match: \"0\"",
    b"If-Match: \"9\"\r\nConnection: If-Match",
    // The server itself rejects these.
    b"If-Match : \"0\"",
    b" If-Match: \"0\"",
    b"If-Match: \"9\",\r\n \"0\"",
    b"If-Match: \"0\x00\"",
    b"If-Match\x00: \"0\"",
    b"If-Match: \"9\"\rIf-Match: \"0\"",
    b"If-Match: \"9\x0b\"",
    b"If-Match\r\n: \"0\"",
];

#[test]
fn hostile_header_never_replaces_unnamed_version() {
    test(async |kit: Kit| {
        let app = Router::new()
            .route("/strict/{id}", put(strict))
            .route("/naive/{id}", put(naive))
            .route_layer(kit.interlock.require(can_edit));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server =
            AbortOnDropHandle::new(tokio::spawn(async { axum::serve(listener, app).await }));

        let long = [b"If-Match: ".to_vec(), b"\"9\", W/\"0\",".repeat(1000)].concat();
        let endless = [b"If-Match: ".to_vec(), b"\"9\",".repeat(200_000)].concat();
        let many = [&b"If-Match: \"9\""[..]; 50].join(&b"\r\n"[..]);

        let mut fooled = 0;
        for headers in [HOSTILE, &[&long, &endless, &many]].concat() {
            let shown = headers[..headers.len().min(60)].escape_ascii();
            let status = send(address, "/strict/1", headers).await;
            assert!([400, 412, 428, 431].contains(&status), "{status}: {shown}");
            assert_eq!(kit.body(1).await, "old", "replaced: {shown}");

            send(address, "/naive/1", headers).await;
            if kit.body(1).await != "old" {
                fooled += 1;
                kit.database
                    .run("UPDATE documents SET body = 'old', version = 0")
                    .await;
            }
        }
        println!("the naive way was fooled {fooled} times");
        assert!(fooled > 1);
        assert_eq!(send(address, "/strict/1", b"If-Match: \"0\"").await, 200);
        drop(server);
    });
}

async fn strict(id: Path<i64>, expected: IfMatch, tx: Tx, body: String) -> Result<(), Error> {
    update(id, expected.versions(), tx, body).await
}

/// A conventional handler. It takes an unreadable header for a missing one.
async fn naive(id: Path<i64>, headers: HeaderMap, tx: Tx, body: String) -> Result<(), Error> {
    let tag = headers.get(IF_MATCH).and_then(|value| value.to_str().ok());
    let version = tag.and_then(|tag| tag.trim_matches('"').parse().ok());
    update(id, version.as_ref().map(slice::from_ref), tx, body).await
}

async fn update(
    Path(id): Path<i64>,
    versions: Option<&[i64]>,
    mut tx: Tx,
    body: String,
) -> Result<(), Error> {
    let update = "UPDATE documents SET body = $3, version = version + 1
        WHERE id = $1 AND (version = ANY ($2) OR $2 IS NULL)";
    let update = sqlx::query(update).bind(id).bind(versions).bind(body);
    match update.execute(&mut tx).await?.rows_affected() {
        0 => Err(Error::precondition_failed()),
        _ => Ok(()),
    }
}

/// Sends a request with these header lines, and returns the status of the response.
///
/// One more line is in the trailer, where it is no precondition.
async fn send(address: SocketAddr, path: &str, headers: &[u8]) -> u16 {
    let head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n");
    let headers = if headers.is_empty() {
        vec![]
    } else {
        [headers, b"\r\n"].concat()
    };
    let body = b"\r\n3\r\nnew\r\n0\r\nIf-Match: *\r\n\r\n";
    let mut connection = TcpStream::connect(address).await.unwrap();
    // The server may respond before it has read everything.
    let _ = connection
        .write_all(&[head.as_bytes(), &headers, body].concat())
        .await;
    let mut status = [0; "HTTP/1.1 200".len()];
    connection.read_exact(&mut status).await.unwrap();
    str::from_utf8(&status[9..]).unwrap().parse().unwrap()
}
