//! The look at what a policy reads, in its first runs.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{
    database::{Access, Severity, UntrackedRead},
    error::{Error, ErrorKind},
    tx::{Slot, untracked_reads, untracked_words},
};

/// How many runs of a policy are looked at. A policy may read different relations each time.
const LOOKS: u32 = 8;

/// Every run is looked at: one has read what cannot be right.
const ALWAYS: u32 = u32::MAX;

/// The reads of one policy, as far as they were looked at.
#[derive(Default)]
pub(crate) struct PolicyReads {
    /// How many runs were looked at, or [`ALWAYS`].
    looks: AtomicU32,
    /// The relations and words that were warned of.
    warned: Mutex<Vec<String>>,
}

impl PolicyReads {
    /// Prepares the look at the run that begins, if it is due.
    pub(crate) fn prepare_look(&self, access: Access, slot: &Slot) -> Look<'_> {
        let looks = self.looks.load(Relaxed);
        let is_due = access == Access::ReadWrite && (looks < LOOKS || looks == ALWAYS);
        if is_due {
            slot.keep_texts();
        }
        Look(is_due.then_some(self))
    }

    /// Looks at what `policy` has read in the transaction of `slot`, and warns of what the database
    /// does not track.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Misconfigured`] for a read that cannot be right.
    async fn look(&self, policy: &'static str, slot: &Arc<Slot>) -> Result<(), Error> {
        for text in slot.take_texts() {
            for word in untracked_words(text.as_str()) {
                self.warn(policy, word);
            }
        }
        for UntrackedRead { relation, severity } in untracked_reads(slot).await {
            match severity {
                Severity::Warn => self.warn(policy, relation),
                Severity::Reject => {
                    self.looks.store(ALWAYS, Relaxed);
                    return Err(rejected(policy, &relation));
                }
            }
        }
        let counted = |looks| (looks < LOOKS).then_some(looks + 1);
        let _ = self.looks.fetch_update(Relaxed, Relaxed, counted);
        Ok(())
    }

    fn warn(&self, policy: &'static str, read: String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.contains(&read) {
            return;
        }
        tracing::warn!(
            policy,
            read,
            "a policy reads what the database does not track: a revocation there can commit while \
             the request still writes; read it from a table, or read as well a version row that \
             every revocation writes"
        );
        warned.push(read);
    }
}

/// The look at one run of a policy, if it is due.
pub(crate) struct Look<'r>(Option<&'r PolicyReads>);

impl Look<'_> {
    /// Looks at the run, which has passed, and returns the error that keeps it from passing: the
    /// first one of its statements, or that of the look.
    pub(crate) async fn first_error(self, policy: &'static str, slot: &Arc<Slot>) -> Option<Error> {
        let Some(reads) = self.0.filter(|_| slot.first_error().is_none()) else {
            return slot.first_error();
        };
        let looked = reads.look(policy, slot).await;
        looked.err().or_else(|| slot.first_error())
    }
}

fn rejected(policy: &str, relation: &str) -> Error {
    let cause = format!(
        "the policy {policy} reads the {relation}, which this version of PostgreSQL does not track, \
         and no table: a revocation could commit while the request still writes; copy the \
         permissions into a table, or let the policy read as well a version row that every \
         revocation writes"
    );
    Error::because(ErrorKind::Misconfigured, cause)
}
