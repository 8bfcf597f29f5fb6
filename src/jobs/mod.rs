//! Jobs: work that a request leaves behind, authorized when it runs.
//!
//! [`Tx::enqueue`](crate::TxExecutor::enqueue) stores a [`Job`] in the transaction of its request,
//! with the principal of the request. A [`Worker`] runs it later, in a SERIALIZABLE transaction in
//! which the permission is checked again, by the same function that the policy of the request calls.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tower_interlock::{
//!     Denied, Error, Interlock, Tx,
//!     jobs::{Job, RunningJob},
//! };
//!
//! #[derive(Serialize, Deserialize)]
//! struct Export { document: i64 }
//!
//! /// The rule. The policy of the request calls it, too.
//! async fn may_export(tx: &mut Tx, user: &str, document: i64) -> Result<(), Error> {
//!     let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";
//!     let allowed: bool = sqlx::query_scalar(rule).bind(user).bind(document).fetch_one(tx).await?;
//!     Ok(Denied::unless(allowed, "no grant")?)
//! }
//!
//! /// A handler of a request, behind a policy.
//! async fn order_export(mut tx: Tx) -> Result<(), Error> {
//!     tx.enqueue(Job::new("export", Export { document: 7 })).await?;
//!     Ok(())
//! }
//!
//! async fn work(interlock: &Interlock) -> Result<(), Error> {
//!     let worker = interlock.worker().on("export", async |job: RunningJob<Export>, mut tx: Tx| {
//!         let document = job.payload().document;
//!         may_export(&mut tx, job.principal()?, document).await?;
//!         let export = "INSERT INTO exports SELECT id, body FROM documents WHERE id = $1";
//!         sqlx::query(export).bind(document).execute(&mut tx).await?;
//!         Ok::<_, Error>(())
//!     });
//!     worker.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await
//! }
//! ```
//!
//! The rules are J1 to J10 of
//! [the contract](https://docs.rs/crate/tower-interlock/latest/source/docs/contract.md).
//! [When this is enough, and what does
//! more](https://docs.rs/crate/tower-interlock/latest/source/docs/jobs.md).

mod claims;
mod dispatch;
mod enqueue;
mod failure;
mod handler;
mod id;
mod queue;
mod run;
mod runner;
mod statements;
mod worker;

pub(crate) use self::{
    claims::STATEMENTS as CLAIM_STATEMENTS,
    queue::STATEMENTS as QUEUE_STATEMENTS,
    statements::{REQUIRED_TABLE, STATEMENTS, TABLE},
};
pub use self::{
    enqueue::{Enqueued, Job},
    handler::RunningJob,
    id::{InvalidJobId, JobId},
    queue::{EndedJob, JobEnding, Jobs, KindState},
    worker::Worker,
};
