//! Handoff: a connection that one request is done with goes straight to the next one.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use sqlx::PgPool;
use tokio::{sync::oneshot, task::yield_now};

use crate::transaction::Link;

/// The connections on their way from one request to the next, around the pool: sqlx pings whatever
/// comes back to it, and until that is answered nobody has the connection.
///
/// Nobody waits long for a connection because of it. One that no request wants by the time that all
/// tasks that are ready have run goes to the pool, and so does every one after a [`LAP`], for those
/// who wait there.
#[derive(Default)]
pub(crate) struct Handoff {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    idle: Vec<Link>,
    /// How many of them nobody has wanted since the last look.
    unwanted: usize,
    watched: bool,
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
        // What comes may be a new connection, which is not to be left half-made.
        if pool.size() < pool.options().get_max_connections() {
            return from_pool.await;
        }
        let mut from_pool = pin!(from_pool);
        if let Poll::Ready(link) = poll_fn(|cx| Poll::Ready(from_pool.as_mut().poll(cx))).await {
            return link;
        }
        let mut given = match self.lock().take_or_wait() {
            Ok(link) => return Ok(link),
            Err(given) => given,
        };
        poll_fn(|cx| match pin!(&mut given).poll(cx) {
            Poll::Ready(Ok(link)) => Poll::Ready(Ok(link)),
            _ => from_pool.as_mut().poll(cx),
        })
        .await
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
        if !mem::replace(&mut state.watched, true) {
            tokio::spawn(Watch(Arc::clone(self)).run());
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
            let (sender, receiver) = oneshot::channel();
            self.waiting.push_back(sender);
            receiver
        })
    }
}

/// Sees to it that what nobody wants goes to the pool, at the latest when the runtime shuts down.
struct Watch(Arc<Handoff>);

impl Watch {
    async fn run(self) {
        loop {
            yield_now().await;
            let mut state = self.0.lock();
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
        let mut state = self.0.lock();
        state.watched = false;
        state.unwanted = 0;
        let idle = mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }
}

/// How long a connection goes from request to request before it goes to the pool.
pub(crate) const LAP: Duration = Duration::from_millis(100);
