//! Repeated requests: one effect, one response.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    http::{HeaderMap, Method, Request, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, any, post},
};
use futures::stream;
use http_body_util::{BodyExt as _, Full};
use tower_interlock::{Denied, Error, ErrorKind, Interlock, Outcome, Receipts, Tx};

use super::{
    EXPIRE, add_effect, assert_created, count_effects, count_receipts, effects, idempotent,
    is_replayed, keyed, keyed_of, make_tables, prepare, until_blocked, with_receipts,
};
use crate::kit::{anyone, conflict_once, never, send, test, test_with_pool};

/// A router with an idempotent route.
fn idempotent_route(interlock: &Interlock, route: MethodRouter) -> Router {
    let layer = interlock.require(anyone).idempotent();
    Router::new().route("/effects/{request}", route.route_layer(layer))
}

#[test]
fn repeated_request_gets_the_first_response_and_has_one_effect() {
    test(async |kit| {
        let app = idempotent(&prepare(&kit).await);
        let first = send(&app, keyed(1, "\"a\"")).await;
        assert_created(&first, 1);
        assert!(!is_replayed(&first));
        assert_eq!(
            (first.outcome(), first.report().attempts()),
            (Outcome::Committed, 1)
        );
        // A bare key is the same key.
        for key in ["\"a\"", "a"] {
            let again = send(&app, keyed(1, key)).await;
            assert_created(&again, 1);
            assert!(is_replayed(&again));
            assert_eq!(
                (again.outcome(), again.report().attempts()),
                (Outcome::Replayed, 0)
            );
        }
        assert_eq!(count_effects(&kit, 1).await, 1);
        assert_eq!(count_receipts(&kit).await, (1, 0));
    });
}

#[test]
fn other_key_principal_or_path_is_another_request() {
    test(async |kit| {
        let app = idempotent(&prepare(&kit).await);
        let requests = [
            keyed(1, "a"),
            keyed(1, "b"),
            keyed_of("2", 1, "a"),
            keyed(2, "a"),
        ];
        for request in requests {
            let response = send(&app, request).await;
            assert_eq!(response.outcome(), Outcome::Committed);
        }
        assert_eq!(
            (count_effects(&kit, 1).await, count_effects(&kit, 2).await),
            (3, 1)
        );
    });
}

/// A nested router sees only a part of the path.
#[test]
fn whole_path_of_a_nested_route_counts() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let layer = interlock.require(anyone).idempotent();
        let nested = Router::new().route(
            "/effects",
            post(async |Path(tenant): Path<i64>, mut tx: Tx| {
                add_effect(&mut tx, tenant).await?;
                Ok::<_, Error>(tenant.to_string())
            })
            .route_layer(layer),
        );
        let app = Router::new().nest("/tenants/{tenant}", nested);
        for tenant in [1, 2, 1, 2] {
            let request = Request::post(format!("/tenants/{tenant}/effects"))
                .header("x-user", "1")
                .header("idempotency-key", "a")
                .body(Body::empty())
                .unwrap();
            let response = send(&app, request).await;
            assert_eq!(response.body, tenant.to_string());
        }
        assert_eq!(
            (count_effects(&kit, 1).await, count_effects(&kit, 2).await),
            (1, 1)
        );
    });
}

