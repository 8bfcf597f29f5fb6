//! The audit row: it is there exactly if the write is.

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::Request,
    routing::{any, post},
};
use serde_json::{Value, json};
use sqlx::Row as _;
use tower_interlock::{Denied, Error, ErrorKind, Interlock, Receipts, Tx};

use super::{
    add_effect, assert_created, count_receipts, effects, idempotent, is_replayed, keyed,
    make_tables, prepare, with_receipts,
};
use crate::kit::{Kit, anyone, conflict_once, send, test, traced};

/// A receipt as an auditor reads it.
#[derive(Debug, PartialEq)]
struct Audited {
    status: i32,
    principal: Option<String>,
    policies: String,
    method: Option<String>,
    path: Option<String>,
    attempts: i32,
    detail: Option<Value>,
}

async fn audited(kit: &Kit) -> Vec<Audited> {
    let rows = "SELECT * FROM interlock_receipts ORDER BY at, path";
    let rows = sqlx::query(rows).fetch_all(&kit.outside).await.unwrap();
    rows.iter()
        .map(|row| Audited {
            status: row.get("status"),
            principal: row.get("principal"),
            policies: row.get("policies"),
            method: row.get("method"),
            path: row.get("path"),
            attempts: row.get("attempts"),
            detail: row.get("detail"),
        })
        .collect()
}

fn of_user(user: &str, path: &str) -> Request<Body> {
    let request = Request::put(path).header("x-user", user);
    request.body(Body::empty()).unwrap()
}

#[test]
fn receipt_says_who_did_what_by_which_policies() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let outside = kit.outside.clone();
        let handler = async move |Path(document): Path<i64>, mut tx: Tx| {
            conflict_once(&mut tx, &outside).await?;
            add_effect(&mut tx, document).await?;
            tx.note("document", document);
            tx.note("fields", json!(["body"]));
            tx.note("document", 7);
            Ok::<_, Error>("done")
        };
        let app = Router::new()
            .route("/{document}", any(handler))
            .route_layer(interlock.require(anyone).named("documents.edit"))
            .route_layer(interlock.require(anyone).named("tenants.member"));
        let app = Router::new().nest("/documents", app);
        assert_eq!(send(&app, of_user("1", "/documents/7?x")).await.status, 200);
        let expected = Audited {
            status: 200,
            principal: Some("1".to_owned()),
            policies: "tenants.member, documents.edit".to_owned(),
            method: Some("PUT".to_owned()),
            path: Some("/documents/7".to_owned()),
            attempts: 2,
            detail: Some(json!({ "document": 7, "fields": ["body"] })),
        };
        assert_eq!(audited(&kit).await, [expected]);
        // The query of the documentation.
        let query = "SELECT principal FROM interlock_receipts \
                     WHERE detail @> '{\"document\": 7}' AND status <> 0 ORDER BY at";
        let who: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&kit.outside)
            .await
            .unwrap();
        assert_eq!(who, ["1"]);
    });
}

#[test]
fn note_of_a_savepoint_that_was_rolled_back_is_dropped() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let handler = async |mut tx: Tx| {
            tx.note("kept", 1);
            let mut savepoint = tx.savepoint().await?;
            savepoint.note("undone", 2);
            savepoint.rollback().await?;
            let mut savepoint = tx.savepoint().await?;
            savepoint.note("released", 3);
            savepoint.release().await?;
            drop(tx.savepoint().await?);
            Ok::<_, Error>("done")
        };
        let route = any(handler).layer(interlock.require(anyone));
        let app = Router::new().route("/", route);
        assert_eq!(send(&app, of_user("1", "/")).await.status, 200);
        let detail = audited(&kit).await.pop().unwrap().detail;
        assert_eq!(detail, Some(json!({ "kept": 1, "released": 3 })));
    });
}

/// A receipt is neither stored without its write, nor missing with it.
#[test]
fn work_that_keeps_nothing_has_no_receipt() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let fail = async |mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            Err::<(), _>(Error::conflict())
        };
        let discard = async |mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            tx.rollback_only();
            Ok::<_, Error>("done")
        };
        let nothing = async |_: Tx| "done";
        let layer = || interlock.require(anyone);
        let app = Router::new()
            .route("/fail", any(fail).layer(layer()))
            .route("/discard", any(discard).layer(layer()))
            .route("/nothing", any(nothing).layer(layer()))
            .route(
                "/read",
                any(async |mut tx: Tx| {
                    sqlx::query("SELECT 1").execute(&mut tx).await?;
                    Ok::<_, Error>("done")
                })
                .layer(layer().read_only()),
            );
        for (path, status) in [
            ("/fail", 409),
            ("/discard", 200),
            ("/nothing", 200),
            ("/read", 200),
        ] {
            assert_eq!(
                send(&app, of_user("1", path)).await.status,
                status,
                "{path}"
            );
        }
        assert_eq!(count_receipts(&kit).await, (0, 0));
    });
}

/// An interlock that records denials.
async fn recording(kit: &Kit) -> Interlock {
    make_tables(kit).await;
    let receipts = Receipts::new().record_denials();
    with_receipts(kit.builder()).receipts(receipts).build()
}

fn denying(interlock: &Interlock) -> Router {
    let policy = async || Err::<(), _>(Denied::new("not on Sundays"));
    effects(interlock.require(policy).named("weekdays"))
}

fn denied(user: &str) -> Request<Body> {
    let request = Request::post("/effects/1").header("x-user", user);
    request.body(Body::empty()).unwrap()
}

