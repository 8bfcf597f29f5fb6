//! One connection of a wire.

use std::io;

use sqlx::postgres::PgConnectOptions;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy, split},
    net::TcpStream,
};

use crate::race::{gate::Gate, messages::Messages};

/// Connects to the server, and carries messages until one side closes.
pub(super) async fn pump(client: TcpStream, server: PgConnectOptions, gate: Gate) {
    // A client that finds its connection closed knows what to do.
    let _ = connect_and_carry(client, &server, gate).await;
}

async fn connect_and_carry(
    client: TcpStream,
    server: &PgConnectOptions,
    gate: Gate,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    #[cfg(unix)]
    if let Some(folder) = server.get_socket() {
        let path = folder.join(format!(".s.PGSQL.{}", server.get_port()));
        return carry(client, UnixStream::connect(path).await?, gate).await;
    }
    let server = TcpStream::connect((server.get_host(), server.get_port())).await?;
    server.set_nodelay(true)?;
    carry(client, server, gate).await
}

async fn carry(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite,
    gate: Gate,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_server, mut to_server) = split(server);
    let requests = async {
        let mut messages = Messages::default();
        let mut received = vec![0; 16 * 1024];
        loop {
            let length = from_client.read(&mut received).await?;
            if length == 0 {
                return to_server.shutdown().await;
            }
            messages.receive(received.get(..length).unwrap_or_default());
            while let Some(message) = messages.next() {
                if message.asks_for_encryption {
                    return Err(io::Error::other("this side of the wire is not encrypted"));
                }
                if let Some(statement) = &message.statement {
                    gate.pass(statement).await;
                }
                to_server.write_all(&message.bytes).await?;
            }
            to_server.flush().await?;
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}
