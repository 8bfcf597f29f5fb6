//! The store of a recorder: its exchanges, and which work belongs to which.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::body::Body;
use http::Request;
use tower_interlock::observe::WorkId;

use crate::{
    recorder::{events::current_exchange, exchange::OpenExchange},
    sql::Sql,
};

/// What a recorder and its layers share.
pub(super) struct Store {
    state: Mutex<State>,
    pub(super) elsewhere: Arc<OpenExchange>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) exchanges: Vec<Arc<OpenExchange>>,
    /// The exchange of each work that the observer was told of.
    works: HashMap<WorkId, Arc<OpenExchange>>,
    /// The texts that were read before.
    pub(super) texts: HashMap<Arc<str>, Sql>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            elsewhere: Arc::new(OpenExchange::elsewhere()),
        }
    }

    pub(super) fn begin(&self, request: &Request<Body>) -> Arc<OpenExchange> {
        let exchange = Arc::new(OpenExchange::of(request));
        self.lock().exchanges.push(Arc::clone(&exchange));
        exchange
    }

    /// The exchange that a work belongs to. The first event decides: later ones may come from the
    /// background.
    pub(super) fn exchange_of(&self, work: WorkId) -> Arc<OpenExchange> {
        let mut state = self.lock();
        let exchange = state
            .works
            .entry(work)
            .or_insert_with(|| current_exchange().unwrap_or_else(|| Arc::clone(&self.elsewhere)));
        Arc::clone(exchange)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("exchanges", &self.lock().exchanges.len())
            .finish_non_exhaustive()
    }
}
