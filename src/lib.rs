//! Transactional authorization: the permission check and the handler run in one SERIALIZABLE
//! transaction of CockroachDB or PostgreSQL. It is committed only if both succeed.
//!
//! ```
//! # use axum::{Extension, Router, extract::Path, routing::put};
//! use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};
//!
//! # #[derive(Clone)] struct User { id: i64 }
//! /// Proof that the caller may edit the document. Only the policy makes one.
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
//! async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<String, Error> {
//!     sqlx::query("UPDATE documents SET body = $2 WHERE id = $1").bind(can.document).bind(&body).execute(&mut tx).await?;
//!     Ok(body)
//! }
//!
//! # async fn app() -> Result<Router, Error> {
//! let interlock = Interlock::connect("postgres://localhost/app").await?;
//! # Ok(
//! Router::new().route("/documents/{id}", put(update).route_layer(interlock.require(can_edit)))
//! # )}
//! ```
//!
//! A whole service of this kind is in `examples/documents`.
//!
//! # Map
//!
//! * [`Policy`]: how to write a check; [`Authorized`]: its proof, in the handler; [`Denied`]: its
//!   denial.
//! * [`Tx`]: the transaction, in policies and handlers; [`Savepoint`]: a part of it that may fail;
//!   [`Tx::after_commit`](TxExecutor::after_commit): effects that must follow the COMMIT.
//! * [`ConditionalWrite`]: check and write in one statement; [`precondition`]: `If-Match`,
//!   `If-None-Match` and `ETag`.
//! * [`Interlock::transact`]: the same promises outside of requests.
//! * [`jobs`]: work that a request leaves behind, authorized when it runs.
//! * [`AuthorizeLayer`]: **when it commits**, nesting, cancellation.
//! * [`InterlockBuilder`]: the settings; [`Interlock::pool_options`]: the pool.
//! * [`ErrorKind`]: every error that the crate responds with; [`Error`]: how to tell them apart.
//! * [`Receipts`]: unknown outcomes decided, idempotency keys, the audit row.
//! * [`Report`]: what became of a request; [`observe`]: metrics and traces of all work.
//! * [`Interlock::public`] and [`Interlock::conditional`]: marks of routes without a policy;
//!   [`probe`]: what protects a route. The crate `tower-interlock-audit` tests a service with them.
//!
//! # Promises
//!
#![doc = include_str!("docs/promises.md")]
//!
//! The rules behind them are numbered in
//! [the contract](https://docs.rs/crate/tower-interlock/latest/source/docs/contract.md).
//!
//! # Limits
//!
//! * It does not authenticate. The caller is an extractor of yours; one that reads through [`Tx`]
//!   brings sessions and tokens under the second promise as well.
//! * It does not check what was not read through the `Tx`: caches, replicas, `AS OF SYSTEM TIME`,
//!   queries on the pool, clocks (`now()` is the start of the transaction).
//! * It does not undo effects outside of the database. Use
//!   [`Tx::after_commit`](TxExecutor::after_commit), which a crash may lose, or an outbox table.
//! * It does not take back a COMMIT that a handler has sent itself, in the middle of a text or on
//!   the raw [`connection`](Tx::connection). The response is then a 500, the outcome is
//!   [`Unknown`](Outcome::Unknown), and nothing is retried.
//! * It does not span two databases in one request, and has no isolation below SERIALIZABLE.
//!
//! # Deployment caveats
//!
//! * **Policies and handlers may run several times.** After a serialization failure they are
//!   retried, with the body from memory. Their effects other than SQL are repeated. Requests that
//!   ask for an upgrade are not retried; for any other value in the extensions that works only
//!   once, set [`max_attempts(1)`](AuthorizeLayer::max_attempts).
//! * **PostgreSQL** tracks conflicts between [SERIALIZABLE
//!   transactions](https://www.postgresql.org/docs/current/transaction-iso.html#XACT-SERIALIZABLE)
//!   only. The second promise holds if everything that changes permissions is SERIALIZABLE,
//!   including migrations, admin tools and psql. Attach the [guard](schema::SERIALIZABLE_GUARD) to
//!   every table that a policy reads.
//! * **PostgreSQL tracks the rows of tables only**, also behind views and functions. The second
//!   promise does not hold for materialized views before PostgreSQL 16, foreign tables, sequences,
//!   system catalogs, large objects, temporary tables and ranges of `ctid`, nor for roles,
//!   privileges, settings, files, `dblink` and changed definitions. In the first runs of a policy
//!   the crate looks for them: it rejects the first two if the policy reads no table as well, and
//!   warns of the others. [`transact`](Interlock::transact) has no policy and is not looked at.
//!   [The list](https://docs.rs/crate/tower-interlock/latest/source/docs/postgresql.md) has the way
//!   out, and the limits of CockroachDB.
//! * **CockroachDB** is [SERIALIZABLE by
//!   default](https://www.cockroachlabs.com/docs/stable/transactions#isolation-levels) and needs no
//!   guard. Its second promise holds as long as its clocks are within
//!   [`--max-offset`](https://www.cockroachlabs.com/docs/stable/cockroach-start#flags-max-offset).
//! * **Layer order.** Use `route_layer`, not `Router::layer`, and authenticate outside of it.
//!   Middleware that turns responses of 4xx and 5xx into others belongs outside as well: inside, a
//!   success is a reason to commit. Where a route has several methods, give each its own call of
//!   `Router::route`, or merge them: `get(a).route_layer(x).put(b).route_layer(y)` wraps `a` in
//!   both.
//! * **Timeouts.** Use [`deadline`](InterlockBuilder::deadline). A timeout layer outside of this
//!   one cannot tell a request that was rolled back from one whose COMMIT is under way.
//! * **Bodies** are read to their end before a connection is acquired, so that slow clients hold
//!   none. Uploads that do not fit into memory are [`unbuffered`](AuthorizeLayer::unbuffered), with
//!   one attempt and without that protection. Outside of the handler one limit counts:
//!   [`body_limit`](InterlockBuilder::body_limit) if it is set, or else axum's `DefaultBodyLimit`.
//! * **One transaction at a time.** While a task has a [`Tx`] open, a conditional write on the
//!   `Interlock`, a `transact` or a request in the same task is rejected: it would wait for its own
//!   locks. In a task of its own it is not noticed, and waits.
//! * **Streamed responses** follow the commit: a `Tx` cannot be moved into one.
//! * **A disconnect** cancels policy and handler and rolls back, except for a COMMIT that was sent.
//! * **Shutdown:** first the server's own, then [`drain`](Interlock::drain), then the pool.
//!
//! # Features
//!
//! There are none. The crate brings no TLS: choose sqlx's in your own `Cargo.toml`.

