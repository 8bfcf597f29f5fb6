//! HTTP around the layer: codings, headers, limits and preconditions.

use std::{fs, path::Path as File};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Path},
    http::{HeaderName, Request, StatusCode, header},
    middleware::map_response,
    response::{AppendHeaders, IntoResponse as _, Response},
    routing::any,
};
use sqlx::AssertSqlSafe;
use tower_http::compression::CompressionLayer;
use tower_interlock::{
    Condition, ConditionalWrite, Denied, Error, ErrorKind, Interlock, Outcome, Tx,
    precondition::{ETag, IfMatch, IfNoneMatch},
};

use crate::kit::{TestResponse, anyone, conflict_once, guarded, note, put, read, send, test};

// 304

const LONG: &str = "a body that is long enough to be worth the trouble of compressing it at all";

async fn document(seen: IfNoneMatch, mut tx: Tx) -> Result<Response, Error> {
    let version = sqlx::query_scalar("SELECT version FROM documents WHERE id = 1");
    Ok(seen.not_modified_or(version.fetch_one(&mut tx).await?, || LONG))
}

async fn get_compressed(app: &Router, tag: &str) -> TestResponse {
    let request = Request::get("/1")
        .header(header::ACCEPT_ENCODING, "gzip")
        .header(header::IF_NONE_MATCH, tag);
    let response = tower::ServiceExt::oneshot(app.clone(), request.body(Body::empty()).unwrap());
    let (parts, body) = response.await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let length = Body::from(format!("{} bytes", bytes.len()));
    read(Response::from_parts(parts, length)).await
}

#[test]
fn not_modified_through_compression_has_no_coding_and_no_body() {
    test(async |kit| {
        let layer = || kit.interlock.require(anyone);
        let route = || Router::new().route("/{id}", any(document));
        let inside = route()
            .route_layer(CompressionLayer::new())
            .route_layer(layer());
        let outside = route().route_layer(layer()).layer(CompressionLayer::new());
        for app in [outside, inside] {
            let full = get_compressed(&app, "\"7\"").await;
            assert_eq!(full.status, 200);
            assert_eq!(full.header(header::CONTENT_ENCODING), Some("gzip"));

            let response = get_compressed(&app, "\"0\"").await;
            assert_eq!(response.status, 304);
            assert_eq!(response.header(header::ETAG), Some("\"0\""));
            assert_eq!(response.header(header::CONTENT_ENCODING), None);
            assert_eq!(response.header(header::CONTENT_LENGTH), None);
            assert_eq!(response.body, "0 bytes");
        }
    });
}

// Headers

fn render(error: &Error) -> Response {
    (error.status(), "rendered").into_response()
}

#[track_caller]
fn assert_rendered(response: &TestResponse, status: u16) {
    assert_eq!(
        (response.status.as_u16(), &*response.body),
        (status, "rendered")
    );
    let text = Some("text/plain; charset=utf-8");
    assert_eq!(response.header(header::CONTENT_TYPE), text);
    let length = response.header(header::CONTENT_LENGTH);
    assert!(length.is_none_or(|length| length == "8"), "{length:?}");
    assert!(response.error().is_some());
}

fn values(response: &TestResponse, name: HeaderName) -> Vec<&str> {
    let values = response.headers().get_all(name).iter();
    values.map(|value| value.to_str().unwrap()).collect()
}

#[test]
fn rendered_error_keeps_the_handlers_headers() {
    test(async |kit| {
        let interlock = kit.builder().error_response(render).build();
        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await.unwrap();
            let cookies = AppendHeaders([(header::SET_COOKIE, "a=1"), (header::SET_COOKIE, "b=2")]);
            let bearer = [(header::WWW_AUTHENTICATE, "Bearer")];
            (bearer, cookies, Error::not_found())
        };
        let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        assert_rendered(&response, 404);
        assert_eq!(values(&response, header::WWW_AUTHENTICATE), ["Bearer"]);
        assert_eq!(values(&response, header::SET_COOKIE), ["a=1", "b=2"]);
        assert_eq!(response.outcome(), Outcome::RolledBack);
        assert_eq!(kit.notes().await, [0_i64; 0]);
    });
}

#[test]
fn rendered_denial_keeps_the_policys_headers() {
    test(async |kit| {
        let interlock = kit.builder().error_response(render).build();
        let policy = async || {
            let bearer = [(header::WWW_AUTHENTICATE, "Bearer")];
            Err::<(), _>((bearer, Denied::new("who?")))
        };
        let response = put(&guarded(interlock.require(policy), async || ()), "/1", "").await;
        assert_rendered(&response, 403);
        assert_eq!(values(&response, header::WWW_AUTHENTICATE), ["Bearer"]);
    });
}

#[test]
fn rendered_error_keeps_the_headers_of_middleware_inside() {
    test(async |kit| {
        let interlock = kit.builder().error_response(render).build();
        let mark = map_response(async |mut response: Response| {
            let mark = header::HeaderValue::from_static("*");
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, mark);
            response
        });
        let app = Router::new()
            .route("/{id}", any(async || Error::not_found()))
            .route_layer(mark)
            .route_layer(interlock.require(anyone));
        let response = put(&app, "/1", "").await;
        assert_rendered(&response, 404);
        assert_eq!(
            values(&response, header::ACCESS_CONTROL_ALLOW_ORIGIN),
            ["*"]
        );
    });
}

