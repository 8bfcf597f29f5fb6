//! The recorder as the observer of an interlock.

use tower_interlock::observe::{ConnectionTaken, Observer, StatementExecuted, WorkFinished};

use crate::recorder::record::Recorder;

impl Observer for Recorder {
    fn statement_executed(&self, statement: &StatementExecuted<'_>) {
        self.0.exchange_of(statement.work).observe(statement);
    }

    fn connection_taken(&self, taken: &ConnectionTaken) {
        self.0.exchange_of(taken.work).take_connection(taken);
    }

    fn work_finished(&self, work: &WorkFinished<'_>) {
        self.0.exchange_of(work.work).finish_work(work);
    }
}
