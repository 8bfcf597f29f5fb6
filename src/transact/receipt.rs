//! The receipt of a transaction, and its idempotency key.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    database::Database,
    error::{Error, ErrorKind},
    receipts::{AttemptId, Receipt, ReceiptKey, Receipts, Sha256Writer, find},
    tx::SlotState,
};

/// The receipt of a transaction, before there is an attempt to store it.
pub(crate) struct TransactionReceipt {
    /// That of its idempotency key. Without one, each attempt has a key of its own.
    key: Option<ReceiptKey>,
    principal: Option<Arc<str>>,
    valid_for: Duration,
}

impl TransactionReceipt {
    /// `None` if none is stored: without `settings`.
    ///
    /// # Errors
    ///
    /// Returns `Misconfigured` for an idempotency key without a name, or that could not be stored.
    pub(crate) fn new(
        settings: Option<&Receipts>,
        principal: Option<&Arc<str>>,
        name: Option<&'static str>,
        idempotency_key: Option<&[u8]>,
    ) -> Result<Option<Self>, Error> {
        let key = match (idempotency_key, name, settings) {
            (Some(_), None, _) => {
                return Err(misconfigured("named(): the key belongs to the name"));
            }
            (Some(_), _, None) => {
                let needs = "InterlockBuilder::receipts, and excludes read_only()";
                return Err(misconfigured(needs));
            }
            (Some(key), Some(name), Some(_)) => {
                let hash = Sha256Writer::new("transaction")
                    .optional(principal.map(|it| it.as_bytes()))
                    .part(name.as_bytes());
                Some(ReceiptKey::hash(hash.part(key)))
            }
            (None, _, Some(_)) => None,
            (None, _, None) => return Ok(None),
        };
        let valid_for = settings.map(Receipts::valid_for).unwrap_or_default();
        Ok(Some(Self {
            key,
            principal: principal.cloned(),
            valid_for,
        }))
    }

    /// Whether each attempt looks for an earlier transaction with the same key first.
    pub(crate) fn is_keyed(&self) -> bool {
        self.key.is_some()
    }

    /// Checks that its idempotency key, if it has one, is not used.
    ///
    /// # Errors
    ///
    /// Returns `AlreadyDone`, or the error of the query.
    pub(crate) async fn check_unused(
        &self,
        database: &Arc<Database>,
        limit: Instant,
    ) -> Result<(), Error> {
        let Some(key) = self.key else {
            return Ok(());
        };
        // Boxed: what is rarely needed is not to enlarge the future of every transaction.
        match Box::pin(find(database, key, limit)).await? {
            Some(_) => Err(Error::new(ErrorKind::AlreadyDone)),
            None => Ok(()),
        }
    }

    /// The receipt of an attempt that has succeeded.
    ///
    /// # Errors
    ///
    /// Returns `Unavailable` if the operating system has no random numbers.
    pub(crate) fn to_store(
        &self,
        name: &str,
        attempts: u32,
        state: &mut SlotState,
    ) -> Result<Box<Receipt>, Error> {
        Ok(Box::new(Receipt {
            key: self.key.map_or_else(ReceiptKey::random, Ok)?,
            attempt: AttemptId::random()?,
            status: Receipt::TRANSACTION,
            fingerprint: None,
            principal: self.principal.clone(),
            names: name.to_owned(),
            method: None,
            path: None,
            attempts,
            notes: state.take_notes(),
            response: None,
            valid_for: self.valid_for,
        }))
    }
}

fn misconfigured(needs: &str) -> Error {
    let cause = format!("idempotency_key() needs {needs}");
    Error::because(ErrorKind::Misconfigured, cause)
}
