//! The lines that an operator reads: each error once, with its policies and its attempt.

use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{Router, routing::put as put_route};
use tower_interlock::{Authorized, Error, ErrorKind, Tx};
use tracing::{Level, instrument::WithSubscriber as _};

use crate::kit::{
    CanEdit, Kit, TestResponse, anyone, conflict_once, get, guarded, note, put, test, traced,
};

/// The response is a 500, and one error in the log says why.
async fn assert_logged(app: &Router) {
    let (response, log) = traced(put(app, "/1", "")).await;
    response.assert_problem(ErrorKind::Misconfigured);
    let errors = log.events.iter();
    let errors: Vec<_> = errors.filter(|event| event.level == Level::ERROR).collect();
    let [error] = *errors else {
        panic!("{} errors in the log: {log:?}", errors.len());
    };
    assert_eq!(error.fields["kind"], "Misconfigured", "{error:?}");
}

#[test]
fn tx_without_its_layer_logs_one_error() {
    test(async |_| {
        let handler = async |_: Tx| ();
        assert_logged(&Router::new().route("/{id}", put_route(handler))).await;
    });
}

#[test]
fn authorized_without_its_layer_logs_one_error() {
    test(async |_| {
        let handler = async |_: Authorized<CanEdit>| ();
        assert_logged(&Router::new().route("/{id}", put_route(handler))).await;
    });
}

#[test]
fn authorized_behind_another_policy_logs_one_error() {
    test(async |kit| {
        let handler = async |_: Authorized<CanEdit>| ();
        assert_logged(&guarded(kit.interlock.require(anyone), handler)).await;
    });
}

/// Runs `future`, and returns its output and its lines, in the format that most programs use.
async fn formatted<F: Future>(level: Level, future: F) -> (F::Output, Vec<String>) {
    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let output = Output::default();
    let shared = output.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(level)
        .with_writer(move || shared.clone())
        .finish();
    let response = future.with_subscriber(subscriber).await;
    let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().filter(|line| line.contains("tower_interlock"));
    (response, lines.map(str::to_owned).collect())
}

async fn may_enter() -> Result<(), Error> {
    Ok(())
}

/// A request with two layers and two attempts, of which the second one swallows an error.
async fn rejected(kit: &Kit, level: Level) -> (TestResponse, Vec<String>) {
    let outside = kit.outside.clone();
    let handler = async move |mut tx: Tx| {
        conflict_once(&mut tx, &outside).await?;
        note(&mut tx, 1).await?;
        let _ = sqlx::query("SELECT missing").execute(&mut tx).await;
        Ok::<_, Error>(())
    };
    let app = Router::new()
        .route("/{id}", put_route(handler))
        .route_layer(kit.interlock.require(may_enter))
        .route_layer(kit.interlock.require(anyone));
    let (response, lines) = formatted(level, put(&app, "/1", "")).await;
    response.assert_problem(ErrorKind::TransactionAborted);
    assert_eq!(response.report().attempts(), 2);
    assert!(!lines.is_empty());
    (response, lines)
}

/// The fields of the request's span, as a line has them.
fn span(line: &str) -> Option<&str> {
    let (_, fields) = line.split_once("authorize{")?;
    fields.split_once('}').map(|(fields, _)| fields)
}

#[test]
fn policies_stand_in_a_line_of_the_log_once() {
    test(async |kit| {
        let (_, lines) = rejected(&kit, Level::DEBUG).await;
        let last = lines.last().and_then(|line| span(line)).unwrap();
        assert!(
            last.contains("anyone") && last.contains("may_enter"),
            "{last}"
        );
        for line in &lines {
            let fields = span(line).unwrap_or_default();
            assert!(fields.matches("policies=").count() <= 1, "{line}");
        }
    });
}

#[test]
fn attempt_stands_in_a_line_of_the_log_once() {
    test(async |kit| {
        let mut second = 0;
        // A line may be missing while another test makes its subscriber.
        for _ in 0..5 {
            let (_, lines) = rejected(&kit, Level::DEBUG).await;
            for line in &lines {
                let fields = span(line).unwrap_or_default();
                assert!(fields.matches("attempt=").count() <= 1, "{line}");
                second += usize::from(fields.contains("attempt=2"));
            }
        }
        assert!(second > 0, "no line has attempt=2");
    });
}

/// The span is enabled for errors, so that an error names its policies.
#[test]
fn error_keeps_its_span_where_only_errors_are_logged() {
    test(async |kit| {
        let (_, lines) = rejected(&kit, Level::ERROR).await;
        for line in &lines {
            let fields = span(line).unwrap_or_else(|| panic!("no span: {line}"));
            assert!(
                fields.contains("anyone") && fields.contains("may_enter"),
                "{line}"
            );
        }
    });
}

#[test]
fn warning_keeps_its_span_where_only_warnings_are_logged() {
    test(async |kit| {
        let outside = kit.outside.clone();
        let handler =
            async move |mut tx: Tx| Ok::<_, Error>(conflict_once(&mut tx, &outside).await?);
        let interlock = kit.builder().max_attempts(1).build();
        let app = guarded(interlock.require(anyone), handler);
        let (response, lines) = formatted(Level::WARN, get(&app, "/1")).await;
        response.assert_problem(ErrorKind::RetriesExhausted);
        let [line] = &*lines else { panic!("{lines:?}") };
        assert!(
            span(line).is_some_and(|fields| fields.contains("anyone")),
            "{line}"
        );
    });
}
