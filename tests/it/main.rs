//! The promises, on a real database, through the router.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and looks at the database from outside"
)]

mod body;
mod cancellation;
mod conditional;
mod connection;
mod contention;
mod escape;
mod hooks;
mod isolation;
mod kinds;
mod kit;
mod nesting;
mod precondition;
mod race;
mod routing;
mod same_rule;
mod savepoints;
mod server;
mod settlement;
mod template;
mod trace;
