//! The limits of attempts.

use std::time::Duration;

use tokio::time::Instant;

use crate::attempt::backoff::{Backoff, clamp};

/// How long, and how often, work is attempted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) dry_run: bool,
}

impl Limits {
    pub(crate) fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = clamp(deadline);
    }

    pub(crate) fn set_grace(&mut self, grace: Duration) {
        self.grace = clamp(grace);
    }

    pub(crate) fn set_max_attempts(&mut self, attempts: u32) {
        self.max_attempts = attempts.max(1);
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            max_attempts: 100,
            backoff: Backoff::default(),
            dry_run: false,
        }
    }
}

/// Until when the steps of an attempt may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// Everything before COMMIT is sent.
    pub(crate) work: Instant,
    /// The acknowledgement of COMMIT.
    pub(crate) commit: Instant,
}

impl Deadlines {
    /// When a COMMIT that is not acknowledged is given up in the background as well, and its
    /// connection closed.
    pub(crate) fn given_up(self) -> Instant {
        self.commit + GIVEN_UP_AFTER
    }

    /// When half of the time that is left has passed: from then on the outcome of a COMMIT that is not
    /// acknowledged is asked for, if there is a way to.
    pub(crate) fn halfway(self) -> Instant {
        self.after_quarters(2)
    }

    /// When three quarters of the time that is left have passed: such a COMMIT is given up then. It
    /// may never have reached the server, whose transaction would stay open.
    pub(crate) fn three_quarters(self) -> Instant {
        self.after_quarters(3)
    }

    fn after_quarters(self, quarters: u32) -> Instant {
        let now = Instant::now();
        now + self.commit.saturating_duration_since(now) / 4 * quarters
    }
}

const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_settings_are_moments_in_the_future() {
        let mut limits = Limits::default();
        limits.set_deadline(Duration::MAX);
        limits.set_grace(Duration::MAX);
        let now = Instant::now();
        assert!(now + limits.deadline + limits.grace > now);
    }
}
