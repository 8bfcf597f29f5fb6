//! The proof, with tower-interlock-audit: who may do what, what protects each route, and that a
//! revocation cannot be overtaken.

use std::error::Error;

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, header},
};
use sqlx::{ConnectOptions as _, Executor as _, PgPool, postgres::PgConnectOptions};
use support::Database;
use tower_interlock::Interlock;
use tower_interlock_audit::{
    Access::{Allow, Deny, Hide},
    Audit, Coverage, Document, Limits, Matrix, MatrixReport, Race, Recorder, Wire,
    recording::Place,
};
use uuid::Uuid;

use crate::{auth, builder, router, schema};

const OPERATIONS: [(&str, &str); 6] = [
    ("POST", "/documents"),
    ("GET", "/documents/{document}"),
    ("PUT", "/documents/{document}"),
    ("DELETE", "/documents/{document}"),
    ("PUT", "/documents/{document}/grants/{user}"),
    ("DELETE", "/documents/{document}/grants/{user}"),
];

pub(crate) const DOCUMENT: &str = "/documents/00000000-0000-0000-0000-000000000001";
pub(crate) const GRANT: &str = "/documents/00000000-0000-0000-0000-000000000001/grants/bob";

/// Alice owns the document and shares it with bob. Carol has nothing to do with it.
pub(crate) const ROWS: &str = "
    INSERT INTO users VALUES ('carol') ON CONFLICT DO NOTHING;
    DELETE FROM documents;
    INSERT INTO documents (id, owner, body)
        VALUES ('00000000-0000-0000-0000-000000000001', 'alice', 'first draft');
    INSERT INTO grants VALUES ('00000000-0000-0000-0000-000000000001', 'bob');
";

#[tokio::test]
async fn every_route_is_protected_as_locked() -> Result<(), Box<dyn Error>> {
    let nowhere = Interlock::pool_options().connect_lazy("postgres://localhost:1/nowhere")?;
    let report = Coverage::of(router(&builder(nowhere).build()))
        .routes(OPERATIONS)
        .lock("examples/documents/authz.lock")
        .check()
        .await?;
    println!("{report}");
    Ok(())
}

#[test]
fn only_owner_and_users_with_grant_have_access() {
    support::test(async |database| {
        let recorder = Recorder::new();
        let service = Service::start(options(&database), &recorder).await;
        let report = run_matrix(service, &recorder).await;
        println!("{report}");
    });
}

/// The trace is for `interlock-audit scan`, too.
#[test]
fn audit_has_no_finding() {
    support::test(async |database| {
        let recorder = Recorder::new();
        let service = Service::start(options(&database), &recorder).await;
        run_matrix(service, &recorder).await;
        let trace = recorder.trace();
        trace.write("target/interlock/documents.jsonl").unwrap();

        let document = "examples/documents/openapi.yaml";
        let document = Document::read(document, &Limits::default()).unwrap();
        let audit = Audit::new()
            .document(document)
            .lock("examples/documents/authz.lock")
            .unwrap()
            .trace(trace);
        let mut connection = options(&database).connect().await.unwrap();
        let findings = audit.guards(&mut connection).await.unwrap().run();
        assert!(findings.findings.is_empty(), "{findings}");
        assert!(!findings.is_incomplete(), "{findings}");
    });
}

async fn run_matrix(service: Service, recorder: &Recorder) -> MatrixReport {
    let matrix = service
        .matrix(recorder)
        .case(
            "POST /documents",
            || request(Method::POST, "/documents"),
            [Deny, Allow, Allow, Allow],
        )
        .case(
            "GET /documents/{document}",
            || request(Method::GET, DOCUMENT),
            [Deny, Hide, Allow, Allow],
        )
        .case(
            "PUT /documents/{document}",
            || request(Method::PUT, DOCUMENT),
            [Deny, Hide, Allow, Allow],
        )
        .case(
            "DELETE /documents/{document}",
            || request(Method::DELETE, DOCUMENT),
            [Deny, Deny, Deny, Allow],
        )
        .case(
            SHARE,
            || request(Method::PUT, GRANT),
            [Deny, Deny, Deny, Allow],
        )
        .case(
            UNSHARE,
            || request(Method::DELETE, GRANT),
            [Deny, Deny, Deny, Allow],
        );
    let matrix = matrix.snapshot("examples/documents/authz.matrix");
    matrix.run().await.unwrap()
}

