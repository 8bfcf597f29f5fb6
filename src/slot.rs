//! The slot: what one attempt of a request knows of its transaction.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::Span;

use crate::{
    error::{Error, ErrorKind},
    interlock::Shared,
    report::Outcome,
    retry::{self, Meaning},
    transaction::{Link, Transaction},
};

/// A future that runs once the transaction is committed.
pub(crate) type Hook = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The place of one attempt's transaction, shared by its layers, its policies and its handler.
///
/// Verdicts and errors are kept here and not in the response, so that no middleware can lose them.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    attempt: u32,
    /// The request's, which the policies are recorded in.
    span: Span,
    state: Mutex<State>,
}

/// What [`Slot::close`] hands to the settlement.
#[derive(Default)]
pub(crate) struct State {
    /// The transaction, while no statement runs on it.
    pub(crate) transaction: Option<Transaction>,
    /// A connection that the attempt before this one left.
    pub(crate) spare: Option<Link>,
    /// Whether a transaction was ever asked for.
    pub(crate) opened: bool,
    /// What went wrong and was not healed, in order.
    pub(crate) faults: Vec<Fault>,
    /// A statement was dropped while the server was at it, or a panic went through a `Tx`.
    pub(crate) abandoned: bool,
    /// Something happened on the connection that this crate could not see.
    pub(crate) unseen: bool,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) policies: Vec<&'static str>,
    pub(crate) rollback_only: bool,
    pub(crate) commit_on_error: bool,
    pub(crate) hooks: Vec<(u32, Hook)>,
    read_only: bool,
    /// How many `Tx` there are.
    handles: usize,
    /// Whether one of them has the lease.
    leased: bool,
    /// Whether a statement runs.
    busy: bool,
    closed: bool,
}

/// What a layer has seen that no later success may cover. The worst one stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// A joined layer saw its handler answer 4xx or 5xx.
    Refused,
    /// A policy denied.
    Denied,
    /// A policy could not be checked.
    Failed,
}

/// An error that the transaction met.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) meaning: Meaning,
    pub(crate) error: Error,
    /// In which savepoint; 0 outside of any.
    depth: u32,
}

impl Slot {
    pub(crate) fn new(
        shared: Arc<Shared>,
        attempt: u32,
        read_only: bool,
        spare: Option<Link>,
    ) -> Arc<Self> {
        let state = Mutex::new(State {
            read_only,
            spare,
            ..State::default()
        });
        Arc::new(Self {
            shared,
            attempt,
            span: Span::current(),
            state,
        })
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether this is the slot of the `Interlock` with this `shared`.
    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// A joined layer's wish to write, or to only read.
    ///
    /// # Errors
    ///
    /// `Misconfigured` for a writer inside a read-only layer.
    pub(crate) fn join(&self, read_only: bool) -> Result<(), Error> {
        let mut state = self.lock();
        if state.read_only && !read_only {
            return Err(Error::because(
                ErrorKind::Misconfigured,
                "a layer that may write inside a layer that is read_only()",
            ));
        }
        state.read_only = read_only;
        Ok(())
    }

    /// A policy is about to be checked.
    pub(crate) fn policy(&self, name: &'static str) {
        let mut state = self.lock();
        state.policies.push(name);
        if !self.span.is_disabled() {
            self.span.record("policies", state.policies.join(", "));
        }
    }

    /// What makes the transaction unfit to be committed.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.lock().fault()
    }

    pub(crate) fn verdict(&self, verdict: Verdict) {
        let mut state = self.lock();
        state.verdict = state.verdict.max(Some(verdict));
    }

    pub(crate) fn rollback_only(&self) {
        self.lock().rollback_only = true;
    }

    pub(crate) fn commit_on_error(&self) {
        self.lock().commit_on_error = true;
    }

    pub(crate) fn after_commit(&self, depth: u32, hook: Hook) {
        self.lock().hooks.push((depth, hook));
    }

