//! The slot: what one attempt of a request knows of its transaction.

use std::{
    ops::Deref,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tracing::Span;

use crate::{
    error::{Error, ErrorKind},
    interlock::Shared,
    lease::Lease,
    report::Outcome,
    retry::{self, Meaning},
    transaction::Transaction,
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
    /// Whether a statement was ever asked for.
    pub(crate) opened: bool,
    /// What went wrong and was not healed, in order.
    pub(crate) faults: Vec<Fault>,
    /// A statement was dropped while the server was at it, or a panic went through a `Tx`.
    pub(crate) abandoned: bool,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) policies: Vec<&'static str>,
    pub(crate) rollback_only: bool,
    pub(crate) commit_on_error: bool,
    pub(crate) hooks: Vec<(u32, Hook)>,
    pub(crate) read_only: bool,
    /// How many `Tx` there are.
    leases: usize,
    /// Whether one of them may run statements.
    granted: bool,
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
    pub(crate) depth: u32,
}

impl Slot {
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether its request is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
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

    pub(crate) fn lease_made(&self) {
        self.lock().leases += 1;
    }

    pub(crate) fn lease_dropped(&self, granted: bool) {
        let mut state = self.lock();
        state.leases = state.leases.saturating_sub(1);
        state.granted &= !granted;
        // A panic that somebody catches must not end in a commit of half the work.
        state.abandoned |= std::thread::panicking();
    }

    /// Hands out the transaction, if it was begun, to the one lease that is granted at a time.
    pub(crate) fn lend(&self, granted: &mut bool) -> Result<Option<Transaction>, Error> {
        let mut state = self.lock();
        if state.closed {
            let cause = "a statement on the Tx of a request that is over";
            return Err(Error::because(ErrorKind::Escaped, cause));
        }
        if state.abandoned {
            let cause = "a statement after one that was abandoned, or after a panic";
            return Err(Error::because(ErrorKind::Aborted, cause));
        }
        if state.granted && !*granted {
            let cause = "a statement on one Tx while another one of the request is in use";
            let error = Error::because(ErrorKind::AlreadyLeased, cause);
            state.faults.push(Fault {
                meaning: Meaning::Failed,
                error: error.clone(),
                depth: 0,
            });
            return Err(error);
        }
        state.granted = true;
        state.opened = true;
        *granted = true;
        Ok(state.transaction.take())
    }

    /// Takes the transaction back. If the request is over, it is rolled back.
    pub(crate) fn give_back(&self, transaction: Option<Transaction>, abandoned: bool) {
        let mut state = self.lock();
        state.abandoned |= abandoned;
        if transaction.is_some() && !state.closed {
            state.transaction = transaction;
        }
    }

    /// Makes sure of the transaction, if it lies here: notes what went wrong with it unseen.
    pub(crate) async fn prove(self: &Arc<Self>) {
        let idle = {
            let state = self.lock();
            state.opened && state.transaction.is_some() && !state.granted
        };
        if idle {
            drop(Lease::new(Arc::clone(self)).take().await);
        }
    }

    /// Ends the attempt: from here on every `Tx` of it is refused, and what it was doing is rolled back.
    pub(crate) fn close(&self) -> State {
        let mut state = self.lock();
        let closed = std::mem::take(&mut *state);
        state.closed = true;
        closed
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request's own hold on the slot. Dropped with the request, also by a panic, it closes the
/// slot, whoever else still has a `Tx` of it.
pub(crate) struct Owner(Arc<Slot>);

impl Owner {
    /// `transaction` is begun already, in place of the attempt before.
    pub(crate) fn new(
        shared: Arc<Shared>,
        attempt: u32,
        read_only: bool,
        transaction: Option<Transaction>,
    ) -> Self {
        let state = Mutex::new(State {
            transaction,
            read_only,
            ..State::default()
        });
        Self(Arc::new(Slot {
            shared,
            attempt,
            span: Span::current(),
            state,
        }))
    }
}

impl Deref for Owner {
    type Target = Arc<Slot>;

    fn deref(&self) -> &Arc<Slot> {
        &self.0
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.close().outcome() == Outcome::NoTransaction {
            // Settled before, or nothing to roll back.
        } else if std::thread::panicking() {
            tracing::error!("panic, rolling back");
        } else {
            tracing::debug!("request dropped, rolling back");
        }
    }
}

impl State {
    /// Whether a `Tx` is still around.
    pub(crate) fn escaped(&self) -> bool {
        self.leases > 0
    }

    /// What was done since the savepoint now belongs to what is around it.
    pub(crate) fn released(&mut self, depth: u32) {
        let outside = depth - 1;
        for (at, _) in &mut self.hooks {
            *at = outside.min(*at);
        }
        for fault in &mut self.faults {
            fault.depth = outside.min(fault.depth);
        }
    }

    /// What was done since the savepoint is undone, and what went wrong since is healed.
    /// Returns the hooks that are forgotten: to be dropped outside of the lock, for they may hold a `Tx`.
    #[must_use]
    pub(crate) fn rolled_back(&mut self, depth: u32) -> Vec<(u32, Hook)> {
        let forgotten = self.hooks.extract_if(.., |(at, _)| *at >= depth).collect();
        self.faults
            .retain(|fault| fault.depth < depth || fault.meaning.is_final());
        forgotten
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
    pub(crate) fn note(&mut self, error: &sqlx::Error, depth: u32) {
        let meaning = retry::meaning(error).unwrap_or(Meaning::Failed);
        self.faults.push(Fault {
            meaning,
            error: Error::noted(error),
            depth,
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