/// The headers of the renderer take precedence, and no header of the replaced body is left.
#[test]
fn rendered_error_replaces_the_headers_that_it_sets_and_those_of_the_body() {
    test(async |kit| {
        let render = |error: &Error| {
            let retry = [(header::RETRY_AFTER, "7")];
            (error.status(), retry, "rendered").into_response()
        };
        let interlock = kit.builder().error_response(render).build();
        let handler = async || {
            let before = [
                (header::RETRY_AFTER, "1"),
                (header::CONTENT_ENCODING, "gzip"),
                (header::CONTENT_LANGUAGE, "de"),
                (header::VARY, "origin"),
            ];
            (before, Error::not_found())
        };
        let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        assert_rendered(&response, 404);
        assert_eq!(values(&response, header::RETRY_AFTER), ["7"]);
        assert_eq!(values(&response, header::VARY), ["origin"]);
        assert_eq!(values(&response, header::CONTENT_ENCODING), [""; 0]);
        assert_eq!(values(&response, header::CONTENT_LANGUAGE), [""; 0]);
    });
}

/// The layer sets the header.
#[test]
fn rendered_error_keeps_retry_after() {
    test(async |kit| {
        let interlock = kit.builder().error_response(render).max_attempts(1).build();
        let outside = kit.outside.clone();
        let handler =
            async move |mut tx: Tx| Ok::<_, Error>(conflict_once(&mut tx, &outside).await?);
        let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        assert_rendered(&response, 503);
        assert_eq!(values(&response, header::RETRY_AFTER), ["1"]);
    });
}

// Limits

async fn upload(app: &Router, bytes: usize) -> TestResponse {
    let request = Request::put("/1").body(Body::from(vec![b'x'; bytes]));
    send(app, request.unwrap()).await
}

fn length(interlock: &Interlock) -> Router {
    guarded(interlock.require(anyone), async |body: String| {
        body.len().to_string()
    })
}

const MIB: usize = 1024 * 1024;

#[test]
fn body_limit_alone_admits_a_larger_body() {
    test(async |kit| {
        let app = length(&kit.builder().body_limit(10 * MIB).build());
        let response = upload(&app, 3 * MIB).await;
        assert_eq!(
            (response.status.as_u16(), &*response.body),
            (200, "3145728")
        );
        upload(&app, 11 * MIB)
            .await
            .assert_problem(ErrorKind::BodyTooLarge);
    });
}

#[test]
fn default_body_limit_alone_admits_a_larger_body() {
    test(async |kit| {
        let app = length(&kit.interlock).layer(DefaultBodyLimit::max(10 * MIB));
        let response = upload(&app, 3 * MIB).await;
        assert_eq!(
            (response.status.as_u16(), &*response.body),
            (200, "3145728")
        );
        assert_eq!(upload(&app, 11 * MIB).await.status, 413);
    });
}

#[test]
fn default_body_limit_that_is_smaller_counts() {
    test(async |kit| {
        let app = length(&kit.interlock).layer(DefaultBodyLimit::max(10));
        assert_eq!(upload(&app, 10).await.status, 200);
        assert_eq!(upload(&app, 11).await.status, 413);
    });
}

/// The limit of the layer counts, whether it is smaller or larger.
#[test]
fn body_limit_takes_the_place_of_a_default_body_limit() {
    test(async |kit| {
        for (own, outside) in [(20, 10), (20, 30)] {
            let layer = kit.interlock.require(anyone).body_limit(own);
            let app = guarded(layer, async |body: String| body.len().to_string());
            let app = app.layer(DefaultBodyLimit::max(outside));
            assert_eq!(upload(&app, own).await.body, own.to_string());
            let larger = upload(&app, own + 1).await;
            larger.assert_problem(ErrorKind::BodyTooLarge);
        }
    });
}

#[test]
fn default_body_limit_inside_of_the_layer_counts_as_well() {
    test(async |kit| {
        let app = Router::new()
            .route("/{id}", any(async |body: String| body.len().to_string()))
            .route_layer(DefaultBodyLimit::max(10))
            .route_layer(kit.interlock.require(anyone).body_limit(20));
        assert_eq!(upload(&app, 10).await.body, "10");
        assert_eq!(upload(&app, 11).await.status, 413);
    });
}

#[test]
fn body_over_no_set_limit_is_rejected_as_a_problem() {
    test(async |kit| {
        let app = length(&kit.interlock);
        upload(&app, 3 * MIB)
            .await
            .assert_problem(ErrorKind::BodyTooLarge);
    });
}

// Preconditions

