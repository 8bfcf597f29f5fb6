//! The log of the crate while a future runs.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::{
    Instrument as _, Level, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Registry,
    layer::{Context, Layer, SubscriberExt as _},
    registry::LookupSpan,
};

type Fields = BTreeMap<&'static str, String>;

/// The spans and events of the crate while one future ran.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) spans: Vec<(&'static str, Fields)>,
    pub(crate) events: Vec<Event>,
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) level: Level,
    pub(crate) fields: Fields,
    /// The index of its span in [`Log::spans`].
    pub(crate) span: Option<usize>,
}

impl Log {
    /// The events above DEBUG.
    pub(crate) fn above_debug(&self) -> Vec<&Event> {
        let events = self.events.iter();
        events.filter(|event| event.level < Level::DEBUG).collect()
    }

    pub(crate) fn find(&self, message: &str) -> Vec<&Event> {
        let events = self.events.iter();
        events.filter(|event| event.message() == message).collect()
    }
}

impl Event {
    pub(crate) fn message(&self) -> &str {
        self.get("message").unwrap_or_default()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// Runs `future`, and returns its output and what the crate logged for it.
pub(crate) async fn traced<F: Future>(future: F) -> (F::Output, Log) {
    static INSTALLED: Once = Once::new();
    static KEYS: AtomicU64 = AtomicU64::new(0);
    INSTALLED.call_once(|| {
        tracing::subscriber::set_global_default(Registry::default().with(Capture)).unwrap();
    });
    let key = KEYS.fetch_add(1, Ordering::Relaxed);
    let output = future
        .instrument(tracing::info_span!(target: CASE, "case", key))
        .await;
    let log = LOGS.lock().unwrap().remove(&key);
    (output, log.unwrap_or_default())
}

/// The target of the span that identifies the future an event belongs to.
const CASE: &str = "case";

static LOGS: Mutex<BTreeMap<u64, Log>> = Mutex::new(BTreeMap::new());

/// All fields that the crate logged in this process.
pub(crate) fn logged_text() -> String {
    TEXT.lock().unwrap().clone()
}

static TEXT: Mutex<String> = Mutex::new(String::new());

struct Capture;

struct Key(u64);

/// The index of a span in its log.
struct Index(usize);

impl Capture {
    /// Adds to the log of the outermost span of `scope`.
    fn log<'a, S: LookupSpan<'a>>(
        scope: Option<tracing_subscriber::registry::Scope<'a, S>>,
        add: impl FnOnce(&mut Log),
    ) {
        let outermost = scope.and_then(|scope| scope.from_root().next());
        let key = outermost.and_then(|span| span.extensions().get().map(|Key(key)| *key));
        if let Some(key) = key {
            add(LOGS.lock().unwrap().entry(key).or_default());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("tower_interlock") || metadata.target() == CASE
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let fields = Visitor::read(|visitor| attributes.record(visitor));
        let span = ctx.span(id).unwrap();
        if span.metadata().target() == CASE {
            span.extensions_mut()
                .insert(Key(fields["key"].parse().unwrap()));
            return;
        }
        let mut index = 0;
        Self::log(ctx.span_scope(id), |log| {
            index = log.spans.len();
            log.spans.push((span.name(), fields));
        });
        span.extensions_mut().insert(Index(index));
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        let fields = Visitor::read(|visitor| values.record(visitor));
        let index = ctx
            .span(id)
            .and_then(|span| span.extensions().get().map(|Index(index)| *index));
        Self::log(ctx.span_scope(id), |log| {
            log.spans[index.unwrap()].1.extend(fields);
        });
    }

    fn on_event(&self, event: &tracing::Event<'_>, ctx: Context<'_, S>) {
        let fields = Visitor::read(|visitor| event.record(visitor));
        let span = ctx
            .event_span(event)
            .and_then(|span| span.extensions().get().map(|Index(index)| *index));
        Self::log(ctx.event_scope(event), |log| {
            log.events.push(Event {
                level: *event.metadata().level(),
                fields,
                span,
            });
        });
    }
}

struct Visitor(Fields);

impl Visitor {
    fn read(record: impl FnOnce(&mut dyn Visit)) -> Fields {
        let mut visitor = Self(Fields::new());
        record(&mut visitor);
        let fields = visitor.0.iter();
        let lines = fields.map(|(name, value)| format!("{name}={value}\n"));
        TEXT.lock().unwrap().extend(lines);
        visitor.0
    }
}

impl Visit for Visitor {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}
