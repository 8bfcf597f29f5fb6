//! A documents service in which no revoked permission can still write.
//!
//! `cargo run --example documents` starts the database that it finds, serves, and prints requests
//! to paste. With `-- --tour` it makes these requests itself and fails if one is answered otherwise.
//!
//! The service is `app.rs`; here it is only started and stopped.

mod app;
mod tour;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal as _},
};

use support::{Database, Kind, Server};
use tokio::{net::TcpListener, signal, sync::oneshot};
use tower_interlock::{Interlock, SERIALIZABLE_GUARD};
use tracing_subscriber::{filter::Targets, fmt, prelude::*};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let on_tour = env::args().any(|argument| argument == "--tour");
    log(if on_tour {
        "warn"
    } else {
        "info,tower_interlock=debug"
    })?;

    let server = Server::start()?;
    println!("database: {server}");
    let database = server.create_database("documents").await?;
    apply_schema(&database).await;

    let pool = Interlock::pool_options()
        .max_connections(8)
        .connect_with(database.options())
        .await?;
    let interlock = Interlock::new(pool.clone());
    let app = app::router(&interlock);

    let listener = listen().await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel();
    let serving = axum::serve(listener, app).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let serving = tokio::spawn(serving.into_future());

    let done = if on_tour {
        tour::run(&url).await
    } else {
        tour::print(&url);
        signal::ctrl_c().await.map_err(Into::into)
    };

    // First no new connections, then no requests and hooks under way, then no pool.
    let _ = stop.send(());
    serving.await??;
    interlock.drain().await;
    pool.close().await;
    database.drop().await?;
    done
}

async fn apply_schema(database: &Database) {
    database.run(app::SCHEMA).await;
    if database.kind() == Kind::PostgreSql {
        database.run(SERIALIZABLE_GUARD).await;
        database.run(app::GUARDED_TABLES).await;
    }
}

async fn listen() -> io::Result<TcpListener> {
    match TcpListener::bind("127.0.0.1:3000").await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind("127.0.0.1:0").await,
    }
}

/// Logs to stderr what `RUST_LOG` asks for.
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
