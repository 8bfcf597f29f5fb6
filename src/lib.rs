//! Transactional authorization: the permission check and the handler run in one SERIALIZABLE
//! transaction of CockroachDB or PostgreSQL. They commit together, or nothing happens.
//!
//! ```
//! # use axum::{Extension, Router, extract::Path, routing::put};
//! use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};
//!
//! # #[derive(Clone)] struct User { id: i64 }
//! /// Proof that the caller may edit the document; made only by the policy.
//! #[derive(Clone)]
//! struct CanEdit { document: i64 }
//!
//! async fn can_edit(Extension(user): Extension<User>, Path(document): Path<i64>, mut tx: Tx) -> Result<CanEdit, Error> {
//!     let allowed: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)")
//!         .bind(user.id).bind(document).fetch_one(&mut tx).await?;
//!     Denied::unless(allowed, "no edit grant")?;
//!     Ok(CanEdit { document })
//! }
//!
//! async fn update(Authorized(can): Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<String, Error> {
//!     sqlx::query("UPDATE documents SET body = $2 WHERE id = $1").bind(can.document).bind(&body).execute(&mut tx).await?;
//!     Ok(body)
//! }
//!
//! # fn app(pool: sqlx::PgPool) -> Router {
//! let interlock = Interlock::new(pool);
//! Router::new().route("/documents/{id}", put(update).route_layer(interlock.require(can_edit)))
//! # }
//! ```
//!
//! A whole service of this kind is in `examples/documents`.
//!
//! # Where to find what
//!
//! * [`Policy`]: how to write a check; [`Authorized`]: its proof, in the handler; [`Denied`]: its refusal.
//! * [`Tx`]: the transaction, in policies and handlers; [`Savepoint`]: a part of it that may fail;
//!   [`Tx::after_commit`]: what must not happen before it is true.
//! * [`ConditionalWrite`]: check and write in one statement, where one is enough.
//! * [`AuthorizeLayer`]: **when it commits**, nesting, cancellation.
//! * [`Interlock`]: the settings, and [the pool](Interlock::pool_options).
//! * [`ErrorKind`]: every answer that the layer makes itself; [`Error`]: how they are told apart.
//! * [`Report`]: what became of a request, for logs and tests.
//!
//! # What it promises
//!
//! 1. **Success means committed.** A 2xx or 3xx leaves only after the database has acknowledged
//!    COMMIT. (If no statement was run there is nothing to commit, and with
//!    [`rollback_only`](Tx::rollback_only) or [`dry_run`](Interlock::dry_run) nothing is.)
//! 2. **The permission holds at commit.** What a policy has read through its [`Tx`] is in the
//!    transaction of the write. A revocation that was acknowledged before the request began is
//!    always seen; one that commits meanwhile is ordered before the request, which is then denied,
//!    or after it.
//! 3. **All or nothing.** After a denial, an error, a panic, a timeout, a disconnect or an escaped
//!    `Tx`, nothing is kept.
//! 4. **Once.** However many attempts: the effects in the database happen once, hooks at most once.
//! 5. **Nothing leaks.** No connection returns to the pool inside a transaction, and no database
//!    text reaches a client.
//! 6. **Unknown is said.** If the outcome of COMMIT cannot be known, the answer is
//!    [`OutcomeUnknown`](ErrorKind::OutcomeUnknown), and nothing is repeated.
//! 7. **Fail closed.** Without a policy there is no transaction. A check that could not run is a
//!    5xx: never a 403, never an allow. NULL is not true.
//!
//! # What it does not do
//!
//! * Authentication. The caller is an extractor of yours; one that reads through [`Tx`] puts
//!   sessions and tokens under the second promise, too.
//! * Checks of what was not read through the `Tx`: caches, replicas, `AS OF SYSTEM TIME`, queries
//!   on the pool, clocks (`now()` is the start of the transaction).
//! * Effects outside of the database. Use [`Tx::after_commit`], which a crash may lose, or an
//!   outbox table.
//! * Two databases in one request, or isolation below SERIALIZABLE.
//!
//! # Deployment caveats
//!
//! * **Policies and handlers run more than once.** A serialization failure starts them again, with
//!   the body from memory. Whatever they do besides SQL is done again.
//! * **PostgreSQL** tracks conflicts between
//!   [SERIALIZABLE transactions](https://www.postgresql.org/docs/current/transaction-iso.html#XACT-SERIALIZABLE)
//!   only. The second promise holds if everything that changes permissions is SERIALIZABLE:
//!   migrations, admin tools and psql as well. Attach the [guard](SERIALIZABLE_GUARD) to every
//!   table that a policy reads.
//! * **CockroachDB** is [SERIALIZABLE by default](https://www.cockroachlabs.com/docs/stable/transactions#isolation-levels)
//!   and needs no guard. Its second promise is as good as its clocks: within
//!   [`--max-offset`](https://www.cockroachlabs.com/docs/stable/cockroach-start#flags-max-offset).
//! * **Layer order.** Use `route_layer`, not `Router::layer`, and authenticate outside of it. What
//!   turns answers of 4xx and 5xx into others belongs outside as well: inside, a success is a
//!   reason to commit. Where a route has several methods, give each its own call of
//!   `Router::route`, or merge them: `get(a).route_layer(x).put(b).route_layer(y)` wraps `a` in both.
//! * **Timeouts.** Use [`deadline`](Interlock::deadline). A timeout layer outside of this one
//!   cannot tell a request that was rolled back from one whose COMMIT is under way.
//! * **Bodies** are read to their end before a connection is taken, so that slow clients hold
//!   none. Uploads that do not fit into memory are [`unbuffered`](AuthorizeLayer::unbuffered), with
//!   one attempt and without that protection.
//! * **Streamed answers** come after the commit: a `Tx` cannot be moved into one.
//! * **A disconnect** cancels policy and handler and rolls back, save a COMMIT that was sent.
//! * **Shutdown:** the server's own, then [`drain`](Interlock::drain), then the pool.
//!
//! # Features
//!
//! None. It brings no TLS: choose sqlx's in your own `Cargo.toml`.

mod attempt;
mod autocommit;
mod body;
mod condition;
mod conditional;
mod detach;
mod error;
mod fused;
mod handoff;
mod interlock;
mod layer;
mod lease;
mod lexer;
mod policy;
mod precondition;
mod report;
mod retry;
mod savepoint;
mod server;
mod settlement;
mod slot;
mod statement;
mod template;
mod transaction;
mod turn;
mod tx;
mod until;
mod write_on;

pub use crate::{
    condition::Condition,
    conditional::{BoundWrite, ConditionalWrite},
    error::{Denied, Error, ErrorKind},
    interlock::Interlock,
    layer::{Authorize, AuthorizeLayer, ResponseFuture},
    policy::{Authorized, Policy},
    precondition::{ETag, IfMatch, IfNoneMatch},
    report::{Outcome, Report},
    savepoint::Savepoint,
    tx::Tx,
    write_on::WriteOn,
};

/// The guard for permission tables on PostgreSQL: `sql/serializable_guard.sql`, which says how to
/// attach it.
///
/// It makes the function `interlock_guard()`, for a trigger that refuses changes of permissions in
/// transactions below SERIALIZABLE. CockroachDB needs no guard.
pub const SERIALIZABLE_GUARD: &str = include_str!("../sql/serializable_guard.sql");

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
