//! The transaction in the hands of one statement.

use std::sync::Arc;

use crate::{
    error::{Error, ErrorKind},
    retry::{self, Meaning},
    slot::{Fault, Slot},
    transaction::Transaction,
};

/// The transaction, held by one statement. Dropped, it goes back into the slot.
pub(crate) struct Held {
    slot: Arc<Slot>,
    transaction: Option<Transaction>,
    progress: Progress,
}

/// How far the statement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The server has answered, or was not asked.
    Done,
    /// The server owes an answer. Dropped now, the statement is abandoned.
    Waiting,
    /// The caller has a row in hand. Dropped now, it wants no more of them.
    AtRow,
}

impl Held {
    pub(crate) fn new(slot: Arc<Slot>, transaction: Option<Transaction>) -> Self {
        Self {
            slot,
            transaction,
            progress: Progress::Done,
        }
    }

    /// Makes the transaction ready for a statement: begins it if there is none yet.
    pub(crate) async fn open(&mut self) -> Result<(), sqlx::Error> {
        self.progress = Progress::Waiting;
        let opened = self.try_open().await;
        self.done(opened)
    }

    /// The transaction, about to be sent something. [`done`](Self::done) must follow.
    pub(crate) fn start(&mut self) -> Result<&mut Transaction, sqlx::Error> {
        let (transaction, progress) = self.parts()?;
        *progress = Progress::Waiting;
        Ok(transaction)
    }

    /// The transaction, and how far its statement has come.
    pub(crate) fn parts(&mut self) -> Result<(&mut Transaction, &mut Progress), sqlx::Error> {
        match &mut self.transaction {
            Some(transaction) => Ok((transaction, &mut self.progress)),
            None => Err(Error::new(ErrorKind::Aborted).into_sqlx()),
        }
    }

    /// The server has answered: notes the error, if it is one of the transaction.
    pub(crate) fn done<T>(&mut self, answer: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.progress = Progress::Done;
        if let Err(error) = &answer {
            self.note(error);
        }
        answer
    }

    /// Something is about to be sent whose effects cannot be seen.
    pub(crate) async fn seal(&mut self) -> Result<(), sqlx::Error> {
        self.slot.lock().unseen = true;
        let sealed = self.start()?.seal().await;
        self.done(sealed)
    }

    /// Rolls back to a savepoint, which heals what went wrong inside it.
    pub(crate) async fn roll_back_to(&mut self, depth: u32) -> Result<(), sqlx::Error> {
        let rolled_back = self.start()?.roll_back_to(depth).await;
        self.done(rolled_back)?;
        let mut state = self.slot.lock();
        state
            .faults
            .retain(|fault| fault.depth < depth || fault.meaning.is_final());
        state.hooks.retain(|(at, _)| *at < depth);
        Ok(())
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

    async fn try_open(&mut self) -> Result<(), sqlx::Error> {
        let (spare, read_only) = {
            let mut state = self.slot.lock();
            (state.spare.take(), state.read_only)
        };
        let Some(transaction) = &self.transaction else {
            let begun = Transaction::begin(&self.slot.shared, spare, read_only).await;
            self.transaction = Some(begun.map_err(Error::into_sqlx)?);
            return Ok(());
        };
        if let Some(depth) = transaction.dropped_savepoint() {
            self.roll_back_to(depth).await?;
        }
        self.start()?.narrow(read_only).await
    }

    fn note(&self, error: &sqlx::Error) {
        if let Some(meaning) = retry::meaning(error) {
            let error = Error::noted(error);
            let fault = Fault {
                meaning,
                error,
                depth: self.depth(),
            };
            self.slot.lock().faults.push(fault);
        }
    }

    fn depth(&self) -> u32 {
        self.transaction.as_ref().map_or(0, Transaction::depth)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.slot.lock();
        state.abandoned |= self.progress == Progress::Waiting;
        state.unseen |= self.progress == Progress::AtRow;
        state.busy = false;
        if !state.closed {
            state.transaction = self.transaction.take();
        }
        // Else the request is over, and dropping the transaction rolls it back.
    }
}