    pub(crate) fn savepoint_dropped(&self, depth: u32) {
        if let Some(transaction) = &mut self.lock().transaction {
            transaction.drop_savepoint(depth);
        }
    }

    pub(crate) fn handle_made(&self) {
        self.lock().handles += 1;
    }

    pub(crate) fn handle_dropped(&self, leased: bool) {
        let mut state = self.lock();
        state.handles = state.handles.saturating_sub(1);
        state.leased &= !leased;
        // A panic that somebody catches must not end in a commit of half the work.
        state.abandoned |= std::thread::panicking();
    }

    /// Takes the transaction for one statement, and begins it if there is none yet.
    pub(crate) async fn hold(self: &Arc<Self>, leased: &mut bool) -> Result<Held, sqlx::Error> {
        let mut held = self.take(leased).map_err(Error::into_sqlx)?;
        held.progress = Progress::Waiting;
        let opened = held.open().await;
        held.done(opened)?;
        Ok(held)
    }

    /// Ends the attempt: from here on every `Tx` of it is refused, and what it was doing is rolled back.
    pub(crate) fn close(&self) -> State {
        let mut state = self.lock();
        let closed = std::mem::take(&mut *state);
        state.closed = true;
        closed
    }

    fn take(self: &Arc<Self>, leased: &mut bool) -> Result<Held, Error> {
        let mut state = self.lock();
        if state.closed {
            let cause = "a statement on the Tx of a request that is over";
            return Err(Error::because(ErrorKind::Escaped, cause));
        }
        if state.abandoned {
            let cause = "a statement after one that was abandoned, or after a panic";
            return Err(Error::because(ErrorKind::Aborted, cause));
        }
        if state.leased && !*leased {
            let cause = "a statement on one Tx while another one of the request is in use";
            let error = Error::because(ErrorKind::AlreadyLeased, cause);
            state.faults.push(Fault {
                meaning: Meaning::Failed,
                error: error.clone(),
                depth: 0,
            });
            return Err(error);
        }
        state.leased = true;
        state.opened = true;
        state.busy = true;
        *leased = true;
        let transaction = state.transaction.take();
        Ok(Held {
            slot: Arc::clone(self),
            transaction,
            progress: Progress::Done,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a `Tx`, or a statement of one, is still around.
    pub(crate) fn escaped(&self) -> bool {
        self.handles > 0 || self.busy
    }

    /// What makes the transaction unfit to be committed.
    pub(crate) fn fault(&self) -> Option<Error> {
        if let Some(fault) = self.faults.first() {
            return Some(fault.error.clone());
        }
        let cause = "a statement was abandoned, or a panic went through a Tx";
        self.abandoned
            .then(|| Error::because(ErrorKind::Aborted, cause))
    }

    /// Notes the error of something that the settlement itself has sent.
    pub(crate) fn note(&mut self, error: &sqlx::Error) {
        let meaning = retry::meaning(error).unwrap_or(Meaning::Failed);
        self.faults.push(Fault {
            meaning,
            error: Error::noted(error),
            depth: 0,
        });
    }

    /// What became of a transaction that is not committed.
    pub(crate) fn outcome(&self) -> Outcome {
        if self.opened {
            Outcome::RolledBack
        } else {
            Outcome::NoTransaction
        }
    }
}

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

    async fn open(&mut self) -> Result<(), sqlx::Error> {
        let (spare, read_only) = {
            let mut state = self.slot.lock();
            (state.spare.take(), state.read_only)
        };
        if let Some(transaction) = &mut self.transaction {
            transaction.narrow(read_only).await?;
        } else {
            let begun = Transaction::begin(&self.slot.shared, spare, read_only).await;
            self.transaction = Some(begun.map_err(Error::into_sqlx)?);
        }
        if let Some(depth) = self
            .transaction
            .as_ref()
            .and_then(Transaction::dropped_savepoint)
        {
            self.roll_back_to(depth).await?;
        }
        Ok(())
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
