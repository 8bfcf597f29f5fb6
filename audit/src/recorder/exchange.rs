//! An exchange that is being recorded.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{body::Body, extract::MatchedPath};
use http::Request;
use tower_interlock::{
    observe::{ConnectionTaken, StatementExecuted, WorkFinished, WorkId},
    probe::{current_attempt, is_own_statement},
};

use crate::{
    sql::Sql,
    trace::{Exchange, Kind, Place, Statement, Step, WorkDone},
};

/// An exchange that is being recorded.
pub(super) struct OpenExchange {
    id: u64,
    method: String,
    route: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    status: Option<u16>,
    works: Vec<(WorkId, WorkDone)>,
    statements: Vec<Heard>,
    /// The raw connection that a part of a work has.
    taken: Option<(Place, Option<Step>)>,
    hears_events: bool,
    /// The text of a statement that the interlock has reported, and that came as no event.
    unheard: Option<Arc<str>>,
}

/// A statement that was heard of. Its text may have values, and is not kept in the trace.
struct Heard {
    text: Arc<str>,
    place: Place,
    step: Option<Step>,
    rows: u64,
    source: Source,
}

/// Who has told of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// sqlx only, so far.
    Event,
    Interlock,
}

/// The event of a statement.
pub(super) struct StatementEvent {
    pub(super) text: String,
    pub(super) rows: u64,
}

impl OpenExchange {
    pub(super) fn of(request: &Request<Body>) -> Self {
        let route = request.extensions().get::<MatchedPath>();
        Self::new(
            request.method().to_string(),
            route.map(|route| route.as_str().to_owned()),
        )
    }

    /// For statements outside of any request.
    pub(super) fn elsewhere() -> Self {
        Self::new(String::new(), None)
    }

