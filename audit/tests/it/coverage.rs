//! Coverage, of both services.

use axum::{
    Router,
    extract::{Path, Request},
    middleware::{Next, from_fn},
    response::Response,
    routing::{get, put},
};
use http::{HeaderValue, StatusCode, header};
use sqlx::PgPool;
use support::Database;
use tower_interlock::{Condition, ConditionalWrite, Error, Interlock};
use tower_interlock_audit::{
    Coverage, CoverageError, CoverageReport, Recorder,
    covered::{Guard, Problem},
};

use crate::{
    kit::{pool, put as put_request, test},
    service::{GOOD, bad, good},
};

/// A pool that connects to nothing.
fn nowhere() -> PgPool {
    let pool = Interlock::pool_options().acquire_timeout(std::time::Duration::from_millis(50));
    pool.connect_lazy("postgres://nobody@localhost:1/nowhere")
        .unwrap()
}

/// A lock file of its own for a test.
struct LockFile(std::path::PathBuf);

impl LockFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}.lock", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn problems(checked: Result<CoverageReport, CoverageError>) -> Vec<String> {
    match checked {
        Ok(_) => Vec::new(),
        Err(CoverageError::Problems(report)) => {
            report.problems.iter().map(ToString::to_string).collect()
        }
        Err(other) => panic!("{other}"),
    }
}

fn guards(report: &CoverageReport) -> Vec<String> {
    report
        .operations
        .iter()
        .map(|found| found.guard.to_string())
        .collect()
}

const GOOD_LOCK: &str = "
    PUT /conditional  conditional permitted(grants)
    GET /document     requires known, read-only
    PUT /document     requires documents.edit
    GET /health       public \"for the load balancer\"
";

#[tokio::test]
async fn good_service_has_no_problem() {
    let app = good(&Interlock::new(nowhere()));
    let report = Coverage::of(app.clone())
        .routes(GOOD)
        .check()
        .await
        .unwrap();
    let expected = [
        "conditional permitted(grants)",
        "requires known, read-only",
        "requires documents.edit",
        "public \"for the load balancer\"",
    ];
    assert_eq!(guards(&report), expected);

    let lock = LockFile::new("good", GOOD_LOCK);
    let locked = Coverage::of(app).routes(GOOD).lock(&lock.0).check().await;
    assert_eq!(problems(locked), [""; 0]);
}

#[tokio::test]
async fn each_fault_of_bad_service_is_found() {
    let pool = nowhere();
    let app = bad(&Interlock::new(pool.clone()), &pool);
    let uncovered = [
        ("POST", "/unchecked"),
        ("PUT", "/by-hand"),
        ("PUT", "/read-committed"),
        ("PUT", "/cache"),
        ("PUT", "/spawned"),
    ];
    let checked = Coverage::of(app.clone()).routes(uncovered).check().await;
    let Err(CoverageError::Problems(report)) = checked else {
        panic!("{checked:?}");
    };
    for (method, path) in uncovered {
        let is_it = |problem: &Problem| match problem {
            Problem::Uncovered(operation) => operation.to_string() == format!("{method} {path}"),
            _ => false,
        };
        assert!(
            report.problems.iter().any(is_it),
            "{method} {path}: {report}"
        );
    }
    // A handler that takes the proof of a policy cannot run without one.
    let closed = Coverage::of(app.clone())
        .routes([("PUT", "/no-layer")])
        .check()
        .await;
    assert_eq!(guards(&closed.unwrap()), ["fails closed"]);

    let missing = [("PUT", "/unchecked"), ("GET", "/nowhere")];
    let missing = problems(Coverage::of(app.clone()).routes(missing).check().await);
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing
            .iter()
            .all(|problem| problem.contains("no route takes it")),
        "{missing:?}"
    );

    let none: [(&str, &str); 0] = [];
    let none = problems(Coverage::of(app).routes(none).check().await);
    assert_eq!(none, ["no operation was declared or observed"]);
}

#[tokio::test]
async fn removed_layer_and_mark_are_looser_than_the_lock() {
    let interlock = Interlock::new(nowhere());
    let known = interlock
        .require(async || Ok::<_, Error>(()))
        .named("known");
    let app = Router::new()
        .route("/document", get(async || "").route_layer(known))
        .route("/document", put(async || ""))
        .route("/conditional", put(async || ""))
        .route("/health", get(async || ""));
    let lock = LockFile::new("looser", GOOD_LOCK);
    let locked = Coverage::of(app).routes(GOOD).lock(&lock.0).check().await;
    let problems = problems(locked);
    assert_eq!(problems.len(), 4, "{problems:#?}");
    assert!(
        problems.iter().all(|problem| problem.contains("looser")),
        "{problems:#?}"
    );
}

#[tokio::test]
async fn authentication_outside_of_the_layers_needs_a_sign_in() {
    async fn signed_in(request: Request, next: Next) -> Result<Response, StatusCode> {
        match request.headers().get(header::AUTHORIZATION) {
            Some(_) => Ok(next.run(request).await),
            None => Err(StatusCode::UNAUTHORIZED),
        }
    }
    let app = good(&Interlock::new(nowhere())).layer(from_fn(signed_in));
    let blocked = Coverage::of(app.clone())
        .routes(GOOD)
        .check()
        .await
        .unwrap_err();
    assert!(
        blocked
            .to_string()
            .contains("responded with 401 before a layer"),
        "{blocked}"
    );
    let signed = Coverage::of(app).routes(GOOD).sign_in(|mut request| {
        let token = HeaderValue::from_static("alice");
        request.headers_mut().insert(header::AUTHORIZATION, token);
        request
    });
    assert_eq!(guards(&signed.check().await.unwrap()).len(), 4);
}

