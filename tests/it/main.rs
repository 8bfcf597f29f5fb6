//! The promises, on a real database, through the router.

#![allow(
    clippy::struct_excessive_bools,
    reason = "the model has what the contract has"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and looks at the database from outside"
)]

mod body;
mod builder;
mod cancellation;
mod cases;
mod cases_server;
mod conditional;
mod connection;
mod contention;
mod escape;
mod executor;
mod faults;
mod handoff;
mod hooks;
mod hostile;
mod isolation;
mod jobs;
mod kinds;
mod kit;
mod load;
mod mistakes;
mod model;
mod nesting;
mod observe;
mod policy_reads;
mod precondition;
mod probe;
mod programs;
mod race;
mod receipts;
mod restart;
mod routing;
mod same_rule;
mod savepoints;
mod script;
mod server;
mod settlement;
mod sqlx_test;
mod trace;
mod transact;
