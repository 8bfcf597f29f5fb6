//! Finds or starts the database that the tests, the examples and the benches of tower-interlock run on.
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
//! The first of these that is there:
//!
//! 1. the running server that `DATABASE_URL` names, PostgreSQL or CockroachDB;
//! 2. `cockroach` on `PATH`, started as a single node in memory;
//! 3. PostgreSQL on `PATH`, or else the newest one in the usual places, started on a cluster of its own. When the run is
//!    root's, which PostgreSQL refuses, the server runs as `postgres` or `nobody`.
//!
//! # What stays behind
//!
//! Nothing, however the run ends. A server that we start and its folder belong to a watchdog process, which removes both
//! as soon as the process that started them is gone, be it by SIGKILL.
//!
//! A test's database goes when the test passes and stays when it fails. Under a server that we started it goes with the
//! server; set `DATABASE_URL` to look at it afterwards.

mod account;
mod blocking;
mod cockroach;
mod database;
mod error;
mod find;
mod postgres;
mod proxy;
mod random;
mod server;
mod sql;
mod svg;
mod test;
mod url;
mod watchdog;

use self::random::random;

pub use self::{
    database::Database,
    error::StartError,
    proxy::{Counts, Fault, Moment, Proxy, ServerError},
    server::{Kind, Server, Shutdown},
    svg::Svg,
    test::test,
};
