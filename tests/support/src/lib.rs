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
//!    own. PostgreSQL refuses to run as root. For root the server runs as `postgres` or `nobody`.
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
