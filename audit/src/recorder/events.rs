//! The events of sqlx, and which exchange they belong to.

use std::{
    fmt,
    sync::{Arc, Mutex, Once, PoisonError, Weak},
};

use tracing::{
    Event, Id, Subscriber,
    field::{Field, Visit},
    span::Attributes,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt as _},
    registry::LookupSpan,
};

use crate::recorder::exchange::{OpenExchange, StatementEvent};

/// The tracing layer that hears of statements, for a process that has a subscriber of its own.
///
/// Add it without `with_filter`: a filter can lose the events of sqlx. A filter of the whole
/// subscriber must let `sqlx::query=debug` pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Events;

tokio::task_local! {
    /// The exchange that the task is running.
    pub(super) static EXCHANGE: Arc<OpenExchange>;
}

impl<S> Layer<S> for Events
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    /// A span that the task of an exchange opens belongs to it, wherever it is entered.
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let (Ok(exchange), Some(span)) = (EXCHANGE.try_with(Arc::clone), context.span(id)) {
            span.extensions_mut().insert(exchange);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if event.metadata().target() != "sqlx::query" {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let exchange = EXCHANGE.try_with(Arc::clone).ok().or_else(|| {
            let mut spans = context.event_scope(event)?;
            spans.find_map(|span| span.extensions().get::<Arc<OpenExchange>>().cloned())
        });
        match exchange {
            Some(exchange) if fields.is_canary => exchange.hear_canary(),
            Some(exchange) => exchange.hear(fields.into_statement()),
            None if fields.is_canary => {}
            None => hear_elsewhere(fields),
        }
    }
}

/// The exchange of the task, or of the span that it is in.
pub(super) fn current_exchange() -> Option<Arc<OpenExchange>> {
    let of_task = EXCHANGE.try_with(Arc::clone).ok();
    of_task.or_else(|| {
        let of_span = tracing::Span::current().with_subscriber(|(id, subscriber)| {
            let registry = subscriber.downcast_ref::<Registry>()?;
            let mut spans = registry.span(id)?.scope();
            spans.find_map(|span| span.extensions().get::<Arc<OpenExchange>>().cloned())
        });
        of_span.flatten()
    })
}

/// Proves that events of sqlx's target arrive.
pub(super) fn send_canary() {
    tracing::debug!(target: "sqlx::query", interlock_canary = true);
}

/// Makes [`Events`] the global subscriber, unless there is one.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Events);
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
}

/// The recorders that are told of statements outside of any exchange.
static ELSEWHERE: Mutex<Vec<Weak<OpenExchange>>> = Mutex::new(Vec::new());

pub(super) fn listen_elsewhere(elsewhere: &Arc<OpenExchange>) {
    let mut all = ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|elsewhere| elsewhere.strong_count() > 0);
    all.push(Arc::downgrade(elsewhere));
}

fn hear_elsewhere(fields: Fields) {
    let event = fields.into_statement();
    let all = ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner);
    for elsewhere in all.iter().filter_map(Weak::upgrade) {
        elsewhere.hear(StatementEvent {
            text: event.text.clone(),
            ..event
        });
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    /// The first words of the text.
    summary: String,
    /// The text. Empty if the summary is all of it.
    statement: String,
    rows: u64,
    is_canary: bool,
}

impl Fields {
    fn into_statement(self) -> StatementEvent {
        let text = match self.statement.trim() {
            "" => self.summary.trim(),
            text => text,
        };
        StatementEvent {
            text: text.to_owned(),
            rows: self.rows,
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => value.clone_into(&mut self.summary),
            "db.statement" => value.clone_into(&mut self.statement),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if matches!(field.name(), "rows_affected" | "rows_returned") {
            self.rows = self.rows.max(value);
        }
    }

    fn record_bool(&mut self, field: &Field, _: bool) {
        self.is_canary |= field.name() == "interlock_canary";
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}