#[test]
fn denial_is_recorded_after_the_response() {
    test(async |kit| {
        let interlock = recording(&kit).await;
        let (response, log) = traced(send(&denying(&interlock), denied("2"))).await;
        assert_eq!(response.status, 403);
        interlock.drain().await;
        let expected = Audited {
            status: 403,
            principal: Some("2".to_owned()),
            policies: "weekdays".to_owned(),
            method: Some("POST".to_owned()),
            path: Some("/effects/1".to_owned()),
            attempts: 1,
            detail: Some(json!({ "denied": "not on Sundays" })),
        };
        assert_eq!(audited(&kit).await, [expected]);
        let events = log.find("denied");
        assert_eq!(events.len(), 1, "{log:?}");
        assert_eq!(events[0].get("reason"), Some("not on Sundays"));
        assert_eq!(events[0].get("principal"), Some("2"));
        assert_eq!(events[0].get("policies"), Some("weekdays"));
        assert_eq!(interlock.unrecorded_denials(), 0);
    });
}

#[test]
fn denial_is_only_logged_unless_it_is_to_be_recorded() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let (response, log) = traced(send(&denying(&interlock), denied("2"))).await;
        assert_eq!(response.status, 403);
        interlock.drain().await;
        assert_eq!(log.find("denied").len(), 1);
        assert_eq!(count_receipts(&kit).await, (0, 0));
    });
}

/// Its denial follows from an error, so it is none.
#[test]
fn check_that_could_not_run_is_no_denial() {
    test(async |kit| {
        let interlock = recording(&kit).await;
        let policy = async |mut tx: Tx| {
            let _ = sqlx::query("SELECT missing").execute(&mut tx).await;
            Err::<(), _>(Denied::new("unknown"))
        };
        let app = effects(interlock.require(policy));
        let response = send(&app, denied("2")).await;
        response.assert_problem(ErrorKind::Database);
        interlock.drain().await;
        assert_eq!(count_receipts(&kit).await, (0, 0));
    });
}

/// The handler's own 403 is the answer of the business, not a denial of a policy.
#[test]
fn rejection_by_a_handler_is_no_denial() {
    test(async |kit| {
        let interlock = recording(&kit).await;
        let handler = post(async |_: Tx| Err::<(), _>(Denied::new("closed")));
        let route = handler.route_layer(interlock.require(anyone));
        let app = Router::new().route("/effects/{request}", route);
        assert_eq!(send(&app, denied("2")).await.status, 403);
        interlock.drain().await;
        assert_eq!(count_receipts(&kit).await, (0, 0));
    });
}

/// What the client is told is that the request was done.
#[test]
fn denial_that_a_copy_has_overtaken_is_not_recorded() {
    test(async |kit| {
        let interlock = recording(&kit).await;
        let app: &Router = Box::leak(Box::new(idempotent(&interlock)));
        let policy = async || {
            assert_created(&send(app, keyed(1, "a")).await, 1);
            Err::<(), _>(Denied::new("too late"))
        };
        let late = effects(interlock.require(policy).idempotent());
        let response = send(&late, keyed(1, "a")).await;
        assert_created(&response, 1);
        assert!(is_replayed(&response));
        interlock.drain().await;
        assert_eq!(count_receipts(&kit).await, (1, 0));
    });
}

#[test]
fn denials_beyond_the_queue_are_dropped_and_counted() {
    test(async |kit| {
        let interlock = recording(&kit).await;
        let app = denying(&interlock);
        // The queue has one reader, which waits for the table.
        let mut lock = kit.outside.begin().await.unwrap();
        let insert = "INSERT INTO interlock_receipts (key, attempt, status, expires_at) \
                      VALUES ('x', 'x', 1, now())";
        sqlx::query(insert).execute(&mut *lock).await.unwrap();
        let held = kit.pool.options().get_max_connections();
        let mut connections = Vec::new();
        for _ in 0..held {
            connections.push(kit.pool.acquire().await.unwrap());
        }
        for _ in 0..1_100 {
            assert_eq!(send(&app, denied("2")).await.status, 403);
        }
        let dropped = interlock.unrecorded_denials();
        assert!((99..=100).contains(&dropped), "{dropped}");
        drop(connections);
        lock.rollback().await.unwrap();
        interlock.drain().await;
        let (recorded, _) = count_receipts(&kit).await;
        assert_eq!(recorded, 1_100 - i64::try_from(dropped).unwrap());
        assert_eq!(interlock.unrecorded_denials(), dropped);
    });
}

#[test]
fn denial_that_cannot_be_recorded_is_counted() {
    test(async |kit| {
        let interlock = recording(&kit).await;
        let app = denying(&interlock);
        // The server is inspected while the table is there.
        interlock
            .transact(async |mut tx: Tx| add_effect(&mut tx, 1).await.map_err(Error::from))
            .await
            .unwrap();
        kit.database.run("DROP TABLE interlock_receipts").await;
        assert_eq!(send(&app, denied("2")).await.status, 403);
        interlock.drain().await;
        assert_eq!(interlock.unrecorded_denials(), 1);
    });
}

#[test]
fn value_is_never_part_of_a_text() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        const HOSTILE: &str = "'); DROP TABLE interlock_receipts; --";
        let handler = async |mut tx: Tx| {
            add_effect(&mut tx, 1).await?;
            tx.note("hostile", HOSTILE);
            Ok::<_, Error>("done")
        };
        let route = any(handler).layer(interlock.require(anyone));
        let app = Router::new().route("/{*path}", route);
        let path = "/'%20OR%201=1;--";
        assert_eq!(send(&app, of_user(HOSTILE, path)).await.status, 200);
        let audited = audited(&kit).await.pop().unwrap();
        assert_eq!(audited.principal.as_deref(), Some(HOSTILE));
        assert_eq!(audited.path.as_deref(), Some(path));
        assert_eq!(audited.detail, Some(json!({ "hostile": HOSTILE })));
    });
}
