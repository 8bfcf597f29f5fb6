//! The loop of attempts.

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    attempt::{
        budget::{Budget, exhausted},
        engine::Engine,
        failure::Retry,
        limits::{Deadlines, Limits},
        queue::Ticket,
        work::{Attempt, Step, Work},
    },
    database::{Access, Detached, Transaction, timeout_at},
    error::ErrorClass,
    tx::WorkContext,
};

/// Attempts `work` until an attempt is done.
///
/// It borrows the work, since a future that owned it would store it once for each caller.
pub(crate) async fn run<W: Work>(
    engine: &Engine,
    context: &WorkContext,
    limits: &Limits,
    access: Access,
    work: &mut W,
) -> Result<W::Output, W::Error> {
    let mut retries = Retries::new(engine, limits, access);
    if access == Access::ReadWrite {
        retries.wait_while_congested(work.queue_key()).await;
    }
    loop {
        let number = retries.budget.next();
        let is_last = retries.budget.is_last();
        let next_tx = retries.next_tx.take();
        let deadlines = retries.deadlines;
        let mut attempt = Attempt::new(context, limits, deadlines, number, is_last, next_tx);
        attempt.earlier_violations = retries.budget.violations().to_vec();
        attempt.durations.waited = std::mem::take(&mut retries.waited);
        let step = work.attempt(&mut attempt).await?;
        let mut retry = match step {
            Step::Done(output) => {
                report(&attempt, false);
                return Ok(output);
            }
            Step::Retry(retry) => retry,
        };
        let violations = std::mem::take(&mut retry.violations);
        retries.budget.add_violations(violations);
        let allowed = retries.budget.allows(retry.class);
        report(&attempt, allowed);
        let (class, error) = (retry.class, retry.error.clone());
        // Boxed: what is rarely needed is not to enlarge the future of every request.
        if !allowed || !Box::pin(retries.prepare(retry, work)).await? {
            return Ok(work.exhausted(number, exhausted(class, &error)));
        }
    }
}

/// Tells the observer of an attempt that ended.
fn report(attempt: &Attempt<'_>, retried: bool) {
    if attempt.is_skipped() {
        return;
    }
    if let Some(observation) = &attempt.context().observation {
        let (error, durations) = (attempt.error.as_ref(), attempt.durations);
        observation.attempt_ended(attempt.number(), error, retried, durations);
    }
}

/// The part that the attempts at one work share.
struct Retries<'w> {
    engine: &'w Engine,
    limits: &'w Limits,
    access: Access,
    deadlines: Deadlines,
    budget: Budget,
    ticket: Option<Ticket<'w>>,
    /// A transaction that has begun for the next attempt.
    next_tx: Option<Transaction>,
    /// How long the next attempt has waited already.
    waited: Duration,
}

impl<'w> Retries<'w> {
    fn new(engine: &'w Engine, limits: &'w Limits, access: Access) -> Self {
        let work = Instant::now() + limits.deadline;
        let commit = work + limits.grace;
        Self {
            engine,
            limits,
            access,
            deadlines: Deadlines { work, commit },
            budget: Budget::new(limits.max_attempts, engine.database.sessions()),
            ticket: None,
            next_tx: None,
            waited: Duration::ZERO,
        }
    }

    async fn wait_while_congested(&mut self, key: Option<&str>) {
        if let Some(key) = key {
            let patience = self.limits.backoff.cap();
            let waiting = pin!(self.engine.queues.wait_while_congested(key, patience));
            timeout_at(self.deadlines.work, waiting).await;
        }
    }

    /// Rolls back, and waits until the next attempt may begin. `false` if the deadline passes
    /// first.
    ///
    /// It rolls back before it waits, because CockroachDB keeps the locks of a failed transaction
    /// until then, and because the connection may be needed by work that is in the way.
    async fn prepare<W: Work>(&mut self, retry: Retry, work: &mut W) -> Result<bool, W::Error> {
        let (attempt, sqlstate) = (self.budget.made(), retry.error.sqlstate());
        tracing::debug!(attempt, sqlstate, "retrying");
        let (limits, deadline, started) = (self.limits, self.deadlines.work, Instant::now());
        let (engine, access) = (self.engine, self.access);
        let mut turn = self.turn(retry.class, work.queue_key());
        let at_once = turn.may_start();
        // Without the inner service ready, the attempt would wait with a transaction open.
        let is_ready = match poll_fn(|cx| Poll::Ready(work.poll_ready(cx))).await {
            Poll::Ready(ready) => ready.map(|()| true)?,
            Poll::Pending => false,
        };
        let may_begin = is_ready && !work.begins_outside();
        let ended = pin!(end(retry.unfinished, at_once && may_begin));
        let Some(mut next_tx) = timeout_at(deadline, ended).await else {
            return Ok(false);
        };
        let in_time = at_once || {
            let begin = async {
                if may_begin {
                    engine.database.begin_ahead(access).await
                } else {
                    None
                }
            };
            turn.wait(limits, deadline, &mut next_tx, begin).await
        };
        self.next_tx = next_tx;
        self.waited = started.elapsed();
        Ok(in_time)
    }

    /// How the work waits after an error of this class.
    fn turn(&mut self, class: ErrorClass, key: Option<&str>) -> Turn<'_, 'w> {
        let engine = self.engine;
        match (class, key) {
            (ErrorClass::SerializationFailure, Some(key)) => {
                let join = || engine.queues.join(key, engine.database.known_server());
                Turn::Queued(self.ticket.get_or_insert_with(join))
            }
            (ErrorClass::SerializationFailure, None) => {
                Turn::Pause(self.limits.backoff.pause(self.budget.made()))
            }
            _ => Turn::Pause(Duration::ZERO),
        }
    }
}

/// How work waits before it is retried.
enum Turn<'t, 'q> {
    Queued(&'t mut Ticket<'q>),
    Pause(Duration),
}

impl Turn<'_, '_> {
    /// Whether the retry may follow at once.
    fn may_start(&mut self) -> bool {
        match self {
            Self::Queued(ticket) => ticket.try_start(),
            Self::Pause(pause) => pause.is_zero(),
        }
    }

    /// Waits. `false` if the deadline passes first.
    ///
    /// In a queue it runs `begin` once it is next in line, so that the turn has one round trip
    /// less.
    async fn wait(
        self,
        limits: &Limits,
        deadline: Instant,
        next_tx: &mut Option<Transaction>,
        begin: impl Future<Output = Option<Transaction>>,
    ) -> bool {
        match self {
            Self::Queued(ticket) => {
                let waiting = pin!(ticket.wait(limits.backoff, begin));
                let waited = timeout_at(deadline, waiting).await;
                let in_time = waited.is_some();
                *next_tx = waited.flatten().flatten();
                in_time
            }
            Self::Pause(pause) if Instant::now() + pause >= deadline => false,
            Self::Pause(pause) => {
                sleep(pause).await;
                true
            }
        }
    }
}

/// Ends the transaction of a failed attempt, `at_once` by beginning the next one in its place.
async fn end(unfinished: Option<Transaction>, at_once: bool) -> Option<Transaction> {
    let unfinished = unfinished?;
    if at_once {
        Detached::new(unfinished.restart()).await
    } else {
        Detached::new(unfinished.roll_back()).await;
        None
    }
}
