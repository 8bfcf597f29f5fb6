//! The slot: the place of one attempt's transaction.

use std::{
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sqlx::SqlStr;
use tokio::sync::watch::Sender;

use crate::{
    database::{Access, Database, Depth, Transaction},
    error::{Error, ErrorKind, Known},
    observe::{Observation, Phase},
    report::Outcome,
    tx::state::{Hook, SlotState, Stage, Verdict},
};

/// The place of one attempt's transaction, shared by its layers, policies and handler.
///
/// Verdicts and errors are kept here and not in the response, so that no middleware can lose them.
pub(crate) struct Slot {
    context: WorkContext,
    attempt: u32,
    /// The scope around the attempt.
    outer: Option<Scope>,
    /// Whether the texts of statements are kept.
    keeps_texts: AtomicBool,
    state: Mutex<SlotState>,
}

/// The part that all attempts at one work share.
#[derive(Clone)]
pub(crate) struct WorkContext {
    pub(crate) database: Arc<Database>,
    pub(crate) observation: Option<Observation>,
    /// Who the work is recorded for.
    pub(crate) principal: Option<Arc<str>>,
    /// What enqueues jobs, if the interlock has a queue.
    pub(crate) jobs: Option<JobContext>,
}

/// The part of a work that concerns jobs.
#[derive(Clone)]
pub(crate) struct JobContext {
    /// Wakes up the workers of this process.
    pub(crate) enqueued: Sender<()>,
    /// The id of the job that the work is a run of.
    pub(crate) running: Option<u128>,
}

/// The work that a task is running.
#[derive(Clone)]
pub(crate) enum Scope {
    /// An attempt.
    Attempt(Arc<Slot>),
    /// A hook of work on this database.
    Hook(Arc<Database>),
}

impl Slot {
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.context.database
    }

    pub(crate) fn observation(&self) -> Option<&Observation> {
        self.context.observation.as_ref()
    }

    pub(crate) fn principal(&self) -> Option<&Arc<str>> {
        self.context.principal.as_ref()
    }

    pub(crate) fn jobs(&self) -> Option<&JobContext> {
        self.context.jobs.as_ref()
    }

    pub(crate) fn outer(&self) -> Option<&Scope> {
        self.outer.as_ref()
    }

    /// Whether the attempt is over.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().stage == Stage::Closed
    }

    /// Whether its transaction is open.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().stage == Stage::Opened
    }

    pub(crate) fn is_of(&self, database: &Arc<Database>) -> bool {
        Arc::ptr_eq(self.database(), database)
    }

    /// Narrows the transaction to the access of an inner layer (T3).
    ///
    /// # Errors
    ///
    /// Returns `Misconfigured` for a layer that may write inside a read-only one.
    pub(crate) fn join(&self, access: Access) -> Result<(), Error> {
        let mut state = self.lock();
        if state.access == Access::ReadOnly && access != Access::ReadOnly {
            return Err(Error::because(
                ErrorKind::Misconfigured,
                "a layer that may write inside a layer that is read_only()",
            ));
        }
        state.access = access;
        Ok(())
    }

    /// Records that a policy is about to be checked.
    pub(crate) fn begin_policy(&self, name: &'static str) {
        let mut state = self.lock();
        state.phase = Some(Phase::Policy);
        state.names.push(name);
    }

    /// Keeps the texts of statements from here on.
    pub(crate) fn keep_texts(&self) {
        self.keeps_texts.store(true, Relaxed);
    }

    pub(crate) fn keep_text(&self, sql: &SqlStr) {
        if self.keeps_texts.load(Relaxed) {
            self.lock().texts.push(sql.clone());
        }
    }

    /// Returns the texts that were kept, and keeps no more.
    pub(crate) fn take_texts(&self) -> Vec<SqlStr> {
        self.keeps_texts.store(false, Relaxed);
        std::mem::take(&mut self.lock().texts)
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.lock().phase = Some(phase);
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase.unwrap_or(Phase::Work)
    }

    /// The error that keeps the transaction from being committed.
    pub(crate) fn first_error(&self) -> Option<Error> {
        self.lock().first_error()
    }

    pub(crate) fn add_verdict(&self, verdict: Verdict) {
        let mut state = self.lock();
        state.verdict = state.verdict.max(Some(verdict));
    }

    pub(crate) fn set_rollback_only(&self) {
        self.lock().ending.rollback_only = true;
    }

    pub(crate) fn keep_client_errors(&self) {
        self.lock().ending.keep_client_errors = true;
    }

    pub(crate) fn after_commit(&self, depth: Depth, hook: Hook) {
        self.lock().push_hook(hook, depth);
    }

    pub(crate) fn note(&self, depth: Depth, name: &'static str, value: serde_json::Value) {
        self.lock().push_note(name, value, depth);
    }

    pub(crate) fn outcome_pending(&self) {
        self.lock().uncertain += 1;
    }

    pub(crate) fn outcome_known(&self) {
        let mut state = self.lock();
        state.uncertain = state.uncertain.saturating_sub(1);
    }

    pub(crate) fn add_waited(&self, waited: Duration) {
        self.lock().waited += waited;
    }

    pub(crate) fn drop_savepoint(&self, depth: Depth) {
        if let Some(transaction) = &mut self.lock().transaction {
            transaction.drop_savepoint(depth);
        }
    }

    pub(crate) fn lease_created(&self) {
        self.lock().leases.alive += 1;
    }

    pub(crate) fn lease_dropped(&self, granted: bool) {
        let mut state = self.lock();
        state.leases.alive = state.leases.alive.saturating_sub(1);
        state.leases.granted &= !granted;
        // A panic that is caught must not end in a COMMIT of half the work.
        state.abandoned |= std::thread::panicking();
    }

    /// Hands out the transaction, if it has begun, to the one lease that is granted at a time.
    pub(crate) fn checkout(&self, granted: &mut bool) -> Result<Option<Transaction>, Error> {
        let mut state = self.lock();
        if state.stage == Stage::Closed {
            let cause = "a statement on a Tx that was kept past its request: use Tx::after_commit, \
                 a job or Interlock::transact for what comes later";
            return Err(Error::because(ErrorKind::TxEscaped, cause));
        }
        if state.abandoned {
            let cause = "a statement after one that was abandoned, or after a panic";
            return Err(Error::because(ErrorKind::TransactionAborted, cause));
        }
        if state.leases.granted && !*granted {
            let cause = "a statement on one Tx while another one of the request is in use: pass \
                 `&mut tx` to functions, or drop the first Tx";
            let error = Error::because(ErrorKind::TxInUse, cause);
            state.record(error.clone(), Depth::default());
            return Err(error);
        }
        state.leases.granted = true;
        state.stage = Stage::Opened;
        *granted = true;
        Ok(state.transaction.take())
    }

    /// Takes the transaction back. If the attempt is over, the transaction is rolled back.
    pub(crate) fn checkin(&self, transaction: Option<Transaction>, abandoned: bool) {
        let mut state = self.lock();
        state.abandoned |= abandoned;
        if transaction.is_some() && state.stage != Stage::Closed {
            state.transaction = transaction;
        }
    }

    /// Whether the transaction is here and no `Tx` has the lease.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.stage == Stage::Opened && state.transaction.is_some() && !state.leases.granted
    }

    /// Ends the attempt. From here on every `Tx` of it is rejected, and what it does is rolled
    /// back.
    pub(crate) fn close(&self) -> SlotState {
        let mut state = self.lock();
        let taken = std::mem::take(&mut *state);
        state.stage = Stage::Closed;
        taken
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The work's own hold on its slot. Dropped with the work, also by a panic, it closes the slot,
/// even if a `Tx` of it is still alive.
pub(crate) struct SlotGuard(Arc<Slot>);

impl SlotGuard {
    /// `transaction` has begun already, in place of the previous attempt's.
    pub(crate) fn new(
        context: WorkContext,
        attempt: u32,
        access: Access,
        transaction: Option<Transaction>,
        known: Known,
        outer: Option<Scope>,
    ) -> Self {
        let state = Mutex::new(SlotState {
            transaction,
            access,
            known,
            ..SlotState::default()
        });
        Self(Arc::new(Slot {
            context,
            attempt,
            outer,
            keeps_texts: AtomicBool::new(false),
            state,
        }))
    }
}

impl Deref for SlotGuard {
    type Target = Arc<Slot>;

    fn deref(&self) -> &Arc<Slot> {
        &self.0
    }
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        let state = self.close();
        if state.outcome() == Outcome::NoTransaction {
            // Settled before, or nothing to roll back.
        } else if std::thread::panicking() {
            tracing::error!(names = ?state.names, "panic, rolling back");
        } else {
            tracing::debug!("request dropped, rolling back");
        }
    }
}
