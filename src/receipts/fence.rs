//! The fence: it decides an attempt whose COMMIT was not acknowledged.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    database::Database,
    error::Error,
    receipts::{
        key::{AttemptId, ReceiptKey},
        receipt::Receipt,
        statements::{self, Decided},
    },
};

/// Decides whether an attempt that has stored its receipt is committed.
pub(crate) struct Fence {
    database: Arc<Database>,
    key: ReceiptKey,
    attempt: AttemptId,
    valid_for: Duration,
}

/// The finding of a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fenced {
    Committed,
    /// Nothing was kept, and a COMMIT that is still under way cannot take effect any more.
    Void,
    /// The database could not be reached in time.
    Unknown,
}

impl Fence {
    pub(crate) fn new(database: &Arc<Database>, receipt: &Receipt) -> Self {
        Self {
            database: Arc::clone(database),
            key: receipt.key,
            attempt: receipt.attempt,
            valid_for: receipt.valid_for,
        }
    }

    /// Decides, until `limit`. It may be repeated: a fence that was sent and not acknowledged has
    /// voided the same attempt.
    pub(crate) async fn decide(&self, limit: Instant) -> Fenced {
        loop {
            match self.try_decide(limit).await {
                Ok(Decided::Committed) => return Fenced::Committed,
                Ok(Decided::Void) => return Fenced::Void,
                Err(error) => {
                    tracing::debug!(%error, "the outcome of a COMMIT could not be determined yet");
                }
            }
            if Instant::now() + PAUSE >= limit {
                return Fenced::Unknown;
            }
            sleep(PAUSE).await;
        }
    }

    async fn try_decide(&self, limit: Instant) -> Result<Decided, Error> {
        let (key, attempt, valid_for) = (self.key, self.attempt, self.valid_for);
        let deciding = self.database.run_repeatable(limit, move |database, sql| {
            Box::pin(
                async move { statements::fence(database, sql, &key, &attempt, valid_for).await },
            )
        });
        deciding.await
    }
}

const PAUSE: Duration = Duration::from_millis(100);
