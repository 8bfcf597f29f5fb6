//! Retry queues: work that conflicts is retried in turn.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, SemaphorePermit},
    time::{sleep, timeout},
};

use crate::{attempt::backoff::Backoff, database::Server};

/// The queues of work that has met a serialization failure: one for each key, and one for all.
///
/// When several transactions write one row, one commits and the rest fail. Retried at once they
/// conflict again, and some starve. In a queue each is retried when its turn comes. The key, the
/// path of a request, only guesses what they conflict on, and other processes have queues of
/// their own, so no wait is long.
///
/// Work that fails again in its queue conflicts with work of other keys: where every request reads
/// what every other one writes, each on a path of its own, the queues by key bring nothing. From
/// its second serialization failure on it also waits in the queue for all, which retries one at a
/// time. On CockroachDB it does so from the first one on while that queue is in use: there a
/// conflict costs more than a wait.
///
/// On PostgreSQL two are retried at a time, so that one prepares while the other one commits. On
/// CockroachDB it is one: two would wait for each other's locks. `docs/performance.md` has what the
/// queues bring.
///
/// The one at the front of a line can begin its transaction before its turn comes.
pub(crate) struct RetryQueues {
    queues: Vec<RetryQueue>,
    all: Line,
    hasher: RandomState,
}

struct RetryQueue {
    length: AtomicUsize,
    line: Line,
    uncongested: Notify,
}

/// Tickets that wait for their turns.
struct Line {
    turns: Semaphore,
    /// The place of the one that is next.
    front: Semaphore,
}

impl Line {
    fn new(turns: u32) -> Self {
        Self {
            turns: Semaphore::new(turns as usize),
            front: Semaphore::new(1),
        }
    }
}

impl RetryQueues {
    /// Waits while the queue of `key` is congested, at most for `patience`. New work goes on in
    /// either case.
    pub(crate) async fn wait_while_congested(&self, key: &str, patience: Duration) {
        let queue = self.queue(key);
        if queue.length.load(Ordering::Relaxed) >= CONGESTED {
            drop(timeout(patience, queue.uncongested.notified()).await);
        }
    }

    /// Joins the queue of `key`.
    pub(crate) fn join(&self, key: &str, server: Option<Server>) -> Ticket<'_> {
        let queue = self.queue(key);
        queue.length.fetch_add(1, Ordering::Relaxed);
        Ticket {
            queue,
            share: match server {
                Some(Server::CockroachDb) => PERMITS,
                Some(Server::PostgreSql) | None => 1,
            },
            turn: None,
            front: None,
            all: &self.all,
            turn_of_all: None,
            conflicts: 0,
            conflicts_in_turn: 0,
        }
    }

    #[allow(
        clippy::indexing_slicing,
        reason = "a remainder is less than the length"
    )]
    fn queue(&self, key: &str) -> &RetryQueue {
        let hash = self.hasher.hash_one(key) as usize;
        &self.queues[hash % self.queues.len()]
    }
}

impl Default for RetryQueues {
    fn default() -> Self {
        Self {
            queues: (0..QUEUES).map(|_| RetryQueue::default()).collect(),
            all: Line::new(1),
            hasher: RandomState::new(),
        }
    }
}

impl Default for RetryQueue {
    fn default() -> Self {
        Self {
            length: AtomicUsize::new(0),
            line: Line::new(PERMITS),
            uncongested: Notify::new(),
        }
    }
}

/// A place in a queue. Dropped, it is left, and the next turn begins.
pub(crate) struct Ticket<'q> {
    queue: &'q RetryQueue,
    /// How many of the queue's permits a turn takes.
    share: u32,
    turn: Option<SemaphorePermit<'q>>,
    /// It is next in line.
    front: Option<SemaphorePermit<'q>>,
    all: &'q Line,
    turn_of_all: Option<SemaphorePermit<'q>>,
    conflicts: u32,
    /// The conflicts since its turn began.
    conflicts_in_turn: u32,
}