    fn new(method: String, route: Option<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            method,
            route,
            state: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn responded(&self, status: u16) {
        self.lock().status = Some(status);
    }

    /// The recorder's own event has arrived.
    pub(super) fn hear_canary(&self) {
        self.lock().hears_events = true;
    }

    /// An event of sqlx. Until the interlock reports the statement, it is outside, or on a raw
    /// connection that this part of the work has.
    pub(super) fn hear(&self, event: StatementEvent) {
        let step = current_attempt().map(|(phase, _)| phase.into());
        let mut state = self.lock();
        let taken = state.taken.filter(|(_, taken_by)| *taken_by == step);
        state.statements.push(Heard {
            text: event.text.into(),
            place: taken.map_or(Place::Outside, |(place, _)| place),
            step,
            rows: event.rows,
            source: Source::Event,
        });
    }

    /// A report of the interlock. The event of the statement came right before it, in the same
    /// task: it is the last one with that text.
    pub(super) fn observe(&self, reported: &StatementExecuted<'_>) {
        let mut state = self.lock();
        let place = state.place(reported.work, reported.attempt);
        let step = Some(reported.phase.into());
        let text = reported.sql.trim();
        state.taken = None;
        let mut last_first = state.statements.iter_mut().rev();
        let heard = last_first.find(|heard| heard.source == Source::Event && *heard.text == *text);
        if let Some(heard) = heard {
            heard.place = place;
            heard.step = step;
            heard.source = Source::Interlock;
            if !reported.ok {
                heard.rows = 0;
            }
            return;
        }
        // A statement whose values could not be encoded was not sent.
        if !reported.ok {
            return;
        }
        let text: Arc<str> = text.into();
        state.unheard = Some(Arc::clone(&text));
        state.statements.push(Heard {
            text,
            place,
            step,
            rows: 1,
            source: Source::Interlock,
        });
    }

    /// A report of the interlock. The statements that follow may be on that connection.
    pub(super) fn take_connection(&self, taken: &ConnectionTaken) {
        let mut state = self.lock();
        let place = state.place(taken.work, taken.attempt);
        let step = Some(taken.phase.into());
        state.taken = Some((place, step));
        state.statements.push(Heard {
            text: CONNECTION.into(),
            place,
            step,
            rows: 0,
            source: Source::Interlock,
        });
    }

    pub(super) fn finish_work(&self, finished: &WorkFinished<'_>) {
        let mut state = self.lock();
        state.taken = None;
        let index = state.work(finished.work);
        if let Some((_, work)) = state.works.get_mut(index) {
            let kind = finished.kind.into();
            *work = WorkDone {
                kind,
                names: finished
                    .names
                    .iter()
                    .map(|name| named(kind, name))
                    .collect(),
                attempts: finished.attempts,
                outcome: Some(finished.outcome.into()),
            };
        }
    }

    /// The exchange so far. `texts` are those that were read before.
    pub(super) fn snapshot(&self, texts: &mut HashMap<Arc<str>, Sql>) -> Exchange {
        let state = self.lock();
        let of_service = state.statements.iter().filter(|heard| !heard.is_own());
        let statements = of_service.map(|heard| {
            let read = texts.entry(Arc::clone(&heard.text));
            let sql = read.or_insert_with(|| Sql::read(&heard.text));
            Statement {
                sql: sql.text.clone(),
                effect: sql.effect,
                reads: sql.reads.clone(),
                writes: sql.writes.clone(),
                calls: sql.calls.clone(),
                place: heard.place,
                step: heard.step,
                rows: heard.rows,
            }
        });
        Exchange {
            id: self.id,
            method: self.method.clone(),
            route: self.route.clone(),
            status: state.status,
            works: state.works.iter().map(|(_, work)| work.clone()).collect(),
            statements: statements.collect(),
            blind: state.blindness(),
        }
    }

    /// Why statements may be missing outside of requests.
    pub(super) fn missing(&self) -> Option<String> {
        self.lock().missing()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    /// Whether the interlock has run it by itself, on its receipts or jobs. It does not report those.
    fn is_own(&self) -> bool {
        self.source == Source::Event && is_own_statement(&self.text)
    }
}

impl State {
    fn place(&mut self, work: WorkId, attempt: u32) -> Place {
        let work = self.work(work);
        Place::Transaction { work, attempt }
    }

    /// The index of a work.
    fn work(&mut self, id: WorkId) -> usize {
        let known = self.works.iter().position(|(work, _)| *work == id);
        known.unwrap_or_else(|| {
            let unfinished = WorkDone {
                kind: Kind::Unfinished,
                names: Vec::new(),
                attempts: 0,
                outcome: None,
            };
            self.works.push((id, unfinished));
            self.works.len() - 1
        })
    }

    /// Why statements of a request may be missing, or in the wrong place.
    fn blindness(&self) -> Option<String> {
        if !self.hears_events {
            let reason = "no event of the target sqlx::query arrives: add Events to the tracing \
                          subscriber, without a filter";
            return Some(reason.to_owned());
        }
        let has_work = self.statements.iter().any(|heard| heard.step.is_some());
        if has_work && self.status.is_some() && self.works.is_empty() {
            let reason = "an interlock has run the request, and the recorder is not its observer: \
                          add `.observe(recorder.clone())` to its builder";
            return Some(reason.to_owned());
        }
        self.missing()
    }

    /// Why statements may be missing, by the reports of the interlock.
    fn missing(&self) -> Option<String> {
        let unheard = self.unheard.as_ref()?;
        let text = Sql::read(unheard).text;
        Some(format!(
            "a statement of the transaction came as no event: its pool does not log statements, or \
             not at the level DEBUG: {text}"
        ))
    }
}

/// What stands for the raw connection among the statements. It reads as a call of a function of the
/// service.
const CONNECTION: &str = "SELECT \"Tx::connection\"()";

/// A name of a work. That of a conditional write is its statement, which may have values.
fn named(kind: Kind, name: &str) -> String {
    match kind {
        Kind::ConditionalWrite => Sql::read(name).text,
        _ => name.to_owned(),
    }
}
