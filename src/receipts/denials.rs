//! The receipts of denials: written in the background, and dropped when there are too many.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time::Instant,
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    database::Database,
    receipts::{receipt::Receipt, statements::store},
};

/// The queue of denials that are to be recorded. One task writes them, on one connection at a time.
#[derive(Default)]
pub(crate) struct DenialLog {
    queue: Mutex<Option<Sender<Queued>>>,
    unrecorded: Arc<AtomicU64>,
}

/// A denial, and what keeps `drain` waiting for it.
struct Queued {
    receipt: Receipt,
    running: TaskTrackerToken,
}

impl DenialLog {
    /// Queues a denial. It never waits: if the queue is full, the denial is dropped and counted.
    pub(crate) fn record(&self, database: &Arc<Database>, receipt: Receipt) {
        let queued = Queued {
            receipt,
            running: database.token(),
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = queue.get_or_insert_with(|| self.spawn(database));
        match sender.try_send(queued) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => count(&self.unrecorded),
            // The runtime of the task was shut down.
            Err(TrySendError::Closed(queued)) => {
                let sender = queue.insert(self.spawn(database));
                if sender.try_send(queued).is_err() {
                    count(&self.unrecorded);
                }
            }
        }
    }

    /// How many denials were not recorded.
    pub(crate) fn unrecorded(&self) -> u64 {
        self.unrecorded.load(Relaxed)
    }

    fn spawn(&self, database: &Arc<Database>) -> Sender<Queued> {
        let (sender, receiver) = channel(CAPACITY);
        let writing = write(Arc::clone(database), receiver, Arc::clone(&self.unrecorded));
        tokio::spawn(writing);
        sender
    }
}

/// Writes until the queue is empty and its `Interlock` is gone.
async fn write(database: Arc<Database>, mut queue: Receiver<Queued>, unrecorded: Arc<AtomicU64>) {
    let mut has_failed = false;
    while let Some(Queued { receipt, running }) = queue.recv().await {
        // `drain` must not wait for a database that does not reply, once for each denial.
        if has_failed && database.check_open().is_err() {
            count(&unrecorded);
            continue;
        }
        let receipt = Arc::new(receipt);
        let limit = Instant::now() + WRITE_TIMEOUT;
        let writing = database.run_repeatable(limit, move |database, sql| {
            let receipt = Arc::clone(&receipt);
            Box::pin(async move { store(database, sql, &receipt).await })
        });
        let written = writing.await;
        has_failed = written.is_err();
        if let Err(error) = written {
            tracing::warn!(%error, "a denial could not be recorded");
            count(&unrecorded);
        }
        drop(running);
    }
}

/// Counts a denial that is not recorded. It is logged ever more rarely, since an attack must not
/// exhaust the log either.
fn count(unrecorded: &AtomicU64) {
    let count = unrecorded.fetch_add(1, Relaxed) + 1;
    if count.is_power_of_two() {
        tracing::warn!(count, "denials were not recorded");
    }
}

impl fmt::Debug for DenialLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DenialLog")
            .field("unrecorded", &self.unrecorded())
            .finish_non_exhaustive()
    }
}

const CAPACITY: usize = 1_000;
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
