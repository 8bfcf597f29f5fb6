//! The lease: the transaction in the hands of one `Tx`.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use sqlx::PgConnection;

use crate::{
    error::{Error, ErrorKind},
    retry::{self, Meaning},
    slot::{Fault, Slot},
    transaction::Transaction,
};

/// The right of one `Tx` to run statements, from its first one until it is dropped.
///
/// Between statements the transaction itself stays in the slot, from where the settlement can take
/// it back.
pub(crate) struct Lease {
    slot: Arc<Slot>,
    granted: bool,
    transaction: Option<Transaction>,
    progress: Progress,
}

/// How far the statement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The server has answered, or was not asked, or the caller has a row in hand.
    Resting,
    /// The server owes an answer. Given back now, the statement is abandoned.
    Waiting,
}

impl Lease {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        slot.lease_made();
        Self {
            slot,
            granted: false,
            transaction: None,
            progress: Progress::Resting,
        }
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn is_granted(&self) -> bool {
        self.granted
    }

    /// Takes the transaction for one statement.
    pub(crate) async fn take(&mut self) -> Result<InUse<'_>, sqlx::Error> {
        self.hold().await?;
        Ok(InUse(self))
    }

    /// Takes the transaction until the next statement, and returns its connection. What happens on
    /// it is not seen.
    pub(crate) async fn lend(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.hold().await?;
        self.seal().await?;
        self.parts()?.0.connection()
    }

    /// The transaction, and how far its statement has come.
    pub(crate) fn parts(&mut self) -> Result<(&mut Transaction, &mut Progress), sqlx::Error> {
        match &mut self.transaction {
            Some(transaction) => Ok((transaction, &mut self.progress)),
            None => Err(Error::new(ErrorKind::Aborted).into_sqlx()),
        }
    }

    /// The transaction, about to be sent something. [`done`](Self::done) must follow.
    pub(crate) fn start(&mut self) -> Result<&mut Transaction, sqlx::Error> {
        let (transaction, progress) = self.parts()?;
        *progress = Progress::Waiting;
        Ok(transaction)
    }

    /// The server has answered: notes the error, if it is one of the transaction.
    pub(crate) fn done<T>(&mut self, answer: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.progress = Progress::Resting;
        if let Err(error) = &answer {
            self.note(error);
        }
        answer
    }

    /// Something is about to be sent whose effects cannot be seen.
    pub(crate) async fn seal(&mut self) -> Result<(), sqlx::Error> {
        let sealed = self.start()?.seal().await;
        self.done(sealed)
    }

    /// Keeps what was done since the savepoint.
    pub(crate) async fn release(&mut self, depth: u32) -> Result<(), sqlx::Error> {
        let released = self.start()?.release(depth).await;
        self.done(released)?;
        self.slot.lock().released(depth);
        Ok(())
    }

    /// Takes the transaction and rolls back to the savepoint, which heals what went wrong since.
    pub(crate) async fn roll_back(&mut self, depth: u32) -> Result<(), sqlx::Error> {
        self.hold_unverified().await?;
        let rolled_back = self.roll_back_to(depth).await;
        self.give_back();
        rolled_back
    }

    async fn roll_back_to(&mut self, depth: u32) -> Result<(), sqlx::Error> {
        // What a dropped row stream left is read first: it went wrong inside of the savepoint.
        let drained = self.start()?.drain().await;
        let _ = self.done(drained);
        let rolled_back = self.start()?.roll_back_to(depth).await;
        self.done(rolled_back)?;
        let forgotten = self.slot.lock().rolled_back(depth);
        drop(forgotten);
        Ok(())
    }

    /// The savepoint was dropped. It is rolled back before anything else is sent.
    pub(crate) fn drop_savepoint(&mut self, depth: u32) {
        self.give_back();
        self.slot.savepoint_dropped(depth);
    }

    /// Refuses a statement, and with it the whole attempt.
    pub(crate) fn refuse(&self, error: Error) -> sqlx::Error {
        let fault = Fault {
            meaning: Meaning::Failed,
            error: error.clone(),
            depth: self.depth(),
        };
        self.slot.lock().faults.push(fault);
        error.into_sqlx()
    }

    /// Takes the transaction, begins it if there is none yet, and makes sure of it: else a
    /// statement could run outside of it, and stay.
    async fn hold(&mut self) -> Result<(), sqlx::Error> {
        self.hold_unverified().await?;
        if let Some(depth) = self.parts()?.0.dropped_savepoint() {
            self.roll_back_to(depth).await?;
        }
        let verified = self.start()?.verify().await;
        self.done(verified)?;
        let read_only = self.slot.lock().read_only;
        let narrowed = self.start()?.narrow(read_only).await;
        self.done(narrowed)
    }

    async fn hold_unverified(&mut self) -> Result<(), sqlx::Error> {
        // From a row stream that was forgotten, or a connection that was lent out.
        self.give_back();
        let lent = self.slot.lend(&mut self.granted);
        self.transaction = lent.map_err(Error::into_sqlx)?;
        match self.transaction {
            Some(_) => Ok(()),
            None => self.begin().await,
        }
    }

    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let read_only = self.slot.lock().read_only;
        self.progress = Progress::Waiting;
        let begun = Transaction::begin(self.slot.shared(), None, read_only).await;
        let begun = self.done(begun.map_err(Error::into_sqlx))?;
        self.transaction = Some(begun);
        Ok(())
    }

    fn give_back(&mut self) {
        let abandoned = self.progress == Progress::Waiting;
        self.progress = Progress::Resting;
        if self.transaction.is_some() || abandoned {
            self.slot.give_back(self.transaction.take(), abandoned);
        }
    }

    fn note(&mut self, error: &sqlx::Error) {
        let broken = retry::is_broken(error);
        if let Some(transaction) = self.transaction.as_mut().filter(|_| broken) {
            transaction.break_off();
        }
        if let Some(meaning) = retry::meaning(error) {
            let error = Error::noted(error);
            let depth = self.depth();
            let fault = Fault {
                meaning,
                error,
                depth,
            };
            self.slot.lock().faults.push(fault);
        }
    }

    fn depth(&self) -> u32 {
        self.transaction.as_ref().map_or(0, Transaction::depth)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back();
        self.slot.lease_dropped(self.granted);
    }
}

/// A lease whose transaction is out for one statement. Dropped, it gives the transaction back.
pub(crate) struct InUse<'l>(&'l mut Lease);

impl Deref for InUse<'_> {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        self.0
    }
}

impl DerefMut for InUse<'_> {
    fn deref_mut(&mut self) -> &mut Lease {
        self.0
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}
