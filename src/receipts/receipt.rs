//! The row.

use std::{sync::Arc, time::Duration};

use crate::receipts::key::{AttemptId, Fingerprint, ReceiptKey};

/// A receipt that is to be stored.
pub(crate) struct Receipt {
    pub(crate) key: ReceiptKey,
    pub(crate) attempt: AttemptId,
    /// The status of the response, or [`TRANSACTION`](Self::TRANSACTION).
    pub(crate) status: u16,
    pub(crate) fingerprint: Option<Fingerprint>,
    pub(crate) principal: Option<Arc<str>>,
    /// The names of the policies, or that of the transaction.
    pub(crate) names: String,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) attempts: u32,
    pub(crate) notes: Option<serde_json::Value>,
    pub(crate) response: Option<KeptResponse>,
    pub(crate) valid_for: Duration,
}

/// The headers and the body of a response, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptResponse {
    pub(crate) headers: Vec<u8>,
    /// `None` if it was too long, or of unknown length.
    pub(crate) body: Option<Vec<u8>>,
}

/// A receipt that was found.
pub(crate) struct Stored {
    pub(crate) attempt: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) fingerprint: Option<Vec<u8>>,
    pub(crate) headers: Option<Vec<u8>>,
    pub(crate) body: Option<Vec<u8>>,
}

impl Receipt {
    /// The status of a receipt of `transact`.
    pub(crate) const TRANSACTION: u16 = 1;
}

impl Stored {
    pub(crate) fn is_of(&self, attempt: &AttemptId) -> bool {
        self.attempt == attempt.as_bytes()
    }

    /// Whether it is of a request that has asked for the same.
    pub(crate) fn has_fingerprint(&self, fingerprint: &Fingerprint) -> bool {
        self.fingerprint.as_deref() == Some(fingerprint.as_bytes())
    }
}