impl Ticket<'_> {
    /// Counts a conflict. Returns whether the retry may follow at once: it is this ticket's turn,
    /// and it has not failed often since.
    pub(crate) fn try_start(&mut self) -> bool {
        self.conflicts += 1;
        if self.turn.is_some() {
            self.conflicts_in_turn += 1;
        } else {
            self.turn = self.queue.line.turns.try_acquire_many(self.share).ok();
        }
        if self.turn.is_some() && !self.has_turn() {
            self.turn_of_all = self.all.turns.try_acquire().ok();
        }
        self.has_turn() && self.conflicts_in_turn < AT_ONCE
    }

    /// Waits for the turn, at most for the cap of `backoff`, and goes on in either case. If it has
    /// the turn already, it pauses.
    ///
    /// Once it is next in line, it runs `at_front`, and returns the output of that.
    pub(crate) async fn wait<T>(
        &mut self,
        backoff: Backoff,
        at_front: impl Future<Output = T>,
    ) -> Option<T> {
        if self.has_turn() {
            let pauses = self.conflicts_in_turn.saturating_sub(AT_ONCE) + 1;
            sleep(backoff.pause(pauses)).await;
            return None;
        }
        let mut prepared = None;
        let waiting = async {
            self.reach_front().await;
            prepared = Some(at_front.await);
            self.take_turn().await;
        };
        drop(timeout(backoff.cap(), waiting).await);
        self.front = None;
        prepared
    }

    /// Waits in its own queue first, then in that for all, so that none waits there for tickets
    /// behind it.
    async fn reach_front(&mut self) {
        let line = if self.needs_all() {
            self.take_own_turn().await;
            self.all
        } else {
            &self.queue.line
        };
        self.front = line.front.acquire().await.ok();
    }

    async fn take_turn(&mut self) {
        self.take_own_turn().await;
        if self.needs_all() && self.turn_of_all.is_none() {
            self.turn_of_all = self.all.turns.acquire().await.ok();
        }
    }

    async fn take_own_turn(&mut self) {
        if self.turn.is_none() {
            self.turn = self.queue.line.turns.acquire_many(self.share).await.ok();
        }
    }

    fn has_turn(&self) -> bool {
        self.turn.is_some() && (self.turn_of_all.is_some() || !self.needs_all())
    }

    fn needs_all(&self) -> bool {
        let retries_alone = self.share == PERMITS;
        let all_in_use = self.all.turns.available_permits() == 0;
        self.conflicts >= ALL_FROM || retries_alone && all_in_use
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.queue.length.fetch_sub(1, Ordering::Relaxed) == CONGESTED {
            self.queue.uncongested.notify_waiters();
        }
    }
}

/// So many that two keys seldom share one.
const QUEUES: usize = 128;

/// How many are retried at a time: on PostgreSQL one commits while the next one prepares. On
/// CockroachDB a turn takes all permits.
const PERMITS: u32 = 2;

/// From which conflict on a ticket also waits in the queue for all.
const ALL_FROM: u32 = 2;

/// From which length on new work waits.
const CONGESTED: usize = 8;

