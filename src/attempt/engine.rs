//! The part that all clones of one `Interlock` share.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::watch::Sender;

use crate::{
    attempt::queue::RetryQueues,
    database::{Database, RequiredTable},
    observe::{JobRunEnded, Observation, Observer},
    receipts::{DenialLog, REQUIRED_TABLE, Receipts},
    tx::{JobContext, WorkContext},
};

/// The part that all clones of one `Interlock` share.
pub(crate) struct Engine {
    pub(crate) database: Arc<Database>,
    pub(crate) queues: RetryQueues,
    pub(crate) receipts: Option<Receipts>,
    pub(crate) denials: DenialLog,
    /// Wakes up the workers of this process for new jobs and for `drain`, if there is a queue.
    pub(crate) enqueued: Option<Sender<()>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Engine {
    pub(crate) fn new(
        pool: PgPool,
        handoff: bool,
        receipts: Option<Receipts>,
        jobs: Option<RequiredTable>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let tables = receipts.iter().map(|_| REQUIRED_TABLE).chain(jobs);
        let tables = tables.collect();
        Self {
            database: Arc::new(Database::new(pool, handoff, tables)),
            queues: RetryQueues::default(),
            receipts,
            denials: DenialLog::default(),
            enqueued: jobs.map(|_| Sender::new(())),
            observer,
        }
    }

    /// The context of new work, which is recorded for `principal`.
    pub(crate) fn context(&self, principal: Option<Arc<str>>) -> WorkContext {
        WorkContext {
            database: Arc::clone(&self.database),
            observation: self.observer.as_ref().map(Observation::new),
            principal,
            jobs: self.job_context(None),
        }
    }

    /// The context of a run of the job with this id.
    pub(crate) fn context_of_job(&self, principal: Option<Arc<str>>, id: u128) -> WorkContext {
        WorkContext {
            jobs: self.job_context(Some(id)),
            ..self.context(principal)
        }
    }

    /// Tells the observer of the end of a run, if there is one.
    pub(crate) fn observe_job<'e>(&self, event: impl FnOnce() -> JobRunEnded<'e>) {
        if let Some(observer) = &self.observer {
            Observation::new(observer).job_run_ended(&event());
        }
    }

    /// Rejects new work, ends the workers, and waits until no work is under way.
    pub(crate) async fn drain(&self) {
        self.database.close();
        if let Some(enqueued) = &self.enqueued {
            enqueued.send_replace(());
        }
        self.database.drain().await;
    }

    fn job_context(&self, running: Option<u128>) -> Option<JobContext> {
        let enqueued = self.enqueued.clone()?;
        Some(JobContext { enqueued, running })
    }
}
