//! The loop of a worker: it looks for due jobs, and keeps its places filled.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{
    sync::watch::Receiver,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::Instrument as _;

use crate::{
    error::{Error, ErrorKind},
    jobs::{
        runner::{Claim, Runner},
        statements::{self, Candidate},
    },
};

/// The state of the loop.
pub(crate) struct Dispatcher {
    pub(crate) runner: Arc<Runner>,
    pub(crate) kinds: Arc<[&'static str]>,
    pub(crate) concurrency: usize,
    pub(crate) poll_interval: Duration,
    /// Tells of jobs that were enqueued in this process.
    pub(crate) enqueued: Receiver<()>,
    running: JoinSet<Claim>,
    candidates: Vec<Candidate>,
    /// Whether there may be due jobs that were not seen yet.
    may_be_more: bool,
    next_poll: Instant,
    window: Window,
}

impl Dispatcher {
    pub(crate) fn new(
        runner: Arc<Runner>,
        kinds: Arc<[&'static str]>,
        concurrency: usize,
        poll_interval: Duration,
        enqueued: Receiver<()>,
    ) -> Self {
        Self {
            runner,
            kinds,
            concurrency,
            poll_interval,
            enqueued,
            running: JoinSet::new(),
            candidates: Vec::new(),
            may_be_more: true,
            next_poll: Instant::now() + poll_interval,
            window: Window::default(),
        }
    }

    /// Runs until `shutdown`, or until the interlock is drained, and then until the jobs that are
    /// running have ended.
    ///
    /// # Errors
    ///
    /// Returns `Misconfigured`. Other errors of the database are logged, and it is asked again.
    pub(crate) async fn run<S>(mut self, mut shutdown: Pin<&mut S>) -> Result<(), Error>
    where
        S: Future<Output = ()>,
    {
        while self.runner.engine.database.check_open().is_ok() {
            match select(&mut shutdown, pin!(self.fill())).await {
                Either::Left(((), _)) => break,
                Either::Right((filled, _)) => filled?,
            }
            match self.next_event(&mut shutdown).await {
                Event::Shutdown => break,
                Event::Ended(claim) => self.note(claim),
                Event::Enqueued => self.may_be_more = true,
                Event::PollDue => self.poll(),
            }
        }
        while self.running.join_next().await.is_some() {}
        Ok(())
    }

    /// Fills the free places, as long as there are due jobs. Dropped, it has started some.
    async fn fill(&mut self) -> Result<(), Error> {
        while let Some(ended) = self.running.try_join_next() {
            self.note(ended.ok());
        }
        while self.running.len() < self.concurrency {
            if self.candidates.is_empty() && self.may_be_more {
                self.peek().await?;
            }
            let Some(candidate) = self.candidates.pop() else {
                break;
            };
            let runner = Arc::clone(&self.runner);
            let processing = async move { runner.process(candidate).await };
            self.running.spawn(processing.in_current_span());
        }
        Ok(())
    }

    /// Looks for due jobs. If the database does not answer, the next poll will look.
    async fn peek(&mut self) -> Result<(), Error> {
        // Before the query: a job that is enqueued meanwhile may not be seen by it.
        self.may_be_more = false;
        self.enqueued.mark_unchanged();
        let (kinds, limit) = (Arc::clone(&self.kinds), self.window.limit(self.concurrency));
        let peeking = self.runner.engine.database.run_repeatable(
            Instant::now() + PEEK_TIMEOUT,
            move |database, sql| {
                let kinds = Arc::clone(&kinds);
                Box::pin(async move { statements::peek(database, sql, &kinds, limit).await })
            },
        );
        match peeking.await {
            Ok(due) => {
                let wanted = self.concurrency.saturating_mul(JOBS_PER_PLACE);
                self.may_be_more = due.len() >= wanted;
                self.candidates = due;
                // Workers that take the same jobs in the same order would always meet.
                fastrand::shuffle(&mut self.candidates);
                self.candidates.truncate(wanted);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Misconfigured => Err(error),
            Err(error) => {
                tracing::warn!(%error, cause = error.describe(), "no look at the queue of jobs");
                Ok(())
            }
        }
    }

    async fn next_event<S>(&mut self, shutdown: &mut Pin<&mut S>) -> Event
    where
        S: Future<Output = ()>,
    {
        let running = &mut self.running;
        let mut enqueued = pin!(self.enqueued.changed());
        let mut poll_due = pin!(sleep_until(self.next_poll));
        let next = poll_fn(|cx| {
            if shutdown.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Shutdown);
            }
            if let Poll::Ready(Some(ended)) = running.poll_join_next(cx) {
                return Poll::Ready(Event::Ended(ended.ok()));
            }
            if let Poll::Ready(Ok(())) = enqueued.as_mut().poll(cx) {
                return Poll::Ready(Event::Enqueued);
            }
            poll_due.as_mut().poll(cx).map(|()| Event::PollDue)
        });
        next.await
    }

    fn poll(&mut self) {
        self.may_be_more = true;
        let pause = self.poll_interval.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.next_poll = Instant::now() + pause;
    }

    fn note(&mut self, claim: Option<Claim>) {
        if let Some(claim) = claim {
            self.window.note(claim);
        }
    }
}

/// An event that the loop waits for.
enum Event {
    Shutdown,
    /// A job has ended.
    Ended(Option<Claim>),
    /// A job was enqueued in this process.
    Enqueued,
    PollDue,
}

/// How many due jobs are looked at. The more workers there are, the more often they meet at one
/// job, and the further each of them looks.
#[derive(Debug, Default)]
struct Window {
    doublings: u32,
    won: u32,
    lost: u32,
}

impl Window {
    fn limit(&mut self, concurrency: usize) -> i64 {
        if self.lost > self.won / 4 {
            self.doublings = (self.doublings + 1).min(MAX_DOUBLINGS);
        } else if self.lost == 0 {
            self.doublings = self.doublings.saturating_sub(1);
        }
        (self.won, self.lost) = (0, 0);
        let limit = concurrency.saturating_mul(JOBS_PER_PLACE) << self.doublings;
        i64::try_from(limit).unwrap_or(i64::MAX)
    }

    fn note(&mut self, claim: Claim) {
        match claim {
            Claim::Won => self.won += 1,
            Claim::Lost => self.lost += 1,
            Claim::Failed => {}
        }
    }
}

/// How many jobs are taken from one look at the queue, for each job that may run at a time.
const JOBS_PER_PLACE: usize = 4;
const MAX_DOUBLINGS: u32 = 6;
const PEEK_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_widens_while_claims_are_lost() {
        let mut window = Window::default();
        assert_eq!(window.limit(2), 8);
        for _ in 0..20 {
            window.note(Claim::Lost);
            window.limit(2);
        }
        window.note(Claim::Lost);
        assert_eq!(window.limit(2), 8 << MAX_DOUBLINGS);
        for _ in 0..20 {
            window.note(Claim::Won);
            window.limit(2);
        }
        assert_eq!(window.limit(2), 8);
    }
}
