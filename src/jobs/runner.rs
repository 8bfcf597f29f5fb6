//! The way of one job: claim, run, and what becomes of it.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use futures_core::future::BoxFuture;
use sqlx::PgConnection;
use tokio::{task::JoinSet, time::Instant};
use tracing::Instrument as _;

use crate::{
    attempt::{Backoff, Engine, Limits},
    database::Database,
    error::Error,
    jobs::{
        failure::{describe_panic, storable},
        handler::ErasedHandler,
        id::JobId,
        run::{JobRun, RunEnd},
        statements::{self, Candidate, Claimed, JobLease},
    },
    observe::{JobEnd, JobRunEnded},
};

/// The part that all jobs of a worker share.
pub(crate) struct Runner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) limits: Limits,
    pub(crate) handlers: HashMap<&'static str, Arc<dyn ErasedHandler>>,
    pub(crate) lease: Duration,
    pub(crate) max_runs: u32,
    pub(crate) backoff: Backoff,
}

/// Whether a candidate was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Won,
    /// Another worker was faster.
    Lost,
    /// The database has not answered.
    Failed,
}

/// A job that was claimed, as far as its end needs it.
struct Held {
    lease: JobLease,
    kind: String,
    principal: Option<Arc<str>>,
    /// The runs that count towards the maximum, with this one.
    counted: u32,
}

impl Runner {
    /// Claims a job and runs it.
    ///
    /// Dropped, the run is rolled back, and the job is due again when its lease ends.
    pub(crate) async fn process(&self, candidate: Candidate) -> Claim {
        let running = self.engine.database.token();
        let counted = u32::try_from(candidate.counted).unwrap_or_default();
        if counted >= self.max_runs {
            return self.give_up(candidate).await;
        }
        // Before the claim is sent, so that it ends before the database's lease does.
        let lease_ends = Instant::now() + self.lease;
        let claimed = match self.claim(candidate, lease_ends).await {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Claim::Lost,
            Err(error) => {
                tracing::warn!(%error, cause = error.describe(), "a job could not be claimed");
                return Claim::Failed;
            }
        };
        let held = Held {
            lease: JobLease {
                id: candidate.id,
                run: candidate.runs.saturating_add(1),
            },
            kind: claimed.kind.clone(),
            principal: claimed.principal.as_deref().map(Arc::from),
            counted: counted.saturating_add(1),
        };
        let span = tracing::error_span!("job", kind = held.kind, id = %held.lease.id, run = held.lease.run);
        self.run_claimed(held, claimed, lease_ends)
            .instrument(span)
            .await;
        drop(running);
        Claim::Won
    }

    async fn run_claimed(&self, held: Held, claimed: Claimed, lease_ends: Instant) {
        let Some((kind, handler)) = self.handlers.get_key_value(&*claimed.kind) else {
            return; // Only kinds with a handler are looked for.
        };
        let prepared = handler.prepare(held.lease, held.principal.clone(), claimed.payload);
        let handler = match prepared {
            Ok(handler) => handler,
            Err(error) => {
                let reason = storable(&format!("the payload cannot be decoded: {error}"));
                return self.end(&held, JobEnd::Parked, reason).await;
            }
        };
        let run = JobRun {
            lease: held.lease,
            kind,
            principal: held.principal.clone(),
            handler,
        };
        let end = self.run_isolated(run, lease_ends).await;
        self.settle(&held, end).await;
    }

    /// Runs a job in a task of its own, so that a panic ends that task only.
    async fn run_isolated(&self, run: JobRun, lease_ends: Instant) -> RunEnd {
        let mut limits = self.limits;
        limits.set_deadline(lease_ends.saturating_duration_since(Instant::now()));
        let engine = Arc::clone(&self.engine);
        let running = async move { run.run(&engine, &limits).await };
        // Dropped with this future, the set aborts the task.
        let mut task = JoinSet::new();
        task.spawn(running.in_current_span());
        match task.join_next().await {
            Some(Ok(end)) => end,
            Some(Err(error)) => {
                let panic = error.try_into_panic();
                RunEnd::Failed(panic.map_or_else(|it| it.to_string(), |it| describe_panic(&*it)))
            }
            None => RunEnd::Failed(String::new()),
        }
    }

    /// Parks a job whose last run has ended with its lease: its process was killed, or lost the
    /// database.
    async fn give_up(&self, candidate: Candidate) -> Claim {
        let ended = self
            .repeat(move |database, sql| Box::pin(statements::give_up(database, sql, candidate)));
        match ended.await {
            Ok(Some((kind, principal))) => {
                let held = Held {
                    lease: JobLease {
                        id: candidate.id,
                        run: candidate.runs,
                    },
                    kind,
                    principal: principal.as_deref().map(Arc::from),
                    counted: u32::try_from(candidate.counted).unwrap_or_default(),
                };
                self.report(&held, JobEnd::Parked, statements::GIVEN_UP);
                Claim::Won
            }
            Ok(None) => Claim::Lost,
            Err(error) => {
                tracing::warn!(%error, cause = error.describe(), "a job could not be parked");
                Claim::Failed
            }
        }
    }

