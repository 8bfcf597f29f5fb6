//! Handoff: a connection that one request has finished with goes straight to the next one.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
    task::yield_now,
};

use crate::{database::access::Access, error::Error};

/// How long a connection may bypass the pool before it returns there.
pub(crate) const MAX_BYPASS: Duration = Duration::from_millis(100);

/// Connections that pass from one request to the next without the pool, which pings each one
/// that is returned and lends it to no request meanwhile.
///
/// It delays no request. A connection that no request is waiting for returns to the pool at once.
/// After [`MAX_BYPASS`] a connection returns even if a request waits here, so that the pool can
/// serve those that wait there.
///
/// If a request already waits when another one commits, its BEGIN travels with that COMMIT. It
/// never does for a request that is yet to come: `now()`, and on CockroachDB the snapshot, are those
/// of BEGIN, so a permission that was revoked between the two would still hold.
pub(crate) struct Handoff<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    idle: Vec<T>,
    /// How many of the idle ones were not taken since the last sweep.
    idle_since_sweep: usize,
    /// The runtime on which a sweeper is running.
    swept_on: Option<runtime::Id>,
    waiting: VecDeque<Waiter<T>>,
    /// How many requests have ever waited.
    joined: u64,
    /// How many BEGINs are under way for waiting requests.
    announced: usize,
}

struct Waiter<T> {
    /// Its place among all that have ever waited.
    number: u64,
    /// The access of the transaction that it is about to begin, if it begins one.
    access: Option<Access>,
    given: oneshot::Sender<T>,
}

