//! The part that all clones of one `Interlock` share.

use std::sync::Arc;

use crate::{
    attempt::queue::RetryQueues,
    database::Database,
    observe::{Observation, Observer},
    tx::WorkContext,
};

/// The part that all clones of one `Interlock` share.
pub(crate) struct Engine {
    pub(crate) database: Arc<Database>,
    pub(crate) queues: RetryQueues,
    observer: Option<Arc<dyn Observer>>,
}

impl Engine {
    pub(crate) fn new(database: Database, observer: Option<Arc<dyn Observer>>) -> Self {
        Self {
            database: Arc::new(database),
            queues: RetryQueues::default(),
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
