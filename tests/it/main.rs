//! The promises, on a real database, through the router.

mod body;
mod cancellation;
mod connection;
mod contention;
mod escape;
mod hooks;
mod isolation;
mod kinds;
mod kit;
mod nesting;
mod routing;
mod savepoints;
mod server;
mod settlement;
mod trace;