#[test]
fn key_with_another_body_query_or_type_is_rejected() {
    test(async |kit| {
        let app = idempotent(&prepare(&kit).await);
        let request = |uri: &str, content_type: &str, body: &'static str| {
            Request::post(uri)
                .header("x-user", "1")
                .header("idempotency-key", "a")
                .header("content-type", content_type)
                .body(Body::from(body))
                .unwrap()
        };
        let first = send(&app, request("/effects/1?x=1", "text/plain", "body")).await;
        assert_created(&first, 1);
        let others = [
            request("/effects/1?x=1", "text/plain", "other"),
            request("/effects/1?x=2", "text/plain", "body"),
            request("/effects/1", "text/plain", "body"),
            request("/effects/1?x=1", "text/html", "body"),
        ];
        for other in others {
            let response = send(&app, other).await;
            response.assert_problem(ErrorKind::IdempotencyKeyReused);
            assert_eq!(response.status, 422);
            assert_eq!(response.outcome(), Outcome::RolledBack);
        }
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

#[test]
fn missing_or_malformed_key_is_rejected_where_it_is_required() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let required = idempotent(&interlock);
        let optional = effects(interlock.require(anyone).idempotency_optional());
        let request = |keys: &[&str]| {
            let mut request = Request::post("/effects/1").header("x-user", "1");
            for key in keys {
                request = request.header("idempotency-key", *key);
            }
            request.body(Body::empty()).unwrap()
        };
        for keys in [&["\"a"][..], &[""], &["a,b"], &["a", "a"]] {
            for app in [&required, &optional] {
                let response = send(app, request(keys)).await;
                response.assert_problem(ErrorKind::InvalidIdempotencyKey);
                assert_eq!(response.status, 400);
            }
        }
        let response = send(&required, request(&[])).await;
        response.assert_problem(ErrorKind::InvalidIdempotencyKey);
        assert_eq!(count_effects(&kit, 1).await, 0);
        for _ in 0..2 {
            assert_created(&send(&optional, request(&[])).await, 1);
        }
        assert_eq!(count_effects(&kit, 1).await, 2);
    });
}

#[test]
fn key_of_a_request_without_a_principal_is_misconfigured() {
    test(async |kit| {
        let app = idempotent(&prepare(&kit).await);
        let request = Request::post("/effects/1").header("idempotency-key", "a");
        let response = send(&app, request.body(Body::empty()).unwrap()).await;
        response.assert_problem(ErrorKind::Misconfigured);
        assert_eq!(count_effects(&kit, 1).await, 0);
    });
}

/// Its policy says why.
#[test]
fn denial_of_a_request_without_a_principal_stands() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let policy = async || Err::<(), _>(Error::unauthenticated("Bearer"));
        let app = effects(interlock.require(policy).idempotent());
        let request = Request::post("/effects/1").header("idempotency-key", "a");
        let response = send(&app, request.body(Body::empty()).unwrap()).await;
        response.assert_problem(ErrorKind::Unauthenticated);
    });
}

#[test]
fn key_is_used_up_by_a_commit_only() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let calls: &AtomicU32 = Box::leak(Box::default());
        let handler = async |Path(request): Path<i64>, mut tx: Tx| {
            add_effect(&mut tx, request).await?;
            match calls.fetch_add(1, Relaxed) {
                0 => Err(Error::conflict()),
                1 => Err(Denied::new("later").into()),
                2 => Err(Error::from(sqlx::Error::PoolClosed)),
                3 => {
                    tx.rollback_only();
                    Ok("not kept")
                }
                _ => Ok("kept"),
            }
        };
        let app = idempotent_route(&interlock, post(handler));
        for status in [409, 403, 503, 200, 200, 200] {
            let response = send(&app, keyed(1, "a")).await;
            assert_eq!(response.status, status, "{}", response.body);
        }
        assert_eq!(calls.load(Relaxed), 5);
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