/// The condition of the documentation, in an upsert.
static UPSERT: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id, body) SELECT $1, $2 WHERE {conditions}
     ON CONFLICT (id) DO UPDATE SET body = $2, version = documents.version + 1 RETURNING version",
    &[Condition::current(
        "(SELECT version FROM documents WHERE id = $1) = ANY ($3)
         OR ($3 IS NULL AND EXISTS (SELECT 1 FROM documents WHERE id = $1))",
    )],
);

async fn upsert(Path(id): Path<i64>, seen: IfMatch, mut tx: Tx) -> Result<ETag, Error> {
    let write = UPSERT.bind(id).bind("new").bind(seen.versions());
    let (version,) = write.fetch_one(&mut tx).await?;
    Ok(ETag::new(version))
}

async fn put_if_match(app: &Router, path: &str, lines: &[&[u8]]) -> TestResponse {
    let mut request = Request::put(path);
    for line in lines {
        request = request.header(header::IF_MATCH, *line);
    }
    send(app, request.body(Body::empty()).unwrap()).await
}

#[test]
fn if_match_any_does_not_create() {
    test(async |kit| {
        let app = guarded(kit.interlock.require(anyone), upsert);
        put_if_match(&app, "/99", &[b"*"])
            .await
            .assert_problem(ErrorKind::PreconditionFailed);
        let made: i64 = sqlx::query_scalar("SELECT count(*) FROM documents WHERE id = 99")
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        assert_eq!(made, 0);

        let response = put_if_match(&app, "/1", &[b"*"]).await;
        assert_eq!(response.header(header::ETAG), Some("\"1\""));
        assert_eq!(kit.body(1).await, "new");
    });
}

/// No text of the crate recommends a condition that is true without a row.
#[test]
fn documented_conditions_for_if_match_any_ask_for_the_row() {
    let root = File::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![root.join("README.md")];
    let mut folders = vec![root.join("src"), root.join("examples"), root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("rs" | "md" | "sql") => texts.push(path),
                _ if path.is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    let mut found = 0;
    for path in texts {
        let text = one_line(&fs::read_to_string(&path).unwrap());
        for (at, subquery) in text.match_indices("(SELECT version FROM documents") {
            let condition = text[at..].split(['"', '`']).next().unwrap();
            // The subquery is NULL without a row, and the other side is true.
            let open = condition[subquery.len()..].contains("IS NULL")
                && !condition.contains("EXISTS (SELECT 1 FROM documents");
            assert!(!open, "{} creates: {condition}", path.display());
            found += 1;
        }
    }
    assert!(found > 0, "no condition is documented");
}

/// The text without comment markers and continuations, with one space between its words.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.trim_start();
        let line = ["///", "//!", "//", "--"]
            .iter()
            .find_map(|marker| line.strip_prefix(marker))
            .unwrap_or(line);
        line.trim_end_matches('\\')
    });
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ")
}

#[test]
fn one_line_joins_the_lines_of_a_condition() {
    for text in [
        "/// (SELECT version\n///     FROM documents)",
        "-- (SELECT  version\n--\n-- FROM documents)",
        "\"(SELECT version \\\n   FROM documents)\"",
    ] {
        let line = one_line(text);
        assert!(line.contains("(SELECT version FROM documents)"), "{line}");
    }
}

#[test]
fn malformed_if_match_never_writes() {
    test(async |kit| {
        let optional = async |Path(id): Path<i64>, seen: Option<IfMatch>, mut tx: Tx| {
            let write = "UPDATE documents SET version = version + 1
                          WHERE id = $1 AND (version = ANY ($2) OR $3)";
            let versions = seen.as_ref().and_then(IfMatch::versions);
            let any = seen.as_ref().is_none_or(|seen| seen == &IfMatch::Any);
            let write = sqlx::query(AssertSqlSafe(write))
                .bind(id)
                .bind(versions)
                .bind(any);
            let done = write.execute(&mut tx).await?;
            match done.rows_affected() {
                0 => Err(Error::precondition_failed()),
                _ => Ok(()),
            }
        };
        let required = guarded(kit.interlock.require(anyone), upsert);
        let optional = guarded(kit.interlock.require(anyone), optional);
        let lines: [&[&[u8]]; 11] = [
            &[b"0"],
            &[b"\"0"],
            &[b"0\""],
            &[b"\"0\" \"1\""],
            &[b"*, \"0\""],
            &[b"*", b"*"],
            &[b"*", b"\"0\""],
            &[b"**"],
            &[b"w/\"0\""],
            &[b"\"0\";"],
            &[b"\xff"],
        ];
        for lines in lines {
            for app in [&required, &optional] {
                let response = put_if_match(app, "/1", lines).await;
                assert_eq!(response.status, 400, "{lines:?}");
                response.assert_problem(ErrorKind::InvalidPrecondition);
            }
        }
        for lines in [&[&b""[..]][..], &[b"W/\"0\""], &[b"\"00\""], &[b"\"\""]] {
            for app in [&required, &optional] {
                let response = put_if_match(app, "/1", lines).await;
                assert_eq!(
                    response.status,
                    StatusCode::PRECONDITION_FAILED,
                    "{lines:?}"
                );
            }
        }
        assert_eq!((kit.version(1).await, kit.body(1).await), (0, "old".into()));
    });
}