impl<T: Send + 'static> Handoff<T> {
    /// The next connection that is given, or the one that comes `from_pool`. With an `access`, a
    /// BEGIN with that access may have been sent on it.
    ///
    /// Cancelled, nothing is left behind.
    pub(crate) async fn take(
        &self,
        access: Option<Access>,
        is_exhausted: impl FnOnce() -> bool,
        from_pool: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if let Some(connection) = self.lock().take() {
            return Ok(connection);
        }
        if !is_exhausted() {
            return from_pool.await;
        }
        let mut from_pool = pin!(from_pool);
        let pool_waker = Arc::new(PoolWaker::default());
        let waker = Waker::from(Arc::clone(&pool_waker));
        if let Poll::Ready(acquired) = from_pool.as_mut().poll(&mut Context::from_waker(&waker)) {
            return acquired;
        }
        let mut given = match self.lock().take_or_wait(access) {
            Ok(connection) => return Ok(connection),
            Err(given) => given,
        };
        let first = poll_fn(|cx| {
            pool_waker.task.register(cx.waker());
            match pin!(&mut given).poll(cx) {
                Poll::Ready(connection) => Poll::Ready(connection.ok()),
                Poll::Pending if pool_waker.woken.load(Ordering::Acquire) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(connection) = first.await {
            return Ok(connection);
        }
        // From here on the pool may be making a connection.
        given.close();
        match given.try_recv() {
            Ok(connection) => Ok(connection),
            Err(_) => from_pool.await,
        }
    }

    /// Gives a connection to the request that has waited longest, or to the next that asks.
    pub(crate) fn give(self: &Arc<Self>, mut connection: T) {
        let mut state = self.lock();
        while let Some(waiter) = state.waiting.pop_front() {
            match waiter.given.send(connection) {
                Ok(()) => return,
                Err(unclaimed) => connection = unclaimed,
            }
        }
        state.idle.push(connection);
        let runtime = Handle::current().id();
        if state.swept_on.replace(runtime) != Some(runtime) {
            let sweeper = IdleSweeper {
                handoff: Arc::clone(self),
                runtime,
            };
            // A runtime that is shutting down drops the sweeper at once.
            drop(state);
            tokio::spawn(sweeper.run());
        }
    }
}

impl<T> Handoff<T> {
    /// The next request in line, if it begins a transaction and no BEGIN is under way for it.
    pub(crate) fn next(self: &Arc<Self>) -> Option<Next<T>> {
        let mut state = self.lock();
        state.forget_left();
        let access = state.waiting.get(state.announced)?.access?;
        state.announced += 1;
        Some(Next {
            handoff: Arc::clone(self),
            access,
            joined: state.joined,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Handoff<T> {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
        }
    }
}

impl<T> State<T> {
    /// The first waiter with this access among the first `joined` that have ever waited.
    fn take_waiter(&mut self, access: Access, joined: u64) -> Option<Waiter<T>> {
        let fits = |waiter: &Waiter<T>| waiter.access == Some(access) && waiter.number <= joined;
        let position = self.waiting.iter().position(fits)?;
        self.waiting.remove(position)
    }

    fn take(&mut self) -> Option<T> {
        let connection = self.idle.pop()?;
        self.idle_since_sweep = self.idle_since_sweep.min(self.idle.len());
        Some(connection)
    }

    fn take_or_wait(&mut self, access: Option<Access>) -> Result<T, oneshot::Receiver<T>> {
        self.take().ok_or_else(|| {
            self.forget_left();
            self.joined += 1;
            let (given, receiver) = oneshot::channel();
            self.waiting.push_back(Waiter {
                number: self.joined,
                access,
                given,
            });
            receiver
        })
    }

    /// The pool serves its waiters in order, so those in front leave first.
    fn forget_left(&mut self) {
        let has_left = |first: &mut Waiter<T>| first.given.is_closed();
        while self.waiting.pop_front_if(has_left).is_some() {}
    }
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            idle: Vec::new(),
            idle_since_sweep: 0,
            swept_on: None,
            waiting: VecDeque::new(),
            joined: 0,
            announced: 0,
        }
    }
}

/// The next request in line, for which a BEGIN is under way.
pub(crate) struct Next<T> {
    handoff: Arc<Handoff<T>>,
    access: Access,
    /// How many requests had ever waited before the BEGIN was sent.
    joined: u64,
}

impl<T> Next<T> {
    /// The access that its transaction begins with.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// Gives the connection, on which BEGIN was sent, to a request that was waiting at that time. It
    /// is dropped if none of them is waiting any more.
    pub(crate) fn give(self, mut connection: T) {
        let mut state = self.handoff.lock();
        while let Some(waiter) = state.take_waiter(self.access, self.joined) {
            match waiter.given.send(connection) {
                Ok(()) => return,
                Err(unclaimed) => connection = unclaimed,
            }
        }
        drop(state);
        drop(connection);
    }
}

impl<T> Drop for Next<T> {
    fn drop(&mut self) {
        let mut state = self.handoff.lock();
        state.announced = state.announced.saturating_sub(1);
    }
}

/// Tells a wake-up by the pool from every other wake-up of the task.
#[derive(Default)]
struct PoolWaker {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for PoolWaker {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

/// Returns unclaimed connections to the pool, at the latest at the shutdown of the runtime.
struct IdleSweeper<T> {
    handoff: Arc<Handoff<T>>,
    runtime: runtime::Id,
}

impl<T> IdleSweeper<T> {
    async fn run(self) {
        loop {
            yield_now().await;
            let mut state = self.handoff.lock();
            let unclaimed = state.idle_since_sweep;
            let unclaimed: Vec<T> = state.idle.drain(..unclaimed).collect();
            state.idle_since_sweep = state.idle.len();
            let done = state.idle.is_empty();
            drop(state);
            drop(unclaimed);
            if done {
                return;
            }
        }
    }
}

impl<T> Drop for IdleSweeper<T> {
    fn drop(&mut self) {
        let mut state = self.handoff.lock();
        if state.swept_on == Some(self.runtime) {
            state.swept_on = None;
        }
        state.idle_since_sweep = 0;
        let idle = mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn waiters_that_have_left_are_forgotten() {
        let mut state = State::<i32>::default();
        for _ in 0..100 {
            drop(state.take_or_wait(None));
        }
        assert_eq!(state.waiting.len(), 1);
    }

    #[tokio::test]
    async fn given_connection_goes_to_the_next_request_and_an_unclaimed_one_leaves() {
        let handoff = Arc::new(Handoff::default());
        handoff.give(1);
        let taken = handoff.take(None, || true, pending()).await.unwrap();
        assert_eq!(taken, 1);
        handoff.give(2);
        // The sweeper runs meanwhile, on the same thread.
        for _ in 0..10 {
            yield_now().await;
        }
        let taken = handoff.take(None, || false, ready(Ok(3))).await.unwrap();
        assert_eq!(taken, 3);
    }

    #[tokio::test]
    async fn waiting_request_is_served_before_the_pool() {
        let handoff = Arc::new(Handoff::default());
        let waiting = tokio::spawn({
            let handoff = Arc::clone(&handoff);
            async move { handoff.take(None, || true, pending()).await }
        });
        yield_now().await;
        handoff.give(1);
        assert_eq!(waiting.await.unwrap().unwrap(), 1);
    }
}
