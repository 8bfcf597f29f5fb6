//! One run of a job, as work of the engine: the handler, and the end of the job, in one transaction.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    attempt::{self, Attempt, Engine, Failure, Limits, Reply, ReplyClass, Step, Work},
    database::Access,
    error::{Error, ErrorKind},
    jobs::{
        failure::{BoxError, catch_panic, describe, describe_foreign, find_error},
        handler::PreparedHandler,
        statements::{self, JobLease},
    },
    observe::{Finished, WorkKind},
    receipts::{AttemptId, Receipt, ReceiptKey, Receipts},
    report::Outcome,
    tx::{Slot, SlotState, Tx, WorkContext},
};

/// A job that is about to run.
pub(crate) struct JobRun {
    pub(crate) lease: JobLease,
    pub(crate) kind: &'static str,
    pub(crate) principal: Option<Arc<str>>,
    pub(crate) handler: PreparedHandler,
    /// Dropped once the handler has succeeded: the next job can be claimed during the COMMIT.
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

/// The end of a run.
#[derive(Debug)]
pub(crate) enum RunEnd {
    /// Its transaction is committed, and its row gone.
    Done,
    /// The rule has denied it, for this reason.
    Denied(String),
    /// It must not be retried, for this reason.
    Parked(String),
    /// Nothing was kept, for this reason.
    Failed(String),
    /// It is not known whether it was committed.
    Unknown(String),
    /// Another worker has the job, or it is done. Nothing was kept.
    LeaseLost,
}

impl RunEnd {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Done | Self::LeaseLost => "",
            Self::Denied(reason)
            | Self::Parked(reason)
            | Self::Failed(reason)
            | Self::Unknown(reason) => reason,
        }
    }
}

impl JobRun {
    /// Runs the job until its lease ends.
    ///
    /// Dropped, it is rolled back, except for a COMMIT that was sent. The job is due again when its
    /// lease ends.
    pub(crate) async fn run(self, engine: &Engine, limits: &Limits) -> RunEnd {
        let context = engine.context_of_job(self.principal.clone(), self.lease.id.as_u128());
        let started = Instant::now();
        let receipts = engine.receipts.as_ref();
        let mut work = JobWork {
            job: self,
            receipts_valid_for: receipts.map(Receipts::valid_for),
        };
        let Ok(finished) =
            attempt::run(engine, &context, limits, Access::ReadWrite, &mut work).await;
        finished.report(work.job.kind, &context, started.elapsed());
        finished.end
    }
}

/// A job as work.
struct JobWork {
    job: JobRun,
    /// How long receipts are valid, if runs have any: for the audit, and to decide an unknown COMMIT
    /// at once.
    receipts_valid_for: Option<Duration>,
}

/// The end of the attempts at a job.
struct FinishedJob {
    end: RunEnd,
    error: Option<Error>,
    attempts: u32,
    outcome: Outcome,
}

/// The result of one attempt.
enum Ran {
    Finished,
    LeaseLost,
    /// The handler has failed. The first error is that of this crate in the second one.
    Failed(Option<Error>, BoxError),
}

impl Work for JobWork {
    type Output = FinishedJob;
    type Error = Infallible;

    fn queue_key(&self) -> Option<&str> {
        Some(self.job.kind)
    }

    async fn attempt(
        &mut self,
        attempt: &mut Attempt<'_>,
    ) -> Result<Step<Self::Output>, Infallible> {
        let attempts = attempt.number();
        let slot = attempt.open(Access::ReadWrite);
        let ran = {
            let work = pin!(self.job.run_and_finish(&slot));
            attempt.run(&slot, work).await
        };
        let mut state = slot.close();
        let failure = match ran {
            Some(ran) => {
                // A denial that follows from an error is none.
                let denies = state
                    .first_error()
                    .is_none_or(|it| it.kind() == ErrorKind::Denied);
                let receipt = match self.receipts_valid_for.filter(|_| ran.is_finished()) {
                    Some(valid_for) => self.job.receipt(attempts, valid_for, &mut state).map(Some),
                    None => Ok(None),
                };
                let settled = match receipt {
                    Ok(receipt) => attempt.settle(&mut state, ran.reply(), receipt).await,
                    Err(error) => Err(Failure::Replaced(error, state.outcome())),
                };
                match settled {
                    Ok(outcome) => {
                        return Ok(Step::Done(ran.into_finished(attempts, outcome, denies)));
                    }
                    Err(failure) => failure,
                }
            }
            None => attempt.settle_timeout(&state),
        };
        Ok(failure.into_step(|error, outcome| FinishedJob::failed(attempts, error, outcome)))
    }

