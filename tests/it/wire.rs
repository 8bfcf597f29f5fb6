//! A tap on the wire to the database.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use support::Database;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A proxy that counts how often the server has answered.
pub(crate) struct Wire {
    options: PgConnectOptions,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    answers: AtomicUsize,
    pings: AtomicUsize,
}

impl Wire {
    pub(crate) async fn tap(database: &Database) -> Self {
        let server = database.options();
        let address = format!("{}:{}", server.get_host(), server.get_port());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = server
            .host("127.0.0.1")
            .port(listener.local_addr().unwrap().port())
            .ssl_mode(PgSslMode::Disable);
        let counts = Arc::new(Counts::default());
        let wire = Self {
            options,
            counts: Arc::clone(&counts),
        };
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&address).await.unwrap();
                let (mut from_client, to_client) = client.into_split();
                let (from_server, mut to_server) = server.into_split();
                tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
                tokio::spawn(count(from_server, to_client, Arc::clone(&counts)));
            }
        });
        wire
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Round trips that had something to say.
    pub(crate) fn round_trips(&self) -> usize {
        self.counts.answers.load(Ordering::SeqCst)
    }

    /// Round trips that only ask whether the server is there. sqlx makes one whenever a connection
    /// goes back into the pool, which nobody waits for.
    pub(crate) fn pings(&self) -> usize {
        self.counts.pings.load(Ordering::SeqCst)
    }
}

/// Passes message after message on, and counts those that say that the server is ready again.
async fn count(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    counts: Arc<Counts>,
) -> std::io::Result<()> {
    let mut before = b'Z';
    loop {
        let kind = server.read_u8().await?;
        let length = server.read_u32().await?;
        let mut body = vec![0; length as usize - 4];
        server.read_exact(&mut body).await?;
        match (before, kind) {
            (b'Z', b'Z') => counts.pings.fetch_add(1, Ordering::SeqCst),
            (_, b'Z') => counts.answers.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        before = kind;
        let mut message = vec![kind];
        message.extend(length.to_be_bytes());
        message.extend(body);
        client.write_all(&message).await?;
    }
}
