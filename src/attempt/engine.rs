//! The part that all clones of one `Interlock` share.

use std::sync::Arc;

use sqlx::PgPool;

use crate::{
    attempt::queue::RetryQueues,
    database::Database,
    observe::{Observation, Observer},
    receipts::{DenialLog, REQUIRED_TABLE, Receipts},
    tx::WorkContext,
};

/// The part that all clones of one `Interlock` share.
pub(crate) struct Engine {
    pub(crate) database: Arc<Database>,
    pub(crate) queues: RetryQueues,
    pub(crate) receipts: Option<Receipts>,
    pub(crate) denials: DenialLog,
    observer: Option<Arc<dyn Observer>>,
}

impl Engine {
    pub(crate) fn new(
        pool: PgPool,
        handoff: bool,
        receipts: Option<Receipts>,
        observer: Option<Arc<dyn Observer>>,
    ) -> Self {
        let tables = receipts.iter().map(|_| REQUIRED_TABLE).collect();
        Self {
            database: Arc::new(Database::new(pool, handoff, tables)),
            queues: RetryQueues::default(),
            receipts,
            denials: DenialLog::default(),
            observer,
        }
    }

    /// The context of new work, which is recorded for `principal`.
    pub(crate) fn context(&self, principal: Option<Arc<str>>) -> WorkContext {
        WorkContext {
            database: Arc::clone(&self.database),
            observation: self.observer.as_ref().map(Observation::new),
            principal,
        }
    }
}
