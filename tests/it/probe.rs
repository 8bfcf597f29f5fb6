//! The probe, the marks, and the attempt that a task is running.

use std::sync::{Arc, Mutex};

use axum::{
    Extension, Router,
    body::Body,
    routing::{get, put as put_route},
};
use http::{Request, StatusCode};
use tower::ServiceExt as _;
use tower_interlock::{
    AuthorizeLayer, Condition, ConditionalWrite, Error, ErrorKind, Interlock, Tx,
    observe::Phase,
    probe::{Probe, Protection, current_attempt},
};

use crate::kit::{put, test};

fn without_database() -> Interlock {
    let pool = Interlock::pool_options().connect_lazy("postgres://localhost:1/nowhere");
    Interlock::new(pool.unwrap())
}

async fn ask(app: Router) -> (StatusCode, Option<Protection>) {
    let probe = Probe::new();
    // A body that never ends would be waited for.
    let body = Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
    let mut request = Request::put("/").body(body).unwrap();
    request.extensions_mut().insert(probe.clone());
    let response = app.oneshot(request).await.unwrap();
    (response.status(), probe.found())
}

#[tokio::test]
async fn probe_is_answered_without_body_policy_handler_and_database() {
    async fn policy(_: Tx) -> Result<(), Error> {
        panic!("the policy runs")
    }
    let ask = async |layer: AuthorizeLayer| {
        let handler = put_route(async || panic!("the handler runs") as ());
        ask(Router::new().route("/", handler.route_layer(layer))).await
    };
    let interlock = without_database();
    let (status, found) = ask(interlock.require(policy).named("documents.edit")).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let Some(Protection::Policy {
        name,
        read_only,
        extractors,
        ..
    }) = found
    else {
        panic!("{found:?}");
    };
    assert_eq!((name, read_only), ("documents.edit", false));
    assert!(extractors.contains("Tx"), "{extractors}");
    let (_, found) = ask(interlock.require(policy).read_only()).await;
    let read_only = |found| {
        matches!(
            found,
            Some(Protection::Policy {
                read_only: true,
                ..
            })
        )
    };
    assert!(read_only(found));
}

#[tokio::test]
async fn probe_finds_marks_and_nothing_without_a_layer() {
    static WRITE: ConditionalWrite = ConditionalWrite::new(
        "DELETE FROM notes WHERE {conditions}",
        &[Condition::permitted("EXISTS (SELECT 1 FROM grants)").hidden()],
    );
    let interlock = without_database();
    let handler = || put_route(async || "handled");
    let marked = handler().route_layer(interlock.public("for all"));
    let (_, found) = ask(Router::new().route("/", marked)).await;
    assert!(
        matches!(
            found,
            Some(Protection::Public {
                reason: "for all",
                ..
            })
        ),
        "{found:?}"
    );

    let marked = handler().route_layer(interlock.conditional(&WRITE));
    let (_, found) = ask(Router::new().route("/", marked)).await;
    let Some(Protection::Conditional {
        statement,
        conditions,
        ..
    }) = found
    else {
        panic!("{found:?}");
    };
    assert_eq!(statement, "DELETE FROM notes WHERE {conditions}");
    assert_eq!(conditions[0].kind, ErrorKind::Denied);
    assert_eq!(conditions[0].status, StatusCode::NOT_FOUND);

    let (status, found) = ask(Router::new().route("/", handler())).await;
    assert_eq!((status, found), (StatusCode::OK, None));
}

#[tokio::test]
async fn requests_pass_a_mark_unchanged() {
    let marked = get(async |Extension(kept): Extension<u8>| kept.to_string());
    let marked = marked.route_layer(without_database().public("for all"));
    let app: Router = Router::new().route("/", marked);
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    request.extensions_mut().insert(7_u8);
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = axum::body::to_bytes(response.into_body(), 10)
        .await
        .unwrap();
    assert_eq!(&body[..], b"7");
}

#[test]
fn attempt_and_phase_of_a_task_are_known_inside_of_work_only() {
    test(async |kit| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = |seen: &Arc<Mutex<Vec<_>>>| seen.lock().unwrap().push(current_attempt());
        let (in_policy, in_handler) = (Arc::clone(&seen), Arc::clone(&seen));
        let layer = kit.interlock.require(async move || {
            note(&in_policy);
            Ok::<_, Error>(())
        });
        let in_hook = Arc::clone(&seen);
        let handler = async move |mut tx: Tx| {
            note(&in_handler);
            sqlx::query("SELECT 1").execute(&mut tx).await.unwrap();
            tx.after_commit(async move { note(&in_hook) });
        };
        let app = Router::new().route("/", put_route(handler).route_layer(layer));
        assert_eq!(put(&app, "/", "").await.status, StatusCode::OK);
        kit.interlock.drain().await;
        let expected = [Phase::Policy, Phase::Handler, Phase::Hook];
        let expected = expected.map(|phase| Some((phase, 1)));
        assert_eq!(*seen.lock().unwrap(), expected);
        assert_eq!(current_attempt(), None);
    });
}
