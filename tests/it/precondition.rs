//! Preconditions, from the header to the row.

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{
        Method, Request, StatusCode,
        header::{CONTENT_LENGTH, ETAG, HeaderName, IF_MATCH, IF_NONE_MATCH},
    },
    response::Response,
    routing::{get, post, put},
};
use futures::future::join_all;
use sqlx::{Encode, Postgres, Type};
use tower_interlock::{
    Error, ErrorKind, Outcome, Tx,
    precondition::{ETag, IfMatch, IfNoneMatch},
};

use crate::kit::{Kit, TestResponse, can_edit, send, test};

/// GET, PUT with a required `If-Match`, and POST with an optional one.
fn app(kit: &Kit) -> Router {
    let layer = kit.interlock.require(can_edit);
    Router::new()
        .route("/{id}", get(read).route_layer(layer.clone().read_only()))
        .route("/{id}", put(update).route_layer(layer.clone()))
        .route("/{id}", post(append).route_layer(layer))
}

async fn read(Path(id): Path<i64>, seen: IfNoneMatch, mut tx: Tx) -> Result<Response, Error> {
    let (body, version): (String, i64) =
        sqlx::query_as("SELECT body, version FROM documents WHERE id = $1")
            .bind(id)
            .fetch_one(&mut tx)
            .await?;
    Ok(seen.not_modified_or(version, || body))
}

async fn update(
    Path(id): Path<i64>,
    expected: IfMatch,
    mut tx: Tx,
    body: String,
) -> Result<(ETag, String), Error> {
    let version = sqlx::query_scalar(
        "UPDATE documents SET body = $3, version = version + 1
         WHERE id = $1 AND (version = ANY ($2) OR $2 IS NULL) RETURNING version",
    )
    .bind(id)
    .bind(expected.versions())
    .bind(&body)
    .fetch_optional(&mut tx)
    .await?
    .ok_or_else(Error::precondition_failed)?;
    Ok((ETag::new(version), body))
}

async fn append(
    Path(id): Path<i64>,
    expected: Option<IfMatch>,
    mut tx: Tx,
    body: String,
) -> Result<(StatusCode, ETag), Error> {
    let version: i64 = sqlx::query_scalar("SELECT version FROM documents WHERE id = $1")
        .bind(id)
        .fetch_one(&mut tx)
        .await?;
    if let Some(expected) = expected {
        expected.check(version)?;
    }
    sqlx::query("UPDATE documents SET body = body || $2, version = version + 1 WHERE id = $1")
        .bind(id)
        .bind(body)
        .execute(&mut tx)
        .await?;
    Ok((StatusCode::NO_CONTENT, ETag::new(version + 1)))
}

async fn request(app: &Router, method: Method, name: HeaderName, lines: &[&str]) -> TestResponse {
    let request = Request::builder().method(method).uri("/1");
    let request = lines
        .iter()
        .fold(request, |request, line| request.header(&name, *line));
    send(app, request.body(Body::from("new")).unwrap()).await
}

async fn if_match(app: &Router, lines: &[&str]) -> TestResponse {
    request(app, Method::PUT, IF_MATCH, lines).await
}

async fn if_none_match(app: &Router, lines: &[&str]) -> TestResponse {
    request(app, Method::GET, IF_NONE_MATCH, lines).await
}

/// Asserts that nothing was written and the response says so.
#[track_caller]
fn assert_rejected(response: &TestResponse, kind: ErrorKind, status: u16) {
    response.assert_problem(kind);
    assert_eq!(response.status, status);
    assert_eq!(response.outcome(), Outcome::RolledBack);
}