/// How many conflicts in its turn a ticket retries without a pause.
const AT_ONCE: u32 = 8;

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        future::{poll_fn, ready},
        pin::pin,
        task::Poll,
    };

    use super::*;

    fn backoff() -> Backoff {
        Backoff::new(Duration::from_millis(1), Duration::from_millis(50))
    }

    /// Whether a future is ready when it is polled once.
    async fn is_ready<F: Future + Unpin>(future: &mut F) -> bool {
        poll_fn(|cx| Poll::Ready(pin!(&mut *future).poll(cx).is_ready())).await
    }

    #[tokio::test]
    async fn turns_follow_the_order_of_the_queue() {
        let queues = RetryQueues::default();
        let [mut first, mut second, mut third, mut fourth] =
            [(); 4].map(|()| queues.join("/1", None));
        assert!(first.try_start() && second.try_start());
        assert!(!third.try_start() && !fourth.try_start());
        let mut third = Box::pin(third.wait(backoff(), ready(())));
        let mut fourth = Box::pin(fourth.wait(backoff(), ready(())));
        assert!(!is_ready(&mut third).await && !is_ready(&mut fourth).await);
        drop(first);
        assert!(!is_ready(&mut fourth).await);
        assert!(is_ready(&mut third).await);
    }

    #[tokio::test]
    async fn no_wait_exceeds_the_cap() {
        let queues = RetryQueues::default();
        let mut queue: Vec<_> = (0..CONGESTED).map(|_| queues.join("/1", None)).collect();
        let started = queue
            .iter_mut()
            .filter_map(|ticket| ticket.try_start().then_some(()));
        assert_eq!(started.count(), 2);
        let last = queue.last_mut().unwrap();
        last.wait(backoff(), ready(())).await;
        assert!(!last.try_start());
        queues.wait_while_congested("/1", backoff().cap()).await;
    }

    #[tokio::test]
    async fn new_work_waits_for_a_congested_queue_only() {
        let queues = RetryQueues::default();
        let forever = Duration::from_secs(3600);
        let few: Vec<_> = (1..CONGESTED).map(|_| queues.join("/1", None)).collect();
        queues.wait_while_congested("/1", forever).await;
        let one_more = queues.join("/1", None);
        let mut new = Box::pin(queues.wait_while_congested("/1", forever));
        assert!(!is_ready(&mut new).await);
        drop(one_more);
        assert!(is_ready(&mut new).await);
        drop(few);
    }

    #[tokio::test]
    async fn left_ticket_gives_its_turn_to_the_next() {
        let queues = RetryQueues::default();
        let [mut first, mut second, mut third, mut fourth] =
            [(); 4].map(|()| queues.join("/1", None));
        assert!(first.try_start() && second.try_start());
        {
            let mut waiting = Box::pin(third.wait(backoff(), ready(())));
            assert!(!is_ready(&mut waiting).await);
        }
        drop((first, third));
        assert!(fourth.try_start());
    }

    #[tokio::test]
    async fn second_conflict_waits_in_the_queue_for_all() {
        let queues = RetryQueues::default();
        let [mut first, mut second] = ["/1", "/2"].map(|key| queues.join(key, None));
        assert!(first.try_start() && second.try_start());
        assert!(first.try_start() && !second.try_start());
        let mut second = Box::pin(second.wait(backoff(), ready(())));
        assert!(!is_ready(&mut second).await);
        drop(first);
        assert!(is_ready(&mut second).await);
    }

    #[tokio::test]
    async fn first_conflict_joins_the_queue_for_all_on_cockroachdb_while_it_is_in_use() {
        let queues = RetryQueues::default();
        let server = Some(Server::CockroachDb);
        let [mut first, mut second, mut third] =
            ["/1", "/2", "/3"].map(|key| queues.join(key, server));
        assert!(first.try_start() && second.try_start());
        assert!(first.try_start() && !third.try_start());
        let mut third = Box::pin(third.wait(backoff(), ready(())));
        assert!(!is_ready(&mut third).await);
        drop(first);
        assert!(is_ready(&mut third).await);
    }

    #[tokio::test]
    async fn only_the_front_of_a_line_prepares_before_its_turn() {
        let queues = RetryQueues::default();
        let [mut first, mut second, mut third, mut fourth] =
            [(); 4].map(|()| queues.join("/1", None));
        assert!(first.try_start() && second.try_start());
        assert!(!third.try_start() && !fourth.try_start());
        let prepared = Cell::new("");
        let prepare = async |name| prepared.set(name);
        let mut third = Box::pin(third.wait(backoff(), prepare("third")));
        let mut fourth = Box::pin(fourth.wait(backoff(), prepare("fourth")));
        assert!(!is_ready(&mut third).await && !is_ready(&mut fourth).await);
        assert_eq!(prepared.get(), "third");
        drop(first);
        assert!(is_ready(&mut third).await && !is_ready(&mut fourth).await);
        assert_eq!(prepared.get(), "fourth");
    }

    #[tokio::test]
    async fn cockroachdb_retries_one_at_a_time() {
        let queues = RetryQueues::default();
        let server = Some(Server::CockroachDb);
        let [mut first, mut second] = [(); 2].map(|()| queues.join("/1", server));
        assert!(first.try_start() && !second.try_start());
        drop(first);
        assert!(second.try_start());
    }

    #[tokio::test]
    async fn repeated_conflicts_in_a_turn_are_followed_by_pauses() {
        let queues = RetryQueues::default();
        let mut ticket = queues.join("/1", None);
        let at_once = (0..100).take_while(|_| ticket.try_start()).count();
        assert_eq!(at_once, AT_ONCE as usize);
    }
}
