//! `If-None-Match: *` on a write creates the row, or does nothing.
//!
//! A list of tags is allowed by RFC 9110 on a write, too ("unless the row is one of these"). A
//! create-only handler cannot grant it: it never overwrites. 412 fails closed, and is not a claim
//! that the client's syntax is wrong.

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode, header},
};
use futures::future::join_all;
use tower_interlock::{
    Condition, ConditionalWrite, Error, ErrorKind, Outcome, Tx,
    precondition::{CreateOnly, ETag, IfMatch},
};

use super::meanwhile;
use crate::kit::{Kit, TestResponse, anyone, guarded, send, test, test_with_pool};

async fn create(
    Path(id): Path<i64>,
    create: CreateOnly,
    mut tx: Tx,
) -> Result<(StatusCode, ETag), Error> {
    let insert = "INSERT INTO documents (id, body) VALUES ($1, 'made') RETURNING version";
    let insert = sqlx::query_scalar(insert).bind(id).fetch_optional(&mut tx);
    let version = create.created(insert.await)?;
    Ok((StatusCode::CREATED, ETag::new(version)))
}

async fn create_quietly(
    Path(id): Path<i64>,
    create: CreateOnly,
    mut tx: Tx,
) -> Result<(StatusCode, ETag), Error> {
    let insert = "INSERT INTO documents (id, body) VALUES ($1, 'made')
                  ON CONFLICT DO NOTHING RETURNING version";
    let insert = sqlx::query_scalar(insert).bind(id).fetch_optional(&mut tx);
    let version = create.created(insert.await)?;
    Ok((StatusCode::CREATED, ETag::new(version)))
}

async fn create_checked(
    Path(id): Path<i64>,
    create: CreateOnly,
    mut tx: Tx,
) -> Result<StatusCode, Error> {
    let there = "SELECT EXISTS (SELECT 1 FROM documents WHERE id = $1)";
    let there = sqlx::query_scalar(there)
        .bind(id)
        .fetch_one(&mut tx)
        .await?;
    create.check(there)?;
    sqlx::query("INSERT INTO documents (id, body) VALUES ($1, 'made')")
        .bind(id)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::CREATED)
}

async fn create_conditionally(
    Path(id): Path<i64>,
    _: CreateOnly,
    mut tx: Tx,
) -> Result<StatusCode, Error> {
    static INSERT: ConditionalWrite = ConditionalWrite::new(
        "INSERT INTO documents (id, body) SELECT $1, 'made' WHERE {conditions}",
        &[Condition::current(
            "NOT EXISTS (SELECT 1 FROM documents WHERE id = $1)",
        )],
    );
    INSERT.bind(id).execute(&mut tx).await?;
    Ok(StatusCode::CREATED)
}

fn apps(kit: &Kit) -> [Router; 4] {
    let layer = || kit.interlock.require(anyone);
    [
        guarded(layer(), create),
        guarded(layer(), create_quietly),
        guarded(layer(), create_checked),
        guarded(layer(), create_conditionally),
    ]
}

async fn put_if_none_match(app: &Router, path: &str, lines: &[&[u8]]) -> TestResponse {
    let mut request = Request::put(path);
    for line in lines {
        request = request.header(header::IF_NONE_MATCH, *line);
    }
    send(app, request.body(Body::empty()).unwrap()).await
}

async fn ids(kit: &Kit) -> Vec<i64> {
    sqlx::query_scalar("SELECT id FROM documents ORDER BY id")
        .fetch_all(&kit.outside)
        .await
        .unwrap()
}

#[test]
fn create_only_makes_a_row_that_is_not_there() {
    test(async |kit| {
        for (id, app) in (10..).zip(apps(&kit)) {
            let response = put_if_none_match(&app, &format!("/{id}"), &[b"*"]).await;
            assert_eq!(
                (response.status.as_u16(), response.outcome()),
                (201, Outcome::Committed)
            );
        }
        assert_eq!(ids(&kit).await, [1, 2, 10, 11, 12, 13]);
    });
}

#[test]
fn create_only_of_a_row_that_is_there_is_a_412() {
    test(async |kit| {
        for app in apps(&kit) {
            let response = put_if_none_match(&app, "/1", &[b"*"]).await;
            response.assert_problem(ErrorKind::PreconditionFailed);
            assert_eq!(response.outcome(), Outcome::RolledBack);
        }
        assert_eq!(kit.body(1).await, "old");
    });
}

#[test]
fn create_only_without_the_header_is_a_428() {
    test(async |kit| {
        for app in apps(&kit) {
            let response = put_if_none_match(&app, "/10", &[]).await;
            response.assert_problem(ErrorKind::PreconditionRequired);
        }
        assert_eq!(ids(&kit).await, [1, 2]);
    });
}

