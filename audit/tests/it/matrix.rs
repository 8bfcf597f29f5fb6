//! The matrix, of both services.

use axum::{Router, extract::Request};
use http::{HeaderValue, header};
use sqlx::{ConnectOptions as _, PgPool};
use support::Database;
use tower_interlock::Interlock;
use tower_interlock_audit::{
    Access::{self, Allow, Deny, Hide},
    Matrix, MatrixError, MatrixReport, Recorder,
    cells::Fault,
};

use crate::{
    kit::{SCHEMA_RESET, pool, test},
    service::{bad, good},
};

/// A matrix of anonymous, mallory, bob and alice. Bob is known, and has no grant.
fn matrix(app: Router, recorder: &Recorder, pool: PgPool) -> Matrix {
    let signed = |user: &'static str| {
        move |mut request: Request| {
            let user = HeaderValue::from_static(user);
            request.headers_mut().insert(header::AUTHORIZATION, user);
            request
        }
    };
    Matrix::of(app, recorder)
        .identity("anonymous", |request| request)
        .identity("mallory", signed("mallory"))
        .identity("bob", signed("bob"))
        .identity("alice", signed("alice"))
        .reset(async move || {
            sqlx::raw_sql(SCHEMA_RESET).execute(&pool).await.unwrap();
        })
}

/// Adds a case without a body.
fn case(matrix: Matrix, operation: &'static str, expected: [Access; 4]) -> Matrix {
    let request = || {
        let (method, path) = operation.split_once(' ').unwrap();
        let request = Request::builder().method(method).uri(path);
        request.body(axum::body::Body::empty()).unwrap()
    };
    matrix.case(operation, request, expected)
}

async fn good_matrix(database: &Database) -> Matrix {
    let recorder = Recorder::new();
    let pool = pool(database);
    let interlock = Interlock::builder(pool.clone());
    let interlock = interlock.observe(recorder.clone()).build();
    matrix(good(&interlock), &recorder, pool)
}

async fn bad_matrix(database: &Database) -> Matrix {
    let recorder = Recorder::new();
    let pool = pool(database);
    let interlock = Interlock::builder(pool.clone());
    let interlock = interlock.observe(recorder.clone()).build();
    matrix(bad(&interlock, &pool), &recorder, pool)
}

fn faults(ran: Result<MatrixReport, MatrixError>) -> MatrixReport {
    match ran {
        Err(MatrixError::Faults(report)) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn good_service_has_no_fault() {
    test(async |database| {
        let matrix = good_matrix(&database).await;
        let matrix = case(matrix, "GET /health", [Allow, Allow, Allow, Allow]);
        let matrix = case(matrix, "GET /document", [Deny, Hide, Allow, Allow]);
        let matrix = case(matrix, "PUT /document", [Deny, Deny, Deny, Allow]);
        let matrix = case(matrix, "PUT /conditional", [Deny, Deny, Deny, Allow]);
        let path = std::env::temp_dir().join(format!("{}.matrix", database.name()));
        let table = "\
# Who may do what, for review. Made by https://docs.rs/tower-interlock-audit.
# INTERLOCK_LOCK=update writes it.
operation         anonymous  mallory  bob    alice
GET /health       allow      allow    allow  allow
GET /document     deny       hide     allow  allow
PUT /document     deny       deny     deny   allow
PUT /conditional  deny       deny     deny   allow
";
        std::fs::write(&path, table).unwrap();
        let ran = matrix.snapshot(&path).run().await;
        std::fs::remove_file(&path).unwrap();
        let report = ran.unwrap();
        assert!(
            report
                .to_string()
                .contains("GET /document     ✘ 401      ∅ 404    ✔ 200  ✔ 200"),
            "{report}"
        );
    });
}

#[test]
fn table_that_is_not_the_committed_one_is_an_error() {
    test(async |database| {
        let matrix = good_matrix(&database).await;
        let matrix = case(matrix, "GET /health", [Allow, Allow, Allow, Allow]);
        let path = std::env::temp_dir().join(format!("{}.matrix", database.name()));
        std::fs::write(&path, "another one").unwrap();
        let ran = matrix.snapshot(&path).run().await;
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(ran, Err(MatrixError::Differs { .. })), "{ran:?}");
    });
}

#[test]
fn unexpected_response_is_a_fault() {
    test(async |database| {
        let matrix = good_matrix(&database).await;
        let matrix = case(matrix, "PUT /document", [Deny, Hide, Allow, Deny]);
        let report = faults(matrix.run().await);
        let wrong: Vec<_> = report.faults().map(|cell| &cell.identity[..]).collect();
        assert_eq!(wrong, ["mallory", "bob", "alice"], "{report}");
    });
}

#[test]
fn denial_that_writes_is_a_fault() {
    test(async |database| {
        let matrix = bad_matrix(&database).await;
        let matrix = case(matrix, "PUT /denial-writes", [Deny, Deny, Deny, Allow]);
        let report = faults(matrix.run().await);
        // The anonymous request was denied before it wrote.
        let wrong: Vec<_> = report.faults().map(|cell| &cell.identity[..]).collect();
        assert_eq!(wrong, ["mallory", "bob"], "{report}");
        let fault = &report.faults().next().unwrap().faults[..];
        let [Fault::Written(sql)] = fault else {
            panic!("{fault:?}");
        };
        assert_eq!(sql, "INSERT INTO log VALUES (?)");
    });
}

#[test]
fn blind_recorder_is_a_fault() {
    test(async |database| {
        let recorder = Recorder::new();
        let silent = database.options().disable_statement_logging();
        let pool = Interlock::pool_options().connect_lazy_with(silent);
        let interlock = Interlock::builder(pool.clone());
        let interlock = interlock.observe(recorder.clone()).build();
        let matrix = matrix(good(&interlock), &recorder, pool);
        let matrix = case(matrix, "PUT /document", [Deny, Deny, Deny, Allow]);
        let report = faults(matrix.run().await);
        let mut faults = report.faults().flat_map(|cell| &cell.faults);
        assert!(
            faults.all(|fault| matches!(fault, Fault::Blind(_))),
            "{report}"
        );
        assert!(report.faults().count() >= 3, "{report}");
    });
}

#[test]
fn request_to_another_operation_is_a_fault() {
    test(async |database| {
        let matrix = good_matrix(&database).await;
        let request = || {
            Request::get("/health")
                .body(axum::body::Body::empty())
                .unwrap()
        };
        let matrix = matrix.case("GET /document", request, [Allow; 4]);
        let report = faults(matrix.run().await);
        assert!(
            report
                .to_string()
                .contains("the request went to `GET /health`"),
            "{report}"
        );
    });
}
