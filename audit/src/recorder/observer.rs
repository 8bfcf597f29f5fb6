//! The recorder as the observer of an interlock.

use std::sync::Arc;

use tower_interlock::observe::{Observer, StatementExecuted, WorkFinished, WorkId};

use super::{Recorder, events::current_exchange, exchange::OpenExchange};

impl Observer for Recorder {
    fn statement_executed(&self, statement: &StatementExecuted<'_>) {
        self.exchange_of(statement.work).observe(statement);
    }

    fn work_finished(&self, work: &WorkFinished<'_>) {
        self.exchange_of(work.work).finish_work(work);
    }
}

impl Recorder {
    /// The exchange that a work belongs to. The first event decides: later ones may come from the
    /// background.
    fn exchange_of(&self, work: WorkId) -> Arc<OpenExchange> {
        let mut state = self.lock();
        let exchange = state
            .works
            .entry(work)
            .or_insert_with(|| current_exchange().unwrap_or_else(|| Arc::clone(&self.0.elsewhere)));
        Arc::clone(exchange)
    }
}
