//! Finds or starts the database of the tests, the examples and the benches of tower-interlock.
//!
//! It also has what several test binaries share: the [`Proxy`], the checks of [`hostile`] input and
//! the requests of [`traffic`].
//!
//! ```no_run
//! support::test(async |database| {
//!     database.run("CREATE TABLE doc (id INT8 PRIMARY KEY)").await;
//!     let pool = database.pool(4).await;
//!     // …
//! });
//! ```
//!
//! # Which server
//!
//! The first of these that is available:
//!
//! 1. the running server that `DATABASE_URL` names, PostgreSQL or CockroachDB;
//! 2. `cockroach` on `PATH`, started as a single node in memory;
//! 3. PostgreSQL on `PATH`, or else the newest one in the usual places, started on a cluster of its
//!    own. PostgreSQL refuses to run as root. For root the server runs as `postgres` or `nobody`;
//! 4. a PostgreSQL that is fetched once into the user's cache, and started in the same way.
//!
//! # The PostgreSQL that is fetched
//!
//! It is of a pinned version, built by the project theseus-rs for Linux with glibc and for macOS, on
//! x86-64 and ARM. Its SHA-256 is in the source. The package `tests/embedded` fetches it. That is
//! built only then, from crates that are fetched too. On Linux the server needs libraries that a
//! minimal container may lack, such as libxml2; then it is not kept, and the message names the
//! library. Environment variables:
//!
//! - `NO_EMBEDDED_POSTGRES`: if it is not empty, nothing is fetched, nor taken from the cache.
//! - `EMBEDDED_POSTGRES_CACHE`: the cache, instead of `$XDG_CACHE_HOME`, `~/.cache` or
//!   `~/Library/Caches`. That of root is `/var/cache`, since the server's account reads it.
//! - `EMBEDDED_POSTGRES_URL`: a mirror of the releases, instead of GitHub.
//!
//! # Cleanup
//!
//! A run leaves nothing behind. A watchdog process owns the server that this crate started and its
//! folder. It removes both as soon as the process that started them is gone, also after SIGKILL.
//!
//! The database of a test is dropped if the test passes, and kept if it fails. On a server that
//! this crate started it is removed together with the server. Set `DATABASE_URL` to inspect it
//! afterwards.

mod account;
mod blocking;
mod cockroach;
mod database;
mod distance;
mod drop_after;
mod embedded;
mod error;
mod find;
pub mod hostile;
mod postgres;
mod proxy;
mod random;
mod server;
mod sql;
mod summary;
mod svg;
mod test;
pub mod traffic;
mod url;
mod watchdog;

use self::random::random;

pub use self::{
    database::Database,
    distance::Distances,
    drop_after::drop_after,
    error::StartError,
    proxy::{Counts, Fault, Moment, Proxy, ServerError},
    server::{Kind, Server, Shutdown},
    summary::{Spread, print_table},
    svg::Svg,
    test::test,
};
