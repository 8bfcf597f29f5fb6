//! The loop of a worker: it keeps its places filled with due jobs.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch::Receiver},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument as _;

use crate::{
    error::{Error, ErrorKind},
    jobs::{
        claims::{Claimed, Claims},
        runner::Runner,
    },
};

/// The state of the loop.
///
/// A place for a claim is free once the handler of an earlier job has succeeded, and its job begins
/// when the earlier one has ended: the claim costs no time between them.
pub(crate) struct Dispatcher {
    runner: Arc<Runner>,
    claims: Claims,
    places: Arc<Semaphore>,
    /// As many as there are places. A job that runs has one.
    runs: Arc<Semaphore>,
    running: JoinSet<()>,
    poll_interval: Duration,
    next_poll: Instant,
    /// Tells of jobs that were enqueued in this process, and of `drain`.
    wake: Receiver<()>,
    /// Whether there may be due jobs that could not be claimed yet.
    may_be_more: bool,
}

impl Dispatcher {
    pub(crate) fn new(
        runner: Arc<Runner>,
        claims: Claims,
        concurrency: usize,
        poll_interval: Duration,
        wake: Receiver<()>,
    ) -> Self {
        Self {
            runner,
            claims,
            places: Arc::new(Semaphore::new(concurrency)),
            runs: Arc::new(Semaphore::new(concurrency)),
            running: JoinSet::new(),
            poll_interval,
            next_poll: Instant::now() + poll_interval,
            wake,
            may_be_more: true,
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
        let mut ended = Ok(());
        while ended.is_ok() && self.runner.engine.database.check_open().is_ok() {
            match self.next_event(&mut shutdown).await {
                Event::Shutdown => break,
                Event::Woken => self.may_be_more = true,
                Event::PollDue => self.poll(),
                Event::PlaceFree(place) => ended = self.fill(place).await,
            }
        }
        while self.running.join_next().await.is_some() {}
        ended
    }

    async fn next_event<S>(&mut self, shutdown: &mut Pin<&mut S>) -> Event
    where
        S: Future<Output = ()>,
    {
        let (running, may_be_more) = (&mut self.running, self.may_be_more);
        let mut place_free = pin!(Arc::clone(&self.places).acquire_owned());
        let mut woken = pin!(self.wake.changed());
        let mut poll_due = pin!(sleep_until(self.next_poll));
        let next = poll_fn(|cx| {
            if shutdown.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Shutdown);
            }
            while let Poll::Ready(Some(_)) = running.poll_join_next(cx) {}
            if may_be_more && let Poll::Ready(Ok(place)) = place_free.as_mut().poll(cx) {
                return Poll::Ready(Event::PlaceFree(place));
            }
            if let Poll::Ready(Ok(())) = woken.as_mut().poll(cx) {
                return Poll::Ready(Event::Woken);
            }
            poll_due.as_mut().poll(cx).map(|()| Event::PollDue)
        });
        next.await
    }

    /// Claims jobs for this place and for all others that are free, and starts them. It is not to be
    /// dropped for the shutdown: the jobs would stay claimed until their leases end.
    async fn fill(&mut self, place: OwnedSemaphorePermit) -> Result<(), Error> {
        let mut places = vec![place];
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            places.push(place);
        }
        // `drain` waits for the token, or was called before and is seen here.
        let token = self.runner.engine.database.token();
        if self.runner.engine.database.check_open().is_err() {
            return Ok(());
        }
        let claimed = match self.claims.claim(places.len()).await {
            Ok(claimed) => claimed,
            Err(error) if error.kind() == ErrorKind::Misconfigured => return Err(error),
            Err(error) => {
                tracing::warn!(%error, cause = error.describe(), "no job could be claimed");
                Vec::new()
            }
        };
        self.may_be_more = claimed.len() == places.len();
        for (job, place) in claimed.into_iter().zip(places) {
            self.start(job, place, token.clone());
        }
        Ok(())
    }

    fn start(&mut self, job: Claimed, place: OwnedSemaphorePermit, token: TaskTrackerToken) {
        let (kind, id, run) = (&*job.kind, job.lease.id, job.lease.run);
        let span = tracing::error_span!("job", kind, %id, run);
        let (runner, runs) = (Arc::clone(&self.runner), Arc::clone(&self.runs));
        let running = async move {
            let run = runs.acquire().await;
            runner.run(job, place).await;
            drop((run, token));
        };
        self.running.spawn(running.instrument(span));
    }

    fn poll(&mut self) {
        self.may_be_more = true;
        let pause = self.poll_interval.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.next_poll = Instant::now() + pause;
    }
}

/// An event that the loop waits for.
enum Event {
    Shutdown,
    PlaceFree(OwnedSemaphorePermit),
    /// A job was enqueued in this process, or the interlock is drained.
    Woken,
    PollDue,
}