    /// Records the end of a run.
    async fn settle(&self, held: &Held, end: RunEnd) {
        match end {
            RunEnd::Done => self.report(held, JobEnd::Done, ""),
            RunEnd::LeaseLost => self.report(held, JobEnd::LeaseLost, ""),
            RunEnd::Denied(reason) => self.end(held, JobEnd::Denied, reason).await,
            RunEnd::Failed(reason) if held.counted >= self.max_runs => {
                self.end(held, JobEnd::Parked, reason).await;
            }
            RunEnd::Failed(reason) => self.retry_later(held, reason, JobEnd::LeaseLost).await,
            RunEnd::Unknown(reason) => self.retry_later(held, reason, JobEnd::Done).await,
        }
    }

    async fn end(&self, held: &Held, end: JobEnd, reason: String) {
        let (lease, stored) = (held.lease, reason.clone());
        let name = if end == JobEnd::Denied {
            statements::DENIED
        } else {
            statements::PARKED
        };
        let ending = self.repeat(move |database, sql| {
            let reason = stored.clone();
            Box::pin(async move { statements::end(database, sql, lease, name, &reason).await })
        });
        let ended = ending.await;
        let end = Self::recorded(held, end, ended);
        self.report(held, end, &reason);
    }

    /// `gone` is the end of the run if the row of the job is gone.
    async fn retry_later(&self, held: &Held, reason: String, gone: JobEnd) {
        let (lease, stored) = (held.lease, reason.clone());
        let pause = self.backoff.pause(held.counted.saturating_add(1));
        let failing = self.repeat(move |database, sql| {
            let reason = stored.clone();
            Box::pin(
                async move { statements::retry_later(database, sql, lease, pause, &reason).await },
            )
        });
        let failed = failing.await;
        let end = match Self::recorded(held, JobEnd::Failed, failed) {
            JobEnd::LeaseLost if gone == JobEnd::Done && self.is_gone(held.lease.id).await => gone,
            end => end,
        };
        self.report(held, end, &reason);
    }

    /// The end of a run, once that was to be recorded. If the row did not match, the job has another
    /// lease, or is gone.
    fn recorded(held: &Held, end: JobEnd, recorded: Result<bool, Error>) -> JobEnd {
        match recorded {
            Ok(true) => end,
            Ok(false) => JobEnd::LeaseLost,
            Err(error) => {
                let (id, cause) = (held.lease.id, error.describe());
                tracing::warn!(%error, cause, %id, "the end of a run could not be recorded");
                JobEnd::LeaseLost
            }
        }
    }

    /// Whether the row of a job is gone. It is deleted by the COMMIT of its run.
    async fn is_gone(&self, id: JobId) -> bool {
        let finding =
            self.repeat(move |database, sql| Box::pin(statements::exists(database, sql, id)));
        matches!(finding.await, Ok(false))
    }

    fn report(&self, held: &Held, end: JobEnd, reason: &str) {
        match end {
            JobEnd::Done => tracing::debug!("job done"),
            JobEnd::Failed => tracing::warn!(reason, "job failed, it will be retried"),
            JobEnd::Denied => tracing::info!(reason, "job denied"),
            JobEnd::Parked => tracing::error!(reason, "job parked"),
            JobEnd::LeaseLost => tracing::warn!(reason, "the lease of a job was lost"),
        }
        self.engine.observe_job(|| JobRunEnded {
            id: held.lease.id.to_string(),
            kind: &held.kind,
            principal: held.principal.as_deref(),
            run: u32::try_from(held.lease.run).unwrap_or_default(),
            end,
            reason: Some(reason).filter(|reason| !reason.is_empty()),
        });
    }

    async fn claim(&self, candidate: Candidate, limit: Instant) -> Result<Option<Claimed>, Error> {
        let lease = self.lease;
        let claiming = self
            .engine
            .database
            .run_repeatable(limit, move |database, sql| {
                Box::pin(statements::claim(database, sql, candidate, lease))
            });
        claiming.await
    }

    fn repeat<T, F>(&self, statement: F) -> impl Future<Output = Result<T, Error>> + Send
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c Database, &'c mut PgConnection) -> BoxFuture<'c, Result<T, sqlx::Error>>
            + Clone
            + Send
            + 'static,
    {
        let limit = Instant::now() + RECORD_TIMEOUT;
        self.engine.database.run_repeatable(limit, statement)
    }
}

/// How long the database is asked to record the end of a run. Then the job is due again at the end
/// of its lease.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