#[tokio::test]
async fn conditional_write_that_authorizes_no_one_is_uncovered() {
    static BLIND: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE {conditions}",
        &[Condition::current("(SELECT id FROM documents) = 1")],
    );
    let interlock = Interlock::new(nowhere());
    let marked = put(async || "").route_layer(interlock.conditional(&BLIND));
    let app = Router::new().route("/", marked);
    let found = Coverage::of(app)
        .routes([("PUT", "/")])
        .check()
        .await
        .unwrap_err();
    assert!(
        found.to_string().contains("no condition `permitted`"),
        "{found}"
    );
}

#[tokio::test]
async fn policy_that_takes_the_path_says_so() {
    let interlock = Interlock::new(nowhere());
    let by_path = interlock.require(async |Path(_): Path<i64>| Ok::<_, Error>(()));
    let any = interlock.require(async || Ok::<_, Error>(()));
    let app = Router::new()
        .route("/a/{id}", get(async || "").route_layer(by_path.named("a")))
        .route("/b/{id}", get(async || "").route_layer(any.named("b")));
    let routes = [("GET", "/a/{id}"), ("GET", "/b/{id}")];
    let report = Coverage::of(app).routes(routes).check().await.unwrap();
    assert_eq!(guards(&report), ["requires a, by path", "requires b"]);
}

#[tokio::test]
async fn handler_that_panics_is_uncovered() {
    let app = Router::new().route("/{id}", get(async || panic!("reached") as ()));
    let found = Coverage::of(app)
        .routes([("GET", "/{id}")])
        .check()
        .await
        .unwrap_err();
    assert!(found.to_string().contains("panicked"), "{found}");
}

#[tokio::test]
async fn documents_of_utoipa_and_files_declare_operations() {
    #[utoipa::path(put, path = "/document", responses((status = 200)))]
    #[allow(dead_code, reason = "utoipa reads its attribute")]
    fn write() {}

    #[derive(utoipa::OpenApi)]
    #[openapi(paths(write))]
    struct Api;

    let document = <Api as utoipa::OpenApi>::openapi();
    let app = good(&Interlock::new(nowhere()));
    let declared = Coverage::of(app.clone()).document(&document).unwrap();
    assert_eq!(
        guards(&declared.check().await.unwrap()),
        ["requires documents.edit"]
    );

    let referring = "openapi: 3.1.0\npaths: {/document: {$ref: '#/x-item'}}\nx-item: {put: {}}\n";
    for text in [&document.to_json().unwrap(), referring] {
        let file = LockFile::new("openapi", text);
        let declared = Coverage::of(app.clone()).document_file(&file.0).unwrap();
        assert_eq!(
            guards(&declared.check().await.unwrap()),
            ["requires documents.edit"]
        );
    }
}

async fn recorded(
    database: &Database,
    app: impl Fn(&Interlock, &PgPool) -> Router,
) -> (Router, Recorder) {
    let recorder = Recorder::new();
    let pool = pool(database);
    let interlock = Interlock::builder(pool.clone())
        .observe(recorder.clone())
        .build();
    (app(&interlock, &pool), recorder)
}

#[test]
fn route_that_only_tests_have_used_is_asked_too() {
    test(async |database| {
        let (app, recorder) = recorded(&database, bad).await;
        let observed = app.clone().layer(recorder.layer());
        recorder.send(&observed, put_request("/by-hand")).await;
        recorder.send(&observed, put_request("/nowhere")).await;
        let coverage = Coverage::of(app).observed(recorder.trace());
        let found = coverage.check().await.unwrap_err().to_string();
        assert!(
            found.contains("PUT /by-hand  UNCOVERED; observed only"),
            "{found}"
        );
        assert!(!found.contains("/nowhere"), "{found}");
    });
}

#[test]
fn mark_whose_write_does_not_run_is_uncovered() {
    test(async |database| {
        let (app, recorder) = recorded(&database, bad).await;
        let observed = app.clone().layer(recorder.layer());
        recorder.send(&observed, put_request("/marked")).await;
        let coverage = Coverage::of(app).observed(recorder.trace());
        let found = coverage.check().await.unwrap_err().to_string();
        assert!(
            found.contains("is not the conditional write of its mark"),
            "{found}"
        );

        let (app, recorder) = recorded(&database, |interlock, _| good(interlock)).await;
        let observed = app.clone().layer(recorder.layer());
        recorder.send(&observed, put_request("/conditional")).await;
        let coverage = Coverage::of(app).observed(recorder.trace());
        let report = coverage.check().await.unwrap();
        assert!(
            matches!(report.operations[0].guard, Guard::Conditional(_)),
            "{report}"
        );
    });
}

#[test]
fn layers_inside_of_layers_come_from_the_trace() {
    test(async |database| {
        let (app, recorder) = recorded(&database, |interlock, _| {
            let inner = interlock
                .require(async || Ok::<_, Error>(()))
                .named("inner");
            let outer = interlock
                .require(async || Ok::<_, Error>(()))
                .named("outer");
            let route = put(async || "").route_layer(inner).route_layer(outer);
            Router::new().route("/", route)
        })
        .await;
        let observed = app.clone().layer(recorder.layer());
        recorder.send(&observed, put_request("/")).await;
        let lock = LockFile::new("nested", "PUT / requires outer + inner");
        let coverage = || {
            Coverage::of(app.clone())
                .routes([("PUT", "/")])
                .lock(&lock.0)
        };
        let checked = coverage().observed(recorder.trace()).check().await;
        assert_eq!(problems(checked), [""; 0]);
        // Without the trace the inner one is not proven.
        let found = problems(coverage().check().await);
        assert!(found[0].contains("looser"), "{found:?}");
    });
}