const SHARE: &str = "PUT /documents/{document}/grants/{user}";
const UNSHARE: &str = "DELETE /documents/{document}/grants/{user}";

#[test]
fn update_cannot_overtake_unsharing() {
    support::test(async |database| {
        let wire = Wire::to(options(&database)).await.unwrap();
        let service = Service::start(wire.options(), &Recorder::new()).await;
        let bob = service.bob;
        Race::of(service.app, &wire)
            .request(move || signed(request(Method::PUT, DOCUMENT), &bob))
            .prepare(async |tx| sqlx::raw_sql(ROWS).execute(tx).await)
            .revoke(async |tx| tx.execute("DELETE FROM grants").await)
            .effect("SELECT body, version FROM documents")
            .run()
            .await
            .unwrap()
            .assert_safe();
    });
}

#[test]
fn sharing_cannot_overtake_change_of_owner() {
    support::test(async |database| {
        let wire = Wire::to(options(&database)).await.unwrap();
        let service = Service::start(wire.options(), &Recorder::new()).await;
        let alice = service.alice;
        Race::of(service.app, &wire)
            .request(move || signed(request(Method::PUT, GRANT), &alice))
            .prepare(async |tx| {
                sqlx::raw_sql(ROWS).execute(&mut *tx).await?;
                tx.execute("DELETE FROM grants").await
            })
            .revoke(async |tx| tx.execute("UPDATE documents SET owner = 'carol'").await)
            .effect("SELECT count(*) FROM grants")
            .run()
            .await
            .unwrap()
            .assert_safe();
    });
}

#[test]
fn sharing_runs_in_its_transaction_only() {
    support::test(async |database| {
        let recorder = Recorder::new();
        let service = Service::start(options(&database), &recorder).await;
        sqlx::raw_sql(ROWS).execute(&service.pool).await.unwrap();
        let app = service.app.layer(recorder.layer());
        let share = || signed(request(Method::PUT, GRANT), &service.alice);
        // The first transaction inspects the server.
        recorder.send(&app, share()).await;
        let (_, exchange) = recorder.send(&app, share()).await;
        let exchange = exchange.unwrap();
        assert_eq!(exchange.blind(), None);
        let mut of_tables = exchange.statements.iter();
        let outside = of_tables.find(|statement| {
            statement.place == Place::Outside
                && !(statement.reads.is_empty() && statement.writes.is_empty())
        });
        assert_eq!(outside, None);
    });
}

/// The service, with the tokens of its users.
struct Service {
    app: Router,
    pool: PgPool,
    alice: String,
    bob: String,
    carol: String,
}

impl Service {
    async fn start(options: PgConnectOptions, recorder: &Recorder) -> Self {
        let pool = Interlock::pool_options().max_connections(4);
        let pool = pool.connect_with(options).await.unwrap();
        schema::apply(&pool).await.unwrap();
        sqlx::raw_sql(ROWS).execute(&pool).await.unwrap();
        let interlock = builder(pool.clone()).observe(recorder.clone()).build();
        Self {
            app: router(&interlock),
            alice: auth::issue_token(&pool, "alice").await.unwrap(),
            bob: auth::issue_token(&pool, "bob").await.unwrap(),
            carol: auth::issue_token(&pool, "carol").await.unwrap(),
            pool,
        }
    }

    /// A matrix of no one, carol, bob and alice.
    fn matrix(self, recorder: &Recorder) -> Matrix {
        Matrix::of(self.app, recorder)
            .identity("anonymous", |request| request)
            .identity("carol", move |request| signed(request, &self.carol))
            .identity("bob", move |request| signed(request, &self.bob))
            .identity("alice", move |request| signed(request, &self.alice))
            .reset(async move || {
                sqlx::raw_sql(ROWS).execute(&self.pool).await.unwrap();
            })
    }
}

pub(crate) fn options(database: &Database) -> PgConnectOptions {
    database.options().options([("search_path", schema::NAME)])
}

pub(crate) fn request(method: Method, path: &str) -> Request {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::IF_MATCH, "\"1\"")
        .header("idempotency-key", Uuid::new_v4().to_string())
        .body(Body::from(r#"{"body":"second draft"}"#))
        .unwrap()
}

pub(crate) fn signed(mut request: Request, token: &str) -> Request {
    let token = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, token);
    request
}
