//! The lease: the transaction in the hands of one `Tx`.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Instant,
};

use sqlx::{PgConnection, SqlStr};

use crate::{
    database::{Access, Depth, Doubt, Health, Server, Transaction},
    error::{Error, ErrorKind, Known, Moment, breaks_connection},
    tx::slot::Slot,
};

/// The right of one `Tx` to run statements, from its first one until it is dropped.
///
/// Between statements the transaction stays in the slot, from where the settlement can take it.
pub(crate) struct Lease {
    slot: Arc<Slot>,
    granted: bool,
    transaction: Option<Transaction>,
    progress: Progress,
    /// The statement under way, if it is observed.
    observed: Option<SqlStr>,
}

/// How far the statement has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The server owes no reply, or the caller has a row in hand.
    Idle,
    /// The server owes a reply. Checked in now, the statement is abandoned.
    Waiting,
}

impl Lease {
    pub(crate) fn new(slot: Arc<Slot>) -> Self {
        slot.lease_created();
        Self {
            slot,
            granted: false,
            transaction: None,
            progress: Progress::Idle,
            observed: None,
        }
    }

    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    pub(crate) fn is_granted(&self) -> bool {
        self.granted
    }

    /// Checks the transaction out for one statement.
    pub(crate) async fn checkout(&mut self) -> Result<LeaseGuard<'_>, sqlx::Error> {
        self.checkout_verified().await?;
        Ok(LeaseGuard(self))
    }

    /// Checks the transaction out until the next statement, and returns its connection. Statements
    /// on it are not seen.
    pub(crate) async fn raw_connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.checkout_verified().await?;
        self.set_sentinel().await?;
        self.mark_doubtful(Doubt::RawConnection)?;
        if let Some(observation) = self.slot.observation() {
            observation.connection_taken(self.slot.attempt(), self.slot.phase());
        }
        self.parts()?.0.sql()
    }

    /// Verifies the transaction if no statement is using it, and records errors that no statement
    /// has returned.
    pub(crate) async fn verify_idle(slot: &Arc<Slot>) {
        if slot.is_idle() {
            drop(Self::new(Arc::clone(slot)).checkout().await);
        }
    }

    /// The transaction, and how far its statement has come.
    pub(crate) fn parts(&mut self) -> Result<(&mut Transaction, &mut Progress), sqlx::Error> {
        match &mut self.transaction {
            Some(transaction) => Ok((transaction, &mut self.progress)),
            None => Err(Error::new(ErrorKind::TransactionAborted).into_sqlx()),
        }
    }

    /// The transaction, about to be sent something. [`done`](Self::done) must follow.
    pub(crate) fn start(&mut self) -> Result<&mut Transaction, sqlx::Error> {
        let (transaction, progress) = self.parts()?;
        *progress = Progress::Waiting;
        Ok(transaction)
    }

    /// The server has replied. Records an error of the transaction.
    pub(crate) fn done<T>(&mut self, reply: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.progress = Progress::Idle;
        if let Some(transaction) = &mut self.transaction {
            transaction.mark_quiet();
        }
        self.note_doubt();
        if let Err(error) = &reply {
            self.record(error);
        }
        if let Some(sql) = self.observed.take() {
            self.observe(&sql, reply.is_ok(), reply.as_ref().err());
        }
        reply
    }

    /// Records whether the last statement was an INSERT that skipped its row because of a conflict.
    pub(crate) fn note_skipped(&self, skipped: bool) {
        self.slot.lock().skipped_insert = skipped;
    }

    fn moment(&self) -> Moment {
        match self.transaction.as_ref().map(Transaction::access) {
            Some(Access::ReadOnly) => Moment::ReadOnly,
            _ => Moment::ReadWrite,
        }
    }

    /// Observes the statement that is sent next.
    pub(crate) fn observe_next(&mut self, sql: &SqlStr) {
        if self.slot.observation().is_some() {
            self.observed = Some(sql.clone());
        }
    }

    /// Prepares for a statement whose effects cannot be seen.
    pub(crate) async fn set_sentinel(&mut self) -> Result<(), sqlx::Error> {
        let set = self.start()?.set_sentinel().await;
        self.done(set)
    }

    /// Prepares for a statement that may end the transaction. The sentinel is set.
    pub(crate) fn mark_doubtful(&mut self, doubt: Doubt) -> Result<(), sqlx::Error> {
        self.parts()?.0.mark_doubtful(doubt);
        self.note_doubt();
        Ok(())
    }

    /// The settlement needs to know also if the transaction does not come back.
    fn note_doubt(&self) {
        if let Some(transaction) = &self.transaction {
            self.slot.lock().noted_doubt = transaction.doubt();
        }
    }

    /// Prepares for a statement that may leave something on its session.
    pub(crate) fn alter_session(&mut self) -> Result<(), sqlx::Error> {
        self.parts()?.0.mark(Health::Altered);
        Ok(())
    }

    /// Opens a savepoint.
    pub(crate) async fn savepoint(&mut self) -> Result<Depth, sqlx::Error> {
        let mut lease = self.checkout().await?;
        let opened = lease.start()?.savepoint().await;
        lease.done(opened)
    }

    /// Keeps what was done since the savepoint.
    pub(crate) async fn release(&mut self, depth: Depth) -> Result<(), sqlx::Error> {
        let mut lease = self.checkout().await?;
        let released = lease.start()?.release(depth).await;
        lease.done(released)?;
        lease.slot.lock().release(depth);
        Ok(())
    }

    /// Rolls back to the savepoint, and clears the errors recorded since.
    pub(crate) async fn roll_back_to(&mut self, depth: Depth) -> Result<(), sqlx::Error> {
        self.checkout_unverified().await?;
        let rolled_back = self.try_roll_back_to(depth).await;
        self.checkin();
        rolled_back
    }

    async fn try_roll_back_to(&mut self, depth: Depth) -> Result<(), sqlx::Error> {
        // Pending replies of a dropped row stream are read first: their errors occurred inside of
        // the savepoint.
        let drained = self.start()?.drain().await;
        let _ = self.done(drained);
        let rolled_back = self.start()?.roll_back_to(depth).await;
        self.done(rolled_back)?;
        let hooks = self.slot.lock().roll_back_to(depth);
        drop(hooks);
        Ok(())
    }

    /// The savepoint was dropped. It is rolled back before anything else is sent.
    pub(crate) fn drop_savepoint(&mut self, depth: Depth) {
        self.checkin();
        self.slot.drop_savepoint(depth);
    }

    /// Rejects a statement, and with it the whole attempt.
    pub(crate) fn reject(&self, error: Error) -> sqlx::Error {
        self.slot.lock().record(error.clone(), self.depth());
        error.into_sqlx()
    }

    /// Checks the transaction out, begins it if there is none, and verifies it: otherwise a
    /// statement could run outside of it, and be kept.
    async fn checkout_verified(&mut self) -> Result<(), sqlx::Error> {
        self.checkout_unverified().await?;
        if let Some(depth) = self.parts()?.0.dropped_savepoint() {
            self.try_roll_back_to(depth).await?;
        }
        let verified = self.start()?.verify().await;
        self.done(verified)?;
        let access = self.slot.lock().access;
        let narrowed = self.start()?.narrow(access).await;
        self.done(narrowed)
    }

    async fn checkout_unverified(&mut self) -> Result<(), sqlx::Error> {
        // A forgotten row stream, or a raw connection, may still hold it.
        self.checkin();
        let transaction = self.slot.checkout(&mut self.granted);
        self.transaction = transaction.map_err(Error::into_sqlx)?;
        match self.transaction {
            Some(_) => Ok(()),
            None => self.begin().await,
        }
    }

    async fn begin(&mut self) -> Result<(), sqlx::Error> {
        let access = self.slot.lock().access;
        self.progress = Progress::Waiting;
        let asked = self.slot.observation().map(|_| Instant::now());
        let begun = self.slot.database().begin(access).await;
        if let Some(asked) = asked {
            self.slot.add_waited(asked.elapsed());
        }
        self.progress = Progress::Idle;
        // The first BEGIN finds out which server it is.
        if self.slot.database().known_server() == Some(Server::CockroachDb) {
            self.slot.lock().known = Known::All;
        }
        match begun {
            Ok(transaction) => {
                self.transaction = Some(transaction);
                Ok(())
            }
            Err(error) => {
                let error = error.into_sqlx();
                self.record(&error);
                Err(error)
            }
        }
    }

    fn checkin(&mut self) {
        let abandoned = self.progress == Progress::Waiting;
        self.progress = Progress::Idle;
        if let Some(transaction) = self.transaction.as_mut().filter(|_| abandoned) {
            transaction.mark(Health::Abandoned);
        }
        if self.transaction.is_some() || abandoned {
            self.slot.checkin(self.transaction.take(), abandoned);
        }
        if let Some(sql) = self.observed.take() {
            // A row stream that was dropped after a row had succeeded so far.
            self.observe(&sql, !abandoned, None);
        }
    }

    fn record(&mut self, error: &sqlx::Error) {
        let moment = self.moment();
        if let Some(transaction) = &mut self.transaction
            && breaks_connection(error, moment)
        {
            transaction.mark(Health::Broken);
        }
        if Error::classify(error).is_some() {
            let depth = self.depth();
            self.slot
                .lock()
                .record(Error::recorded(error, moment), depth);
        }
    }

    fn observe(&self, sql: &SqlStr, ok: bool, error: Option<&sqlx::Error>) {
        if let Some(observation) = self.slot.observation() {
            let (attempt, phase) = (self.slot.attempt(), self.slot.phase());
            observation.statement_executed(attempt, phase, sql.as_str(), ok, error);
        }
    }

    fn depth(&self) -> Depth {
        self.transaction
            .as_ref()
            .map_or_else(Depth::default, Transaction::depth)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.checkin();
        self.slot.lease_dropped(self.granted);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("granted", &self.granted)
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

/// A lease whose transaction is checked out for one statement. Dropped, it checks it in.
pub(crate) struct LeaseGuard<'l>(&'l mut Lease);

impl Deref for LeaseGuard<'_> {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        self.0
    }
}

impl DerefMut for LeaseGuard<'_> {
    fn deref_mut(&mut self) -> &mut Lease {
        self.0
    }
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        self.checkin();
    }
}