#[test]
fn client_error_that_is_kept_is_replayed_as_it_was_sent() {
    test(async |kit| {
        make_tables(&kit).await;
        static RENDERED: AtomicU32 = AtomicU32::new(0);
        let render = |error: &Error| {
            let number = RENDERED.fetch_add(1, Relaxed);
            (error.status(), format!("error {number}")).into_response()
        };
        let interlock = with_receipts(kit.builder().error_response(render)).build();
        let handler = async |Path(request): Path<i64>, mut tx: Tx| {
            add_effect(&mut tx, request).await?;
            tx.commit_on_client_error();
            Err::<(), _>(Error::conflict())
        };
        let app = idempotent_route(&interlock, post(handler));
        for _ in 0..2 {
            let response = send(&app, keyed(1, "a")).await;
            assert_eq!(
                (response.status.as_u16(), &*response.body),
                (409, "error 0")
            );
        }
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

/// A response with everything that may and may not be kept.
async fn rich(Path(request): Path<i64>, mut tx: Tx) -> Result<Response, Error> {
    add_effect(&mut tx, request).await?;
    let mut response = (StatusCode::ACCEPTED, vec![0_u8, 255, 10, 13]).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        ("set-cookie", "session=secret"),
        ("date", "Thu, 26 Nov 2026 10:00:00 GMT"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("vary", "accept"),
        ("vary", "origin"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    headers.insert("x-opaque", b"\xff".as_slice().try_into().unwrap());
    Ok(response)
}

#[test]
fn replay_has_status_headers_and_body_but_no_cookie() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let app = idempotent_route(&interlock, post(rich));
        let heads = async || {
            let response = tower::ServiceExt::oneshot(app.clone(), keyed(1, "a"))
                .await
                .unwrap();
            let (parts, body) = response.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            (parts, body)
        };
        let (first, first_body) = heads().await;
        let (second, second_body) = heads().await;
        assert!(first.headers.contains_key("set-cookie"));
        assert_eq!((first.status, first_body), (second.status, second_body));
        let kept: HeaderMap = [
            ("content-type", b"application/octet-stream".as_slice()),
            ("vary", b"accept"),
            ("vary", b"origin"),
            ("x-opaque", b"\xff"),
            ("idempotent-replayed", b"true"),
            ("content-length", b"4"),
        ]
        .into_iter()
        .map(|(name, value)| (name.parse().unwrap(), value.try_into().unwrap()))
        .collect();
        let mut seen = second.headers;
        seen.entry("content-length").or_insert("4".parse().unwrap());
        assert_eq!(seen.keys().count(), kept.keys().count(), "{seen:?}");
        for name in kept.keys() {
            let values =
                |headers: &HeaderMap| -> Vec<_> { headers.get_all(name).iter().cloned().collect() };
            assert_eq!(values(&seen), values(&kept), "{name}");
        }
    });
}

#[test]
fn request_whose_response_was_not_kept_is_not_done_again() {
    test(async |kit| {
        make_tables(&kit).await;
        let receipts = Receipts::new().response_limit(8);
        let interlock = with_receipts(kit.builder()).receipts(receipts).build();
        let handler = async |Path(request): Path<i64>, mut tx: Tx| {
            add_effect(&mut tx, request).await?;
            Ok::<_, Error>(match request {
                4 => StatusCode::SWITCHING_PROTOCOLS.into_response(),
                5 => {
                    let trailers = HeaderMap::from_iter([(header::ETAG, "1".parse().unwrap())]);
                    let data = Full::new(Bytes::from_static(b"1"));
                    let body = data.with_trailers(async { Some(Ok(trailers)) });
                    Body::new(body).into_response()
                }
                1 => "12345678".into_response(),
                2 => "123456789".into_response(),
                _ => {
                    let chunks = ["1", "2"].map(|chunk| Ok::<_, Error>(Bytes::from(chunk)));
                    Body::from_stream(stream::iter(chunks)).into_response()
                }
            })
        };
        let app = idempotent_route(&interlock, post(handler));
        for (request, body, status) in [
            (1, "12345678", 200),
            (2, "123456789", 409),
            (3, "12", 409),
            (4, "", 409),
        ] {
            let first = send(&app, keyed(request, "a")).await;
            assert!(first.error().is_none());
            assert_eq!(first.body, body);
            for _ in 0..2 {
                let again = send(&app, keyed(request, "a")).await;
                assert_eq!(again.status, status);
                if status == 409 {
                    again.assert_problem(ErrorKind::AlreadyDone);
                }
            }
            assert_eq!(count_effects(&kit, request).await, 1);
        }
    });
}

/// The failure of a copy must not hide the success of the one that has committed meanwhile.
#[test]
fn failure_of_a_copy_is_replaced_by_the_success_of_the_other() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let app: &Router = Box::leak(Box::new(idempotent(&interlock)));
        // Its first copy commits while the second one is in its handler.
        let handler = async |_: Tx| {
            let first = send(app, keyed(1, "a")).await;
            assert_created(&first, 1);
            Err::<(), _>(Error::conflict())
        };
        let slow = post(handler).route_layer(interlock.require(anyone).idempotent());
        let slow = Router::new().route("/effects/{request}", slow);
        let response = send(&slow, keyed(1, "a")).await;
        assert_created(&response, 1);
        assert!(is_replayed(&response));
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

#[test]
fn expired_key_is_free_again() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let app = idempotent(&interlock);
        for _ in 0..2 {
            let response = send(&app, keyed(1, "a")).await;
            assert_eq!(response.outcome(), Outcome::Committed);
            kit.database.run(EXPIRE).await;
        }
        assert_eq!(count_effects(&kit, 1).await, 2);
        assert_eq!(count_receipts(&kit).await, (1, 0));
        assert_eq!(interlock.purge_receipts().await.unwrap(), 1);
        assert_eq!(count_receipts(&kit).await, (0, 0));
    });
}

