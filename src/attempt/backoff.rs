//! The pauses between attempts.

use std::time::Duration;

/// Exponential backoff with full jitter.
///
/// ```
/// use std::time::Duration;
/// use tower_interlock::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(200));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// Returns a backoff whose pauses are random between zero and a ceiling: `base` at first, twice
    /// the previous ceiling for each retry, and at most `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap: clamp(cap),
        }
    }

    /// The pause after `attempts` attempts. The first retry follows at once, since the transaction
    /// that won has just finished.
    pub(crate) fn pause(self, attempts: u32) -> Duration {
        let Some(exponent) = attempts.checked_sub(2) else {
            return Duration::ZERO;
        };
        let ceiling = self
            .base
            .saturating_mul(1_u32.checked_shl(exponent).unwrap_or(u32::MAX));
        ceiling.min(self.cap).mul_f64(fastrand::f64())
    }

    /// The longest pause.
    pub(crate) fn cap(self) -> Duration {
        self.cap
    }
}

/// 2 ms and 100 ms.
impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(2), Duration::from_millis(100))
    }
}

/// Shortens a duration so that an `Instant` can be that far away.
pub(crate) fn clamp(duration: Duration) -> Duration {
    const THIRTY_YEARS: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
    duration.min(THIRTY_YEARS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(2),
        cap: Duration::from_millis(50),
    };

    #[test]
    fn first_retry_follows_at_once() {
        assert_eq!(BACKOFF.pause(1), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_up_to_the_cap() {
        let longest = |attempts| (0..1000).map(|_| BACKOFF.pause(attempts)).max().unwrap();
        assert!(longest(2) <= Duration::from_millis(2));
        assert!(longest(4) > Duration::from_millis(2));
        assert!(longest(4) <= Duration::from_millis(8));
        assert!(longest(u32::MAX) <= Duration::from_millis(50));
    }
}
