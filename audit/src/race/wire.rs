//! The wire: the way of an app to its database, on which a statement can be held.

use std::{fmt, io, net::Ipv4Addr};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::{net::TcpListener, task::AbortHandle};

use crate::race::{gate::Gate, pump::pump};

/// The way of an app to its database, for a [`Race`](crate::Race).
///
/// It listens on a port of its own and carries every connection to the server. The app connects
/// with [`options`](Self::options). Dropped, it accepts no more connections.
///
/// The app's side is not encrypted, and neither is the server's: a server that demands TLS rejects
/// it.
pub struct Wire {
    direct: PgConnectOptions,
    options: PgConnectOptions,
    gate: Gate,
    accepting: AbortHandle,
}

impl Wire {
    /// Returns a wire to the server of `options`.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no free port.
    pub async fn to(options: PgConnectOptions) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let gate = Gate::default();
        let accepting = tokio::spawn(accept(listener, options.clone(), gate.clone()));
        Ok(Self {
            options: options
                .clone()
                .host(&address.ip().to_string())
                .port(address.port())
                .ssl_mode(PgSslMode::Disable),
            direct: options,
            gate,
            accepting: accepting.abort_handle(),
        })
    }

    /// Returns a wire to the database of a URL.
    ///
    /// # Errors
    ///
    /// Returns an error if the URL is malformed, or there is no free port.
    pub async fn to_url(url: &str) -> io::Result<Self> {
        let options = url.parse().map_err(io::Error::other)?;
        Self::to(options).await
    }

    /// Returns the options for the pool of the app.
    #[must_use]
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    pub(super) fn direct(&self) -> &PgConnectOptions {
        &self.direct
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("port", &self.options.get_port())
            .finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, server: PgConnectOptions, gate: Gate) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(pump(client, server.clone(), gate.clone()));
    }
}
