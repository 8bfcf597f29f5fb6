//! Handoff: a connection that one request is done with goes straight to the next one.

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
use sqlx::PgPool;
use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
    task::yield_now,
};

use crate::transaction::Link;

/// The connections on their way from one request to the next, around the pool: sqlx pings whatever
/// comes back to it, and until that is answered nobody has the connection.
///
/// Nobody waits long for a connection because of it. One that no request wants at once goes to the
/// pool, and after a [`LAP`] so does one that others want, for those who wait there.
#[derive(Default)]
pub(crate) struct Handoff {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Link>,
    /// How many of them nobody has wanted since the last look.
    unwanted: usize,
    /// Where there is a watch over them.
    watched: Option<runtime::Id>,
    waiting: VecDeque<oneshot::Sender<Link>>,
}

impl Handoff {
    /// The next connection that is given, or else the one that comes `from_pool`.
    ///
    /// Cancelled, it leaves nothing behind.
    pub(crate) async fn take<E>(
        &self,
        pool: &PgPool,
        from_pool: impl Future<Output = Result<Link, E>>,
    ) -> Result<Link, E> {
        if let Some(link) = self.lock().take() {
            return Ok(link);
        }
        // What the pool makes or tests is not to be dropped for another one that comes sooner.
        if pool.size() < pool.options().get_max_connections() || pool.num_idle() > 0 {
            return from_pool.await;
        }
        let mut from_pool = pin!(from_pool);
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        if let Poll::Ready(link) = from_pool.as_mut().poll(&mut Context::from_waker(&waker)) {
            return link;
        }
        let mut given = match self.lock().take_or_wait() {
            Ok(link) => return Ok(link),
            Err(given) => given,
        };
        let first = poll_fn(|cx| {
            bell.owner.register(cx.waker());
            match pin!(&mut given).poll(cx) {
                Poll::Ready(link) => Poll::Ready(link.ok()),
                Poll::Pending if bell.rung.load(Ordering::Acquire) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        if let Some(link) = first.await {
            return Ok(link);
        }
        // From here on the pool may be making a connection.
        given.close();
        match given.try_recv() {
            Ok(link) => Ok(link),
            Err(_) => from_pool.await,
        }
    }

    /// Gives a connection to whoever has waited longest, or to the one who asks next.
    pub(crate) fn give(self: &Arc<Self>, mut link: Link) {
        let mut state = self.lock();
        while let Some(waiting) = state.waiting.pop_front() {
            match waiting.send(link) {
                Ok(()) => return,
                Err(refused) => link = refused,
            }
        }
        state.idle.push(link);
        let runtime = Handle::current().id();
        if state.watched.replace(runtime) != Some(runtime) {
            let watch = Watch {
                handoff: Arc::clone(self),
                runtime,
            };
            // On a runtime that shuts down it is dropped at once.
            drop(state);
            tokio::spawn(watch.run());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Option<Link> {
        let link = self.idle.pop()?;
        self.unwanted = self.unwanted.min(self.idle.len());
        Some(link)
    }

    fn take_or_wait(&mut self) -> Result<Link, oneshot::Receiver<Link>> {
        self.take().ok_or_else(|| {
            // Those who have come earlier are served by the pool earlier, too.
            let has_left = |first: &mut oneshot::Sender<Link>| first.is_closed();
            while self.waiting.pop_front_if(has_left).is_some() {}
            let (sender, receiver) = oneshot::channel();
            self.waiting.push_back(sender);
            receiver
        })
    }
}

/// Rings when the pool has something, and for nothing else that wakes whoever waits.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    owner: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.owner.wake();
    }
}

/// Sees to it that what nobody wants goes to the pool, at the latest when the runtime shuts down.
struct Watch {
    handoff: Arc<Handoff>,
    runtime: runtime::Id,
}

impl Watch {
    async fn run(self) {
        loop {
            yield_now().await;
            let mut state = self.handoff.lock();
            let unwanted = state.unwanted;
            let unwanted: Vec<Link> = state.idle.drain(..unwanted).collect();
            state.unwanted = state.idle.len();
            let done = state.idle.is_empty();
            drop(state);
            drop(unwanted);
            if done {
                return;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut state = self.handoff.lock();
        if state.watched == Some(self.runtime) {
            state.watched = None;
        }
        state.unwanted = 0;
        let idle = mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }
}

/// How long a connection goes from request to request before it goes to the pool.
pub(crate) const LAP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_do_not_wait_any_longer_are_forgotten() {
        let mut state = State::default();
        for _ in 0..100 {
            drop(state.take_or_wait());
        }
        assert_eq!(state.waiting.len(), 1);
    }
}