#[test]
fn purge_removes_all_that_has_expired_and_nothing_else() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let rows = "INSERT INTO interlock_receipts (key, attempt, status, expires_at) \
                    SELECT sha256(i::TEXT::BYTEA), 'x', 200, now() - INTERVAL '1 hour' \
                    FROM generate_series(1, 2500) AS i";
        let rows = if kit.database.kind() == support::Kind::CockroachDb {
            rows.replace("sha256(i::TEXT::BYTEA)", "decode(sha256(i::TEXT), 'hex')")
        } else {
            rows.to_owned()
        };
        sqlx::query(sqlx::AssertSqlSafe(rows))
            .execute(&kit.outside)
            .await
            .unwrap();
        let app = idempotent(&interlock);
        assert_created(&send(&app, keyed(1, "a")).await, 1);
        assert_eq!(interlock.purge_receipts().await.unwrap(), 2500);
        assert!(is_replayed(&send(&app, keyed(1, "a")).await));
    });
}

#[test]
fn safe_request_needs_no_key_and_stores_nothing() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let handler = async |Path(request): Path<i64>, mut tx: Tx| {
            add_effect(&mut tx, request).await?;
            Ok::<_, Error>("ok")
        };
        let layer = interlock.require(anyone).idempotent();
        let app = Router::new().route("/effects/{request}", any(handler).layer(layer));
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            let request = Request::builder().method(method).uri("/effects/1");
            let response = send(&app, request.body(Body::empty()).unwrap()).await;
            assert_eq!(response.status, 200);
        }
        assert_eq!(count_receipts(&kit).await, (0, 0));
    });
}

#[test]
fn route_that_cannot_be_idempotent_is_misconfigured() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let layer = || interlock.require(anyone).idempotent();
        let without_receipts = kit.builder().principal(|_| Some("1".to_owned())).build();
        let inner = interlock.require(anyone).idempotent();
        let guarded =
            |layer| Router::new().route("/effects/{request}", post(never).route_layer(layer));
        let apps = [
            guarded(layer().read_only()),
            guarded(layer().unbuffered()),
            guarded(without_receipts.require(anyone).idempotent()),
            guarded(inner).route_layer(interlock.require(anyone)),
        ];
        for app in apps {
            let response = send(&app, keyed(1, "a")).await;
            response.assert_problem(ErrorKind::Misconfigured);
        }
        // Without a router nothing tells whether the path is whole.
        let service = tower::service_fn(async |_: Request<Body>| -> Result<Response, Error> {
            panic!("the handler ran")
        });
        let service = tower::ServiceBuilder::new().layer(layer()).service(service);
        let response = tower::ServiceExt::oneshot(service, keyed(1, "a"))
            .await
            .unwrap();
        crate::kit::read(response)
            .await
            .assert_problem(ErrorKind::Misconfigured);
    });
}

/// An inner layer makes the transaction READ ONLY, so that it can store no receipt.
#[test]
fn idempotent_request_in_a_read_only_transaction_is_misconfigured() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let read = post(async |mut tx: Tx| {
            sqlx::query("SELECT 1").execute(&mut tx).await?;
            Ok::<_, Error>("ok")
        });
        let app = Router::new()
            .route(
                "/effects/{request}",
                read.route_layer(interlock.require(anyone).read_only()),
            )
            .route_layer(interlock.require(anyone).idempotent());
        let response = send(&app, keyed(1, "a")).await;
        response.assert_problem(ErrorKind::Misconfigured);
    });
}

