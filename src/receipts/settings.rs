//! The settings of receipts.

use std::time::Duration;

/// The settings of receipts, for
/// [`InterlockBuilder::receipts`](crate::InterlockBuilder::receipts).
///
/// A receipt is a row of the table `interlock_receipts`, written in the transaction that it
/// testifies to. It exists exactly if that transaction was committed, so it answers three questions:
///
/// * **Did it commit?** When COMMIT is not acknowledged, the crate looks for the receipt on another
///   connection, and makes sure that a COMMIT which is still under way cannot take effect unseen.
///   The work is then a success, or it is retried. It ends as
///   [`OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown) only if the database cannot be reached
///   until the [`grace`](crate::InterlockBuilder::grace) period is over.
/// * **Was it done before?** A request with an idempotency key that was committed before gets the
///   response of then; see [`AuthorizeLayer::idempotent`](crate::AuthorizeLayer::idempotent).
/// * **Who did it, allowed by which policy?** The row has the principal, the policies, the method
///   and path, and what [`Tx::note`](crate::TxExecutor::note) has added.
///
/// A receipt is stored for each request that may write: its method is not safe (GET, HEAD, OPTIONS,
/// TRACE), its layer is not [`read_only`](crate::AuthorizeLayer::read_only), and it has run a
/// statement. The same holds for [`transact`](crate::Interlock::transact), but not for a
/// conditional write on the [`Interlock`](crate::Interlock): run that on a
/// [`Tx`](crate::Tx), or use [`If-Match`](crate::precondition::IfMatch), which rejects a repeated
/// write.
///
/// The table is made by [`schema::RECEIPTS`](crate::schema::RECEIPTS). If it is missing, the first
/// work is rejected as [`Misconfigured`](crate::ErrorKind::Misconfigured).
///
/// # Cost
///
/// One round trip for each COMMIT. A request with an idempotency key costs one more for each attempt,
/// and one at its end if it has failed. Work that stores no receipt costs no round trip.
///
/// # Session
///
/// The table belongs to the schema in which the first connection has found it, also for a request
/// that changes its `search_path`. A role that a request sets with `SET ROLE` needs the privileges on
/// the table as well.
#[derive(Debug, Clone)]
#[must_use = "pass it to InterlockBuilder::receipts"]
pub struct Receipts {
    keep: Duration,
    response_limit: usize,
    records_denials: bool,
}

impl Receipts {
    /// Returns the defaults.
    pub fn new() -> Self {
        Self {
            keep: Duration::from_secs(7 * 24 * 60 * 60),
            response_limit: 64 * 1024,
            records_denials: false,
        }
    }

    /// Sets how long a receipt is valid. Default: 7 days. Less than an hour counts as an hour.
    ///
    /// Then its idempotency key is free again, and
    /// [`purge_receipts`](crate::Interlock::purge_receipts) removes it. Tell the clients this time:
    /// a request that is repeated later is executed again. An audit needs years; the responses may
    /// be removed sooner, by `UPDATE interlock_receipts SET body = NULL`, and a repeated request is
    /// then [`AlreadyDone`](crate::ErrorKind::AlreadyDone).
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep.clamp(SHORTEST, LONGEST);
        self
    }

    /// Sets the largest response body, in bytes, that is kept for a repeated request. Default:
    /// 64 KiB.
    ///
    /// A body that is longer, or whose length is not known before it is sent, is not kept. The
    /// request that is repeated then is [`AlreadyDone`](crate::ErrorKind::AlreadyDone).
    pub fn response_limit(mut self, bytes: usize) -> Self {
        self.response_limit = bytes;
        self
    }

    /// Also records requests that a policy has denied. Default: off.
    ///
    /// The denial's transaction is rolled back, so its row is written afterwards, in the
    /// background. At most 1,000 rows wait for the database. Further ones are dropped, and counted
    /// by [`unrecorded_denials`](crate::Interlock::unrecorded_denials), so that an attack does not
    /// exhaust the database. The event in the log, with the target `tower_interlock::audit`, is not
    /// affected by this setting.
    pub fn record_denials(mut self) -> Self {
        self.records_denials = true;
        self
    }

    pub(crate) fn valid_for(&self) -> Duration {
        self.keep
    }

    pub(crate) fn longest_response(&self) -> usize {
        self.response_limit
    }

    pub(crate) fn records_denials(&self) -> bool {
        self.records_denials
    }
}

impl Default for Receipts {
    fn default() -> Self {
        Self::new()
    }
}

/// Well above the time in which the outcome of a COMMIT is still being asked for.
const SHORTEST: Duration = Duration::from_secs(60 * 60);
/// A century: the servers cannot add just any interval.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
