//! Jobs on their way into the queue.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::Value;

use crate::{
    error::{Error, ErrorKind},
    jobs::{
        id::JobId,
        statements::{self, NewJob},
    },
    receipts::Sha256Writer,
    tx::{Lease, TxExecutor},
};

/// A job that is to be enqueued by [`Tx::enqueue`](TxExecutor::enqueue).
#[derive(Debug)]
#[must_use = "it does nothing until it is enqueued"]
pub struct Job {
    kind: &'static str,
    payload: Result<Value, serde_json::Error>,
    unique_key: Option<Vec<u8>>,
    delay: Duration,
}

/// A job that is in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enqueued {
    /// It was added, and is stored exactly if the transaction commits.
    Added(JobId),
    /// A job with the same [unique key](Job::unique) is queued, and takes the place of this one.
    AlreadyQueued(JobId),
}

impl Job {
    /// Returns a job for the handler of `kind`; see [`Worker::on`](crate::jobs::Worker::on).
    ///
    /// The payload is stored as JSON, in a column that many can read: it must not contain secrets.
    /// It says what to do. The permission to do it is checked when the job runs.
    pub fn new(kind: &'static str, payload: impl Serialize) -> Self {
        Self {
            kind,
            payload: serde_json::to_value(payload),
            unique_key: None,
            delay: Duration::ZERO,
        }
    }

    /// Enqueues no second job while one with this key is queued. The key belongs to the kind and
    /// to the principal.
    ///
    /// The job that is queued keeps its payload and its time. It runs after the transaction that
    /// wanted to enqueue this one, also if it is running just now: then it is retried, and sees
    /// what that transaction has written. Once it is done, or has ended, the key is free.
    pub fn unique(mut self, key: impl AsRef<[u8]>) -> Self {
        self.unique_key = Some(key.as_ref().to_vec());
        self
    }

    /// Makes the job due this long after its transaction has begun. Default: at once.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay.min(LONGEST_DELAY);
        self
    }
}

impl Enqueued {
    /// Returns the id of the job that is queued.
    #[must_use]
    pub fn id(self) -> JobId {
        match self {
            Self::Added(id) | Self::AlreadyQueued(id) => id,
        }
    }
}

impl TxExecutor {
    /// Enqueues a job. It is stored exactly if the transaction commits, and seen by no worker
    /// before.
    ///
    /// The job belongs to the [principal](Self::principal) of this work, whose permission is
    /// checked when it runs. A worker of the same process is woken up once COMMIT is acknowledged;
    /// others find the job at their next poll. The job is dropped when the savepoint that it was
    /// enqueued on is rolled back.
    ///
    /// It needs [`InterlockBuilder::jobs`](crate::InterlockBuilder::jobs).
    ///
    /// # Errors
    ///
    /// Returns the database's error, or an [`Error`](crate::Error) of this crate, such as
    /// [`Misconfigured`](crate::ErrorKind::Misconfigured) for a payload that JSON cannot express;
    /// convert it with `Error::from`.
    pub async fn enqueue(&mut self, job: Job) -> Result<Enqueued, sqlx::Error> {
        let Some(jobs) = self.slot().jobs().cloned() else {
            return Err(misconfigured("a job needs InterlockBuilder::jobs()"));
        };
        let payload = job
            .payload
            .map_err(|error| misconfigured(&format!("the payload of a job: {error}")))?;
        let principal = self.slot().principal().cloned();
        let principal = principal.as_deref();
        let unique_key = job.unique_key.map(|key| {
            let hash = Sha256Writer::new("job")
                .part(job.kind.as_bytes())
                .optional(principal.map(str::as_bytes));
            hash.part(&key).finish()
        });
        let id = JobId::random().map_err(Error::into_sqlx)?;
        let new = NewJob {
            id,
            kind: job.kind,
            principal,
            payload: &payload,
            unique_key: unique_key.as_ref().map(<[u8; 32]>::as_slice),
            delay: job.delay,
        };
        // Dropped while it awaits, the statement is abandoned as any other one (T8).
        let mut queued = store(self.lease(), &new).await?;
        if jobs.running == Some(queued.as_u128()) {
            // The job that is running is in the way of its own successor. It is done if that is
            // stored.
            free_key(self.lease(), queued).await?;
            queued = store(self.lease(), &new).await?;
        }
        if queued != id {
            return Ok(Enqueued::AlreadyQueued(queued));
        }
        if job.delay.is_zero() {
            self.after_commit(async move { jobs.enqueued.send_replace(()) });
        }
        Ok(Enqueued::Added(id))
    }
}

async fn store(lease: &mut Lease, new: &NewJob<'_>) -> Result<JobId, sqlx::Error> {
    let mut lease = lease.checkout().await?;
    let database = Arc::clone(lease.slot().database());
    let replied = statements::enqueue(&database, lease.start()?.sql()?, new).await;
    lease.note_skipped(false);
    lease.done(replied.map_err(Error::unseen_violation))
}

async fn free_key(lease: &mut Lease, running: JobId) -> Result<(), sqlx::Error> {
    let mut lease = lease.checkout().await?;
    let database = Arc::clone(lease.slot().database());
    let replied = statements::free_key(&database, lease.start()?.sql()?, running).await;
    lease.done(replied)
}

fn misconfigured(cause: &str) -> sqlx::Error {
    Error::because(ErrorKind::Misconfigured, cause).into_sqlx()
}

/// A century: the servers cannot add just any interval.
const LONGEST_DELAY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