    fn exhausted(&mut self, attempts: u32, error: Error) -> Self::Output {
        FinishedJob::failed(attempts, error, Outcome::RolledBack)
    }
}

impl JobRun {
    /// Calls the handler and, if it succeeds, deletes the row of the job.
    async fn run_and_finish(&mut self, slot: &Arc<Slot>) -> Ran {
        let handled = catch_panic((self.handler)(Tx::new(slot))).await;
        if let Err(error) = handled.flatten() {
            return Ran::Failed(find_error(&error), error);
        }
        self.place = None;
        match self.finish(slot).await {
            Ok(true) => Ran::Finished,
            Ok(false) => Ran::LeaseLost,
            Err(error) => {
                let error = Error::from(error);
                Ran::Failed(Some(error.clone()), error.into())
            }
        }
    }

    fn receipt(
        &self,
        attempts: u32,
        valid_for: Duration,
        state: &mut SlotState,
    ) -> Result<Box<Receipt>, Error> {
        Ok(Box::new(Receipt {
            key: ReceiptKey::random()?,
            attempt: AttemptId::random()?,
            status: Receipt::TRANSACTION,
            fingerprint: None,
            principal: self.principal.clone(),
            names: self.kind.to_owned(),
            method: None,
            path: None,
            attempts,
            notes: state.take_notes(),
            response: None,
            valid_for,
        }))
    }

    async fn finish(&mut self, slot: &Arc<Slot>) -> Result<bool, sqlx::Error> {
        let mut tx = Tx::new(slot);
        let mut lease = tx.lease().checkout().await?;
        let replied = statements::finish(slot.database(), lease.start()?.sql()?, self.lease).await;
        lease.done(replied)
    }
}

impl Ran {
    fn is_finished(&self) -> bool {
        matches!(self, Self::Finished)
    }

    fn reply(&self) -> Reply<'_> {
        let (class, error) = match self {
            Self::Finished => (ReplyClass::Success, None),
            Self::LeaseLost => (ReplyClass::Declined, None),
            Self::Failed(error, _) => (ReplyClass::Declined, error.as_ref()),
        };
        Reply {
            class,
            error,
            status: None,
        }
    }

    /// `denies` tells whether a denial is one.
    fn into_finished(self, attempts: u32, outcome: Outcome, denies: bool) -> FinishedJob {
        let (end, error) = match self {
            Self::Finished if outcome == Outcome::Committed => (RunEnd::Done, None),
            Self::Finished => {
                let reason = "the handler has called rollback_only: nothing was kept";
                (RunEnd::Failed(reason.to_owned()), None)
            }
            Self::LeaseLost => (RunEnd::LeaseLost, None),
            Self::Failed(Some(error), _) if error.kind() == ErrorKind::Denied && denies => {
                (RunEnd::Denied(describe(&error)), Some(error))
            }
            Self::Failed(Some(error), _) => (RunEnd::Failed(describe(&error)), Some(error)),
            Self::Failed(None, error) => (RunEnd::Failed(describe_foreign(&error)), None),
        };
        FinishedJob {
            end,
            error,
            attempts,
            outcome,
        }
    }
}

impl FinishedJob {
    fn failed(attempts: u32, error: Error, outcome: Outcome) -> Self {
        let reason = describe(&error);
        let end = match (outcome, error.kind()) {
            // T9: it was ended by other means, and what it has committed must not be done again.
            (Outcome::Unknown, ErrorKind::TransactionAborted) => RunEnd::Parked(reason),
            (Outcome::Unknown, _) => RunEnd::Unknown(reason),
            _ => RunEnd::Failed(reason),
        };
        Self {
            end,
            error: Some(error),
            attempts,
            outcome,
        }
    }

    fn report(&self, kind: &'static str, context: &WorkContext, duration: Duration) {
        if let Some(observation) = &context.observation {
            observation.work_finished(&Finished {
                kind: WorkKind::Job,
                names: &[kind],
                principal: context.principal.as_deref(),
                attempts: self.attempts,
                outcome: self.outcome,
                error: self.error.as_ref(),
                duration,
            });
        }
    }
}
