use std::{future::poll_fn, pin::pin, task::Poll};

/// Polls `future` at most `polls` times and drops it.
pub async fn drop_after<F: Future>(polls: i64, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let output = future.as_mut().poll(cx).map(Some);
        if output.is_pending() && left == 0 {
            return Poll::Ready(None);
        }
        output
    })
    .await
}
