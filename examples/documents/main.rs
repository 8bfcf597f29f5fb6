//! A documents service in which a revoked permission cannot be used to write.
//!
//! `cargo run --example documents` serves on the database of `DATABASE_URL` and prints requests to
//! paste. With `-- --tour` it sends these requests itself, and fails if a response is not the
//! expected one. Without `DATABASE_URL` it starts a database server for the run.

mod audit;
mod auth;
mod handlers;
mod policies;
#[cfg(test)]
mod proof;
mod schema;
mod tour;
#[cfg(test)]
mod twin;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal as _},
};

use axum::{
    Router,
    routing::{delete, get, post, put},
};
use sqlx::{PgPool, postgres::PgConnectOptions};
use support::Server;
use tokio::{net::TcpListener, signal, sync::oneshot};
use tower_interlock::{Interlock, InterlockBuilder, Receipts};
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

use crate::handlers::{UPDATE, create, read, remove, share, unshare, update_if_permitted};

/// The routes, each with its protection.
fn router(interlock: &Interlock) -> Router {
    let signed_in = interlock
        .require(policies::signed_in)
        .named("signed-in")
        .idempotent();
    let has_access = interlock
        .require(policies::has_access)
        .named("documents.access");
    let is_owner = interlock.require(policies::is_owner).named("documents.own");

    let conditional = interlock.conditional(&UPDATE);

    let document = "/documents/{document}";
    let grant = "/documents/{document}/grants/{user}";
    Router::new()
        .route("/documents", post(create).route_layer(signed_in))
        .route(document, get(read).route_layer(has_access.read_only()))
        // No policy: this handler checks and writes in one statement, a conditional write.
        .route(document, put(update_if_permitted).route_layer(conditional))
        .route(document, delete(remove).route_layer(is_owner.clone()))
        .route(grant, put(share).delete(unshare).route_layer(is_owner))
        .with_state(interlock.clone())
}

/// The settings: receipts, and who a request is recorded for.
fn builder(pool: PgPool) -> InterlockBuilder {
    Interlock::builder(pool)
        .receipts(Receipts::new().record_denials())
        .principal(auth::principal)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let on_tour = env::args().any(|argument| argument == "--tour");
    let level = if on_tour {
        "warn"
    } else {
        "info,tower_interlock=debug"
    };
    log(level)?;

    let (url, _server) = database()?;
    let options: PgConnectOptions = url.parse()?;
    // The sessions of this pool are SERIALIZABLE, as the guard requires.
    let pool = Interlock::pool_options()
        .max_connections(8)
        .connect_with(options.options([("search_path", schema::NAME)]))
        .await?;
    schema::apply(&pool).await?;
    let tokens = [
        ("alice", auth::issue_token(&pool, "alice").await?),
        ("bob", auth::issue_token(&pool, "bob").await?),
        ("mallory", "unknown".to_owned()),
    ];

    let interlock = builder(pool.clone()).build();
    let listener = listen().await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel();
    let serving = axum::serve(listener, router(&interlock)).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving.into_future());

    let done = if on_tour {
        match tour::run(&url, &tokens).await {
            Ok(id) => audit::print(&pool, &id).await,
            Err(error) => Err(error),
        }
    } else {
        tour::print(&url, &tokens);
        signal::ctrl_c().await.map_err(Into::into)
    };

    // Stop accepting connections, finish the requests and hooks in flight, then close the pool.
    let _ = stop.send(());
    serving.await??;
    interlock.drain().await;
    pool.close().await;
    done
}

/// Returns the URL of the database, and the server if this run has started it. Dropping the server
/// stops it.
fn database() -> Result<(String, Option<Server>), Box<dyn Error>> {
    match env::var("DATABASE_URL") {
        Ok(url) if !url.is_empty() => Ok((url, None)),
        _ => {
            let server = Server::start()?;
            println!("database: {server}");
            Ok((server.url(), Some(server)))
        }
    }
}

async fn listen() -> io::Result<TcpListener> {
    match TcpListener::bind("127.0.0.1:3000").await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind("127.0.0.1:0").await,
    }
}

/// Logs to stderr, at the levels of `RUST_LOG` or at `default`.
fn log(default: &str) -> Result<(), Box<dyn Error>> {
    let targets: Targets = env::var("RUST_LOG").as_deref().unwrap_or(default).parse()?;
    let format = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(format)
        .with(targets)
        .init();
    Ok(())
}
