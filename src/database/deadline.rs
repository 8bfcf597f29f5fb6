//! Deadlines.

use std::time::Duration;

use tokio::time::{self, Instant};

/// Awaits `future` until `deadline`. `None` if the deadline passes first.
///
/// It waits in steps. A timer that is due before all others wakes the thread that sleeps until
/// the next one, which costs more than the timer; steps of one length are never due before those
/// that were set earlier.
///
/// The caller pins a future that is not `Unpin`: passed by value, it would be stored twice.
pub(crate) async fn timeout_at<F>(deadline: Instant, mut future: F) -> Option<F::Output>
where
    F: Future + Unpin,
{
    loop {
        let step = deadline.min(Instant::now() + STEP);
        match time::timeout_at(step, &mut future).await {
            Ok(output) => return Some(output),
            Err(_) if step == deadline => return None,
            Err(_) => {}
        }
    }
}

const STEP: Duration = Duration::from_secs(5);
