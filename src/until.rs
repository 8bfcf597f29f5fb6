//! Deadlines.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// Awaits `future` until `deadline`; `None` if that passes first.
///
/// In steps: a timer that is due before all others wakes the thread that sleeps until the next one, which costs more
/// than the timer. Steps of one length are never due before those that were set earlier.
///
/// What is not `Unpin` is pinned by the caller: handed over, it would take its place twice.
pub(crate) async fn until<F>(deadline: Instant, mut future: F) -> Option<F::Output>
where
    F: Future + Unpin,
{
    loop {
        let step = deadline.min(Instant::now() + STEP);
        match timeout_at(step, &mut future).await {
            Ok(output) => return Some(output),
            Err(_) if step == deadline => return None,
            Err(_) => {}
        }
    }
}

/// The length of a step, which is also what a server gets that ought to answer at once.
pub(crate) const STEP: Duration = Duration::from_secs(5);