#[test]
fn matching_version_is_replaced() {
    test(async |kit| {
        let app = app(&kit);
        let all: [&[&str]; 4] = [
            &[r#""0""#],
            &[r#""7", "1""#],
            &[r#"W/"9", "8""#, r#""2","abc""#],
            &["*"],
        ];
        for (lines, new) in all
            .into_iter()
            .zip([r#""1""#, r#""2""#, r#""3""#, r#""4""#])
        {
            let response = if_match(&app, lines).await;
            assert_eq!(
                response.status,
                StatusCode::OK,
                "{lines:?}: {}",
                response.body
            );
            assert_eq!(response.header(ETAG), Some(new));
            assert_eq!(response.outcome(), Outcome::Committed);
            assert_eq!(version(&kit).await, new);
        }
        assert_eq!(kit.body(1).await, "new");
    });
}

#[test]
fn other_version_is_412() {
    test(async |kit| {
        let app = app(&kit);
        for text in [
            r#""1""#,
            r#"W/"0""#,
            r#""00""#,
            r#""-0""#,
            r#""abc""#,
            r#""9223372036854775808""#,
            "",
        ] {
            let response = if_match(&app, &[text]).await;
            assert_rejected(&response, ErrorKind::PreconditionFailed, 412);
            assert_eq!(response.header(ETAG), None);
        }
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn missing_precondition_is_428() {
    test(async |kit| {
        let response = if_match(&app(&kit), &[]).await;
        assert_rejected(&response, ErrorKind::PreconditionRequired, 428);
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn unreadable_precondition_is_400() {
    test(async |kit| {
        let app = app(&kit);
        for method in [Method::PUT, Method::POST] {
            for lines in [
                &["0"][..],
                &[r#""0"#],
                &[r#""0" "1""#],
                &[r#"*, "0""#],
                &[r#""0""#, "*"],
            ] {
                let response = request(&app, method.clone(), IF_MATCH, lines).await;
                assert_rejected(&response, ErrorKind::InvalidPrecondition, 400);
            }
        }
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn optional_precondition_is_checked_if_present() {
    test(async |kit| {
        let app = app(&kit);
        let append = async |lines| request(&app, Method::POST, IF_MATCH, lines).await;
        let response = append(&[]).await;
        assert_eq!(response.status, StatusCode::NO_CONTENT);
        assert_eq!(response.header(ETAG), Some(r#""1""#));
        assert_rejected(
            &append(&[r#""0""#]).await,
            ErrorKind::PreconditionFailed,
            412,
        );
        assert_eq!(append(&[r#""1""#]).await.status, StatusCode::NO_CONTENT);
        assert_eq!(kit.body(1).await, "oldnewnew");
    });
}

#[test]
fn policy_runs_before_precondition() {
    test(async |kit| {
        sqlx::query("DELETE FROM grants")
            .execute(&kit.outside)
            .await
            .unwrap();
        for lines in [&[][..], &["0"], &[r#""7""#]] {
            let response = if_match(&app(&kit), lines).await;
            assert_rejected(&response, ErrorKind::Denied, 403);
        }
    });
}

#[test]
fn one_of_many_clients_replaces_a_version() {
    test(async |kit| {
        let app = app(&kit);
        for version in 0..5 {
            let expected = ETag::new(version).to_string();
            let lines = [expected.as_str()];
            let responses = join_all((0..16).map(|_| if_match(&app, &lines))).await;
            let (won, lost): (Vec<_>, Vec<_>) = responses
                .iter()
                .partition(|response| response.status == StatusCode::OK);
            assert_eq!(won.len(), 1);
            for response in lost {
                assert_rejected(response, ErrorKind::PreconditionFailed, 412);
            }
        }
        assert_eq!(version(&kit).await, r#""5""#);
    });
}

#[test]
fn current_version_is_304() {
    test(async |kit| {
        let app = app(&kit);
        for lines in [
            &[r#""0""#][..],
            &[r#"W/"0""#],
            &[r#""7", W/"0""#],
            &[r#""7""#, r#""0""#],
            &["*"],
        ] {
            let response = if_none_match(&app, lines).await;
            assert_eq!(response.status, StatusCode::NOT_MODIFIED, "{lines:?}");
            assert_eq!(response.header(ETAG), Some(r#""0""#));
            assert_eq!(response.header(CONTENT_LENGTH), None);
            assert_eq!(response.body, "");
            assert_eq!(response.outcome(), Outcome::Committed);
        }
    });
}

#[test]
fn outdated_version_is_200() {
    test(async |kit| {
        let app = app(&kit);
        for lines in [&[][..], &[""], &[r#""1""#], &[r#""00""#], &["0"], &["*, *"]] {
            let response = if_none_match(&app, lines).await;
            assert_eq!(response.status, StatusCode::OK, "{lines:?}");
            assert_eq!(response.header(ETAG), Some(r#""0""#));
            assert_eq!(response.body, "old");
        }
    });
}

#[test]
fn versions_are_compared_as_rfc_9110_requires() {
    const OR_NULL: &str =
        "SELECT count(*) FROM documents WHERE id = 1 AND (version = ANY ($1) OR $1 IS NULL)";
    const LIST: &str = "SELECT count(*) FROM documents WHERE id = 1 AND (version = ANY ($1))";
    const SUBSELECT: &str = "SELECT count(*) FROM documents WHERE id = 1 AND
        ((SELECT version FROM documents WHERE id = 1) = ANY ($1) OR $1 IS NULL)";
    test(async |kit| {
        for (expected, by_list) in [
            (IfMatch::Any, false),
            (IfMatch::Versions(vec![]), false),
            (IfMatch::Versions(vec![0]), true),
            (IfMatch::Versions(vec![7]), false),
            (IfMatch::Versions(vec![0, 7]), true),
        ] {
            let found = async |sql| found(&kit, sql, expected.versions()).await;
            assert_eq!(found(OR_NULL).await, expected.matches(0), "{expected:?}");
            assert_eq!(found(SUBSELECT).await, expected.matches(0), "{expected:?}");
            assert_eq!(found(LIST).await, by_list, "{expected:?}");
        }
    });
}

#[test]
fn single_version_is_compared_and_none_is_null() {
    const SINGLE: &str = "SELECT count(*) FROM documents WHERE id = 1 AND version = $1";
    test(async |kit| {
        for (versions, is_found) in [(vec![], false), (vec![0], true), (vec![7], false)] {
            let expected = IfMatch::Versions(versions).single().unwrap();
            assert_eq!(found(&kit, SINGLE, expected).await, is_found);
        }
        for several in [IfMatch::Any, IfMatch::Versions(vec![0, 7])] {
            let error = several.single().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidPrecondition);
        }
    });
}

async fn found<'t, T>(kit: &Kit, sql: &'static str, expected: T) -> bool
where
    T: Encode<'t, Postgres> + Type<Postgres> + 't,
{
    let count: i64 = sqlx::query_scalar(sql)
        .bind(expected)
        .fetch_one(&kit.outside)
        .await
        .unwrap();
    count == 1
}

/// The tag of the stored version.
async fn version(kit: &Kit) -> String {
    let version = sqlx::query_scalar("SELECT version FROM documents WHERE id = 1");
    ETag::new(version.fetch_one(&kit.outside).await.unwrap()).to_string()
}