/// An expired receipt is replaced while the purge waits for it. Below SERIALIZABLE, the new one must
/// survive.
#[test]
fn purge_does_not_remove_a_receipt_that_has_replaced_an_expired_one() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let app = idempotent(&interlock);
        assert_created(&send(&app, keyed(1, "a")).await, 1);
        kit.database.run(EXPIRE).await;
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(2);
        let purging = with_receipts(Interlock::builder(
            pool.connect_lazy_with(kit.database.options()),
        ));
        let purging = purging.build();
        let mut replacing = kit.outside.begin().await.unwrap();
        let replace = "UPDATE interlock_receipts SET expires_at = now() + INTERVAL '1 hour'";
        sqlx::query(replace).execute(&mut *replacing).await.unwrap();
        let commit = async {
            until_blocked(&kit, "DELETE FROM%").await;
            replacing.commit().await.unwrap();
        };
        let (purged, ()) = tokio::join!(purging.purge_receipts(), commit);
        assert_eq!(purged.unwrap(), 0);
        assert_eq!(count_receipts(&kit).await, (1, 0));
    });
}

/// Its policy redirects to a login page.
#[test]
fn redirect_of_a_policy_stands_without_a_principal() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let policy = async || Err::<(), _>(Redirect::to("/login"));
        let app = effects(interlock.require(policy).idempotent());
        let request = Request::post("/effects/1").header("idempotency-key", "a");
        let response = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status, 303);
    });
}

#[test]
fn rendered_status_does_not_decide_on_the_commit() {
    test(async |kit| {
        make_tables(&kit).await;
        let render = |_: &Error| StatusCode::INTERNAL_SERVER_ERROR.into_response();
        let interlock = with_receipts(kit.builder().error_response(render)).build();
        let handler = async |Path(request): Path<i64>, mut tx: Tx| {
            add_effect(&mut tx, request).await?;
            tx.commit_on_client_error();
            Err::<(), _>(Error::conflict())
        };
        let app = idempotent_route(&interlock, post(handler));
        for outcome in [Outcome::Committed, Outcome::Replayed] {
            let response = send(&app, keyed(1, "a")).await;
            assert_eq!(
                (response.status.as_u16(), response.outcome()),
                (500, outcome)
            );
        }
        assert_eq!(count_effects(&kit, 1).await, 1);
    });
}

#[test]
fn method_and_content_coding_count() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let handler = async |Path(request): Path<i64>, mut tx: Tx| {
            add_effect(&mut tx, request).await?;
            Ok::<_, Error>("done")
        };
        let layer = interlock.require(anyone).idempotent();
        let app = Router::new().route("/effects/{request}", any(handler).layer(layer));
        let request = |method: Method, coding: &str| {
            let request = Request::builder().method(method).uri("/effects/1");
            let request = request.header("x-user", "1").header("idempotency-key", "a");
            let request = request.header("content-encoding", coding);
            request.body(Body::from("body")).unwrap()
        };
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            let response = send(&app, request(method, "identity")).await;
            assert_eq!(response.outcome(), Outcome::Committed);
        }
        let other = send(&app, request(Method::POST, "gzip")).await;
        other.assert_problem(ErrorKind::IdempotencyKeyReused);
        assert_eq!(count_effects(&kit, 1).await, 3);
    });
}

/// Its connection for the next transaction and that for the look at its key must not be two.
#[test]
fn copy_that_is_retried_needs_one_connection() {
    test_with_pool(1, async |kit| {
        let interlock = prepare(&kit).await;
        let outside = kit.outside.clone();
        let handler = async move |Path(request): Path<i64>, mut tx: Tx| {
            conflict_once(&mut tx, &outside).await?;
            add_effect(&mut tx, request).await?;
            Ok::<_, Error>("done")
        };
        let app = idempotent_route(&interlock, post(handler));
        let begin = Instant::now();
        let response = send(&app, keyed(1, "a")).await;
        assert_eq!(
            (response.status.as_u16(), response.report().attempts()),
            (200, 2)
        );
        // `acquire` waits for five.
        assert!(
            begin.elapsed() < Duration::from_secs(4),
            "{:?}",
            begin.elapsed()
        );
    });
}