#[test]
fn create_only_with_a_malformed_header_is_a_400_and_writes_nothing() {
    test(async |kit| {
        let optional = async |create: Option<CreateOnly>| match create {
            Some(_) => StatusCode::CREATED,
            None => StatusCode::IM_A_TEAPOT,
        };
        let optional = guarded(kit.interlock.require(anyone), optional);
        let malformed: [&[&[u8]]; 8] = [
            &[b"**"],
            &[b"*", b"*"],
            &[b"*, \"7\""],
            &[b"\"7\"", b"*"],
            &[b"7"],
            &[b"\"*"],
            &[b"* x"],
            &[b"\xff"],
        ];
        for lines in malformed {
            for app in apps(&kit).iter().chain([&optional]) {
                let response = put_if_none_match(app, "/10", lines).await;
                assert_eq!(response.status, 400, "{lines:?}");
                response.assert_problem(ErrorKind::InvalidPrecondition);
            }
        }
        assert_eq!(ids(&kit).await, [1, 2]);
        assert_eq!(put_if_none_match(&optional, "/10", &[]).await.status, 418);
        assert_eq!(
            put_if_none_match(&optional, "/10", &[b" * "]).await.status,
            201
        );
    });
}

#[test]
fn create_only_with_a_list_of_tags_is_a_412_and_writes_nothing() {
    test(async |kit| {
        for lines in [
            &[&b"\"7\""[..]][..],
            &[b"\"*\""],
            &[b"W/\"7\", \"8\""],
            &[b""],
        ] {
            for app in apps(&kit) {
                let response = put_if_none_match(&app, "/10", lines).await;
                assert_eq!(response.status, 412, "{lines:?}");
            }
        }
        assert_eq!(ids(&kit).await, [1, 2]);
    });
}

#[test]
fn create_only_of_a_row_made_meanwhile_is_a_412() {
    test(async |kit| {
        let own = kit.clone();
        let handler = async move |path: Path<i64>, only: CreateOnly, mut tx: Tx| {
            meanwhile(
                &mut tx,
                &own,
                "INSERT INTO documents VALUES (10, 'theirs', 0)",
            )
            .await?;
            create(path, only, tx).await
        };
        let app = guarded(kit.interlock.require(anyone), handler);
        let response = put_if_none_match(&app, "/10", &[b"*"]).await;
        response.assert_problem(ErrorKind::PreconditionFailed);
        assert_eq!(kit.body(10).await, "theirs");
    });
}

#[test]
fn create_only_by_many_at_once_makes_it_once() {
    test_with_pool(8, async |kit| {
        for (id, app) in (10..).zip(apps(&kit)) {
            let path = format!("/{id}");
            let responses = join_all((0..8).map(|_| put_if_none_match(&app, &path, &[b"*"]))).await;
            let mut statuses: Vec<_> = responses
                .iter()
                .map(|response| response.status.as_u16())
                .collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [201, 412, 412, 412, 412, 412, 412, 412]);
        }
        assert_eq!(ids(&kit).await, [1, 2, 10, 11, 12, 13]);
    });
}

/// One route for both: `If-Match` overwrites, `If-None-Match: *` creates, and neither is a 428.
#[test]
fn create_only_beside_if_match_distinguishes_a_create_from_an_update() {
    test(async |kit| {
        let save = async |id: Path<i64>,
                          new: Option<CreateOnly>,
                          seen: Option<IfMatch>,
                          mut tx: Tx| {
            match (new, seen) {
                (Some(new), None) => create(id, new, tx).await.map(|(status, _)| status),
                (None, Some(seen)) => {
                    let update = "UPDATE documents SET version = version + 1
                                   WHERE id = $1 AND (version = ANY ($2) OR $2 IS NULL)";
                    let update = sqlx::query(update)
                        .bind(id.0)
                        .bind(seen.versions().map(<[_]>::to_vec));
                    match update.execute(&mut tx).await?.rows_affected() {
                        0 => Err(Error::precondition_failed()),
                        _ => Ok(StatusCode::OK),
                    }
                }
                _ => Ok(StatusCode::PRECONDITION_REQUIRED),
            }
        };
        let app = guarded(kit.interlock.require(anyone), save);
        assert_eq!(put_if_none_match(&app, "/10", &[b"*"]).await.status, 201);
        assert_eq!(put_if_none_match(&app, "/10", &[b"*"]).await.status, 412);
        assert_eq!(put_if_none_match(&app, "/10", &[]).await.status, 428);
        let request = Request::put("/10").header(header::IF_MATCH, "\"0\"");
        assert_eq!(
            send(&app, request.body(Body::empty()).unwrap())
                .await
                .status,
            200
        );
        assert_eq!(ids(&kit).await, [1, 2, 10]);
    });
}
