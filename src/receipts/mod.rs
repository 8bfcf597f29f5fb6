//! Receipts: one row for each COMMIT, by which it can be found again.

mod denials;
mod fence;
mod key;
mod receipt;
mod settings;
mod statements;

pub use self::settings::Receipts;
pub(crate) use self::{
    denials::DenialLog,
    fence::{Fence, Fenced},
    key::{AttemptId, Fingerprint, ReceiptKey, Sha256Writer},
    receipt::{KeptResponse, Receipt, Stored},
    statements::{REQUIRED_TABLE, STATEMENTS, TABLE, find, purge, store},
};