mod attempt;
mod builder;
mod database;
mod error;
mod http;
mod interlock;
pub mod jobs;
pub mod observe;
mod own;
mod receipts;
mod repeat;
mod report;
pub mod transact;
mod tx;
mod write;

pub use crate::{
    attempt::Backoff,
    builder::InterlockBuilder,
    error::{Denied, Error, ErrorKind},
    http::{AuthorizeLayer, Authorized, Policy},
    interlock::Interlock,
    receipts::Receipts,
    report::{Outcome, Report},
    tx::{Savepoint, Tx, TxExecutor},
    write::{Condition, ConditionalWrite},
};

/// The types around a [`ConditionalWrite`].
pub mod conditional {
    pub use crate::write::{BoundWrite, WriteTarget};
}

/// The Tower service of an [`AuthorizeLayer`], and the marks of routes without one.
pub mod layer {
    pub use crate::http::{AuthorizeService, MarkFuture, MarkLayer, MarkService, ResponseFuture};
}

/// HTTP preconditions on the integer version of a row.
pub mod precondition {
    pub use crate::http::precondition::{CreateOnly, ETag, IfMatch, IfNoneMatch};
}

/// What audits ask: which protection a route has, what a task is running, and whose a statement is.
pub mod probe {
    pub use crate::{
        http::probe::{Probe, ProbedCondition, Protection},
        own::is_own_statement,
        tx::scope::current_attempt,
    };
}

/// SQL for the database.
pub mod schema {
    /// The guard for permission tables on PostgreSQL: `sql/serializable_guard.sql`, which says how
    /// to attach it.
    ///
    /// It creates the function `interlock_guard()`, for a trigger that rejects changes of
    /// permissions in transactions below SERIALIZABLE. CockroachDB needs no guard.
    pub const SERIALIZABLE_GUARD: &str = include_str!("../sql/serializable_guard.sql");

    /// The table of [receipts](crate::Receipts): `sql/receipts.sql`.
    ///
    /// Run it with the migrations of the service. It changes nothing if the table exists.
    pub const RECEIPTS: &str = include_str!("../sql/receipts.sql");

    /// The table of [jobs](crate::jobs): `sql/jobs.sql`.
    ///
    /// Run it with the migrations of the service. It changes nothing if the table exists.
    pub const JOBS: &str = include_str!("../sql/jobs.sql");
}

/// The examples of the README and of the guides, compiled.
#[cfg(doctest)]
mod examples {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/guides/deployment.md")]
    struct Deployment;
    #[doc = include_str!("../docs/guides/from-axum-login.md")]
    struct FromAxumLogin;
    #[doc = include_str!("../docs/guides/from-axum-sqlx-tx.md")]
    struct FromAxumSqlxTx;
    #[doc = include_str!("../docs/guides/from-begin.md")]
    struct FromBegin;
    #[doc = include_str!("../docs/guides/permission-tables.md")]
    struct PermissionTables;
    #[doc = include_str!("../docs/guides/which.md")]
    struct Which;
}
