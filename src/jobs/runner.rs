//! The way of one job: run, and what becomes of it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    attempt::{Backoff, Engine, Limits},
    error::Error,
    jobs::{
        claims::Claimed,
        failure::{catch_panic, storable},
        handler::ErasedHandler,
        id::JobId,
        run::{JobRun, RunEnd},
        statements,
    },
    observe::{JobEnd, JobRunEnded},
    repeat::Repeatable,
};

/// The part that all jobs of a worker share.
pub(crate) struct Runner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) limits: Limits,
    pub(crate) handlers: HashMap<&'static str, Arc<dyn ErasedHandler>>,
    pub(crate) max_runs: u32,
    pub(crate) backoff: Backoff,
}

impl Runner {
    /// Runs a job that was claimed, and records the end of the run. `place` is given back once the
    /// next job may be claimed.
    ///
    /// Dropped, the run is rolled back, and the job is due again when its lease ends.
    pub(crate) async fn run(&self, mut job: Claimed, place: OwnedSemaphorePermit) {
        let end = if job.counted > self.max_runs {
            RunEnd::Parked(GIVEN_UP.to_owned())
        } else {
            self.call(&mut job, place).await
        };
        self.settle(&job, end).await;
    }

    /// Decodes the payload, and calls the handler.
    async fn call(&self, job: &mut Claimed, place: OwnedSemaphorePermit) -> RunEnd {
        let Some((kind, handler)) = self.handlers.get_key_value(&*job.kind) else {
            return RunEnd::Failed("no handler for this kind".to_owned());
        };
        let (payload, principal) = (std::mem::take(&mut job.payload), job.principal.clone());
        let preparing = async { handler.prepare(job.lease, principal, &payload) };
        let handler = match catch_panic(preparing).await {
            Ok(Ok(handler)) => handler,
            Ok(Err(error)) => {
                return RunEnd::Parked(format!("the payload cannot be decoded: {error}"));
            }
            Err(panic) => return RunEnd::Failed(panic.to_string()),
        };
        let mut limits = self.limits;
        limits.set_deadline(job.deadline.saturating_duration_since(Instant::now()));
        let run = JobRun {
            lease: job.lease,
            kind,
            principal: job.principal.clone(),
            handler,
            place: Some(place),
        };
        run.run(&self.engine, &limits).await
    }

    /// Records the end of a run, and reports it.
    async fn settle(&self, job: &Claimed, end: RunEnd) {
        let (recorded, reason) = (self.record(job, &end).await, end.reason());
        let end = recorded.unwrap_or_else(|error| {
            let cause = error.describe();
            tracing::warn!(%error, cause, "the end of a run could not be recorded");
            JobEnd::LeaseLost
        });
        self.report(job, end, reason);
    }

    /// Records the end of a run, and returns what has become of the job.
    async fn record(&self, job: &Claimed, end: &RunEnd) -> Result<JobEnd, Error> {
        let pause = self.backoff.pause(job.counted.saturating_add(1));
        match end {
            RunEnd::Done => Ok(JobEnd::Done),
            RunEnd::LeaseLost => Ok(JobEnd::LeaseLost),
            RunEnd::Denied(reason) => self.end(job, JobEnd::Denied, reason).await,
            RunEnd::Parked(reason) => self.end(job, JobEnd::Parked, reason).await,
            RunEnd::Failed(reason) if job.counted >= self.max_runs => {
                self.end(job, JobEnd::Parked, reason).await
            }
            RunEnd::Failed(reason) => self.make_due(job, pause, reason).await,
            RunEnd::Unknown(reason) => match self.make_due(job, pause, reason).await? {
                JobEnd::LeaseLost if self.is_gone(job.lease.id).await? => Ok(JobEnd::Done),
                end => Ok(end),
            },
        }
    }

    /// Ends the job. If it was enqueued again meanwhile it is due again instead, since the run has
    /// not seen what the transaction has written that enqueued it.
    async fn end(&self, job: &Claimed, end: JobEnd, reason: &str) -> Result<JobEnd, Error> {
        let (lease, stored) = (job.lease, storable(reason));
        let name = if end == JobEnd::Denied {
            statements::DENIED
        } else {
            statements::PARKED
        };
        let ending = self.repeat(move |database, sql| {
            let reason = stored.clone();
            Box::pin(async move { statements::end(database, sql, lease, name, &reason).await })
        });
        if ending.await? {
            return Ok(end);
        }
        self.make_due(job, Duration::ZERO, reason).await
    }

    /// Makes the job due after a pause. If its row does not match, it has another lease, or is gone.
    async fn make_due(
        &self,
        job: &Claimed,
        pause: Duration,
        reason: &str,
    ) -> Result<JobEnd, Error> {
        let (lease, stored) = (job.lease, storable(reason));
        let failing = self.repeat(move |database, sql| {
            let reason = stored.clone();
            Box::pin(
                async move { statements::retry_later(database, sql, lease, pause, &reason).await },
            )
        });
        let is_due = failing.await?;
        Ok(if is_due {
            JobEnd::Failed
        } else {
            JobEnd::LeaseLost
        })
    }

    /// Whether the row of a job is gone. It is deleted by the COMMIT of its run.
    async fn is_gone(&self, id: JobId) -> Result<bool, Error> {
        let finding =
            self.repeat(move |database, sql| Box::pin(statements::exists(database, sql, id)));
        Ok(!finding.await?)
    }

    fn report(&self, job: &Claimed, end: JobEnd, reason: &str) {
        match end {
            JobEnd::Done => tracing::debug!("job done"),
            JobEnd::Failed => tracing::warn!(reason, "job failed, it will be retried"),
            JobEnd::Denied => tracing::info!(reason, "job denied"),
            JobEnd::Parked => tracing::error!(reason, "job parked"),
            JobEnd::LeaseLost => tracing::warn!(reason, "the lease of a job was lost"),
        }
        self.engine.observe_job(|| JobRunEnded {
            id: job.lease.id.to_string(),
            kind: &job.kind,
            principal: job.principal.as_deref(),
            run: u32::try_from(job.lease.run).unwrap_or_default(),
            end,
            reason: Some(reason).filter(|reason| !reason.is_empty()),
        });
    }

    async fn repeat<T: Send + 'static>(&self, statement: impl Repeatable<T>) -> Result<T, Error> {
        let limit = Instant::now() + RECORD_TIMEOUT;
        self.engine.database.run_repeatable(limit, statement).await
    }
}

/// How long the database is asked to record the end of a run. Then the job is due again at the end
/// of its lease.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// The reason of a job that is parked because its runs do not end.
const GIVEN_UP: &str = "too many runs; the last one has ended with its lease: its process was killed, or lost the database";
