//! Metrics for Prometheus by an observer, and traces for OpenTelemetry by the spans of `tracing`.
//!
//! The observer is told of each attempt and of the end of each work. The labels come from fixed
//! sets: names of policies, outcomes, kinds of errors, SQLSTATEs. The spans are exported into
//! memory and printed; a service has an exporter for OTLP in that place.
//!
//! Run it with `cargo run -p with-telemetry` in `ecosystem/`.

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::{get, put},
};
use metrics::{counter, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tour::{Revocation, Tour};
use tower_http::trace::TraceLayer;
use tower_interlock::{
    Authorized, Denied, Error, Interlock, Tx,
    observe::{AttemptEnded, Observer, WorkFinished},
};
use tracing_subscriber::{filter::Targets, prelude::*};

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO grants VALUES ('ada', 7);
";

struct Metrics;

impl Observer for Metrics {
    fn attempt_ended(&self, attempt: &AttemptEnded<'_>) {
        for (part, duration) in
            [("wait", attempt.waited), ("run", attempt.ran), ("commit", attempt.committing)]
        {
            histogram!("interlock_attempt_seconds", "part" => part).record(duration);
        }
        if attempt.retried {
            let sqlstate = attempt.sqlstate.unwrap_or("none").to_owned();
            counter!("interlock_retries_total", "sqlstate" => sqlstate).increment(1);
        }
    }

    fn work_finished(&self, work: &WorkFinished<'_>) {
        let labels = [
            ("work", format!("{:?}", work.kind)),
            ("name", work.names.first().copied().unwrap_or("none").to_owned()),
            ("outcome", format!("{:?}", work.outcome)),
            ("error", work.error.map_or("none", |kind| kind.code()).to_owned()),
        ];
        histogram!("interlock_work_seconds", &labels).record(work.duration);
        histogram!("interlock_work_attempts", &labels).record(work.attempts);
    }
}

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

#[tracing::instrument(skip_all)]
async fn can_edit(
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";
    let allowed: bool =
        sqlx::query_scalar(rule).bind(user).bind(document).fetch_one(&mut tx).await?;
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

#[tracing::instrument(skip_all)]
async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<StatusCode, Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(can.document)
        .bind(body)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn app(interlock: &Interlock, prometheus: PrometheusHandle) -> Router {
    let can_edit = interlock.require(can_edit).named("documents.edit");
    let scrapers = interlock.public("for Prometheus, on a port of its own");
    let metrics = get(async move || prometheus.render()).route_layer(scrapers);
    Router::new()
        .route("/documents/{id}", put(update).route_layer(can_edit))
        // The span of the interlock is a child of this one.
        .layer(TraceLayer::new_for_http())
        .route("/metrics", metrics)
}

const SECONDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const ATTEMPTS: [f64; 5] = [1.0, 2.0, 3.0, 5.0, 10.0];

#[tokio::main]
async fn main() -> tour::Result {
    let spans = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("documents"));
    // The statements of sqlx become events of the spans.
    let targets: Targets = "info,sqlx=debug,tower_http=debug,tower_interlock=debug".parse()?;
    tracing_subscriber::registry().with(traces).with(targets).init();
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_attempts".to_owned()), &ATTEMPTS)?
        .install_recorder()?;

    let tour = Tour::start("telemetry", SCHEMA, &["grants"]).await?;
    let interlock = Interlock::connect_with(tour.options(), 4).observe(Metrics).build();
    let app = app(&interlock, prometheus);

    let by = |user| {
        let request = Request::put("/documents/7").extension(User(user));
        request.body(Body::from("second draft"))
    };
    // The first transaction also inspects the server.
    tour::send(&app, "mallory, without a grant", by("mallory"), StatusCode::FORBIDDEN).await?;
    spans.reset();
    tour::send(&app, "ada, with a grant", by("ada"), StatusCode::NO_CONTENT).await?;
    let trace = spans.get_finished_spans()?;
    print_tree(&trace, opentelemetry::SpanId::INVALID, 4);
    for name in ["request", "authorize", "can_edit", "update"] {
        assert!(trace.iter().any(|span| span.name == name), "no span {name}");
    }

    // It makes serialization failures.
    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM grants",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, move || by("ada"), revocation).await?;

    let scrape = Request::get("/metrics").body(Body::empty());
    let metrics = tour::send(&app, "the metrics", scrape, StatusCode::OK).await?;
    for sample in metrics.body().lines() {
        if !sample.contains("_bucket") && !sample.starts_with('#') {
            println!("    {sample}");
        }
    }
    for sample in [
        r#"interlock_retries_total{sqlstate="40001"}"#,
        r#"interlock_work_seconds_count{work="Request",name="documents.edit",outcome="Committed""#,
    ] {
        assert!(metrics.body().contains(sample), "no {sample}");
    }

    interlock.drain().await;
    provider.shutdown()?;
    tour.end().await
}

fn print_tree(spans: &[SpanData], parent: opentelemetry::SpanId, indent: usize) {
    let mut children: Vec<_> = spans.iter().filter(|span| span.parent_span_id == parent).collect();
    children.sort_by_key(|span| span.start_time);
    for span in children {
        let shown = |key: &str| ["policies", "attempt", "method", "uri"].contains(&key);
        let attributes = span.attributes.iter().filter(|it| shown(it.key.as_str()));
        let attributes: Vec<_> = attributes.map(|it| format!("{}={}", it.key, it.value)).collect();
        println!("{:indent$}{} {}", "", span.name, attributes.join(" "));
        for event in span.events.iter() {
            // An event of sqlx has no name, and a summary of its statement.
            let summary = event.attributes.iter().find(|it| it.key.as_str() == "summary");
            let name = summary.map_or(event.name.clone(), |it| it.value.as_str());
            println!("{:indent$}  - {name}", "");
        }
        print_tree(spans, span.span_context.span_id(), indent + 4);
    }
}
