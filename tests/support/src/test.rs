use crate::{database::Database, server::Server, url};
use std::{
    fmt::Display,
    panic::{self, AssertUnwindSafe},
    thread,
    time::Duration,
};
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// Runs a test in a database of its own, on a fresh runtime with two worker threads.
///
/// The database is named after the test. It is dropped if the test passes. If the test panics, it
/// is kept, and its name and URL are printed.
///
/// # Panics
///
/// With the panic of the test, or if the server rejects a database.
pub fn test<F, Fut>(body: F)
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = ()>,
{
    let server = Server::shared();
    let runtime = runtime();
    let database = runtime.block_on(create(server));

    let own = database.clone();
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { body(own).await });
    }));

    // Tasks that the test has left running, such as a pool, must release the database first.
    runtime.shutdown_timeout(Duration::from_secs(1));

    match outcome {
        Ok(()) => discard(database),
        Err(panic) => {
            keep(server, &database);
            panic::resume_unwind(panic)
        }
    }
}

#[allow(clippy::panic, reason = "the harness of a test")]
fn runtime() -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap_or_else(|error| panic!("no runtime: {error}"))
}

#[allow(clippy::panic, reason = "the harness of a test")]
async fn create(server: &Server) -> Database {
    let thread = thread::current();
    let database = server.create_database(thread.name().unwrap_or("test"));
    database
        .await
        .unwrap_or_else(|error| panic!("no database for the test: {error}"))
}

/// A database that cannot be dropped does not fail a test that has passed.
fn discard(database: Database) {
    let name = database.name().to_owned();
    let report = |error: &dyn Display| eprintln!("database {name} not dropped: {error}");
    match runtime().block_on(async { timeout(PATIENCE, database.drop()).await }) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report(&error),
        Err(error) => report(&error),
    }
}

fn keep(server: &Server, database: &Database) {
    let url = url::without_password(&database.url());
    eprintln!("database {} kept: {url}", database.name());
    if server.is_ours() {
        eprintln!(
            "it goes with its server at the end of this process; set DATABASE_URL to keep it"
        );
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
