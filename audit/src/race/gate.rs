//! The gate: where a statement is held.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::sql::{Effect, Sql};

/// Holds one statement of all connections of a wire.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<Mutex<Option<Armed>>>);

/// The next statement to hold.
#[derive(Debug)]
struct Armed {
    /// How many more statements pass.
    passes: usize,
    reached: oneshot::Sender<Held>,
}

/// A statement that is held until `release` is dropped.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) sql: String,
    pub(super) release: oneshot::Sender<()>,
}

/// The hold of a gate that is armed. Dropped, it lets everything pass.
pub(super) struct Hold {
    gate: Gate,
    reached: oneshot::Receiver<Held>,
}

impl Gate {
    /// Holds the statement with this number, counted from 1.
    pub(super) fn arm(&self, number: usize) -> Hold {
        let (sender, reached) = oneshot::channel();
        *self.lock() = Some(Armed {
            passes: number.saturating_sub(1),
            reached: sender,
        });
        Hold {
            gate: self.clone(),
            reached,
        }
    }

    /// Lets a statement pass, at once or when its hold is released.
    pub(super) async fn pass(&self, text: &str) {
        if let Some(released) = self.hold(text) {
            let _ = released.await;
        }
    }

    /// What to wait for, if the statement is to be held.
    fn hold(&self, text: &str) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        let armed = state.as_mut()?;
        let sql = Sql::read(text);
        if !is_a_point(&sql) {
            return None;
        }
        if let Some(passes) = armed.passes.checked_sub(1) {
            armed.passes = passes;
            return None;
        }
        let armed = state.take()?;
        let (release, released) = oneshot::channel();
        let held = Held {
            sql: sql.text,
            release,
        };
        armed.reached.send(held).is_ok().then_some(released)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Armed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// The statement, once it is held. It never returns if there is none.
    pub(super) async fn reached(mut self) -> Held {
        match (&mut self.reached).await {
            Ok(held) => held,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        *self.gate.lock() = None;
    }
}

/// Whether a revocation before the statement can matter. It cannot before settings of the session,
/// savepoints, and queries of no table.
fn is_a_point(sql: &Sql) -> bool {
    match sql.effect {
        Effect::Control => ["BEGIN", "START", "COMMIT", "END"]
            .iter()
            .any(|word| sql.text.to_ascii_uppercase().starts_with(word)),
        Effect::Read => !sql.reads.is_empty(),
        Effect::Unknown | Effect::Write => true,
    }
}
