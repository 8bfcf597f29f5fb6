//! How an interlock is made, and the settings of routes.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::{Request, header},
};
use futures::stream;
use tower_interlock::{
    Authorized, Condition, ConditionalWrite, Error, ErrorKind, Interlock, Outcome, Tx,
};

use crate::kit::{
    CanEdit, anyone, can_edit, conflict, guarded, never, note, put, send, test, update, write,
};

#[test]
fn connect_makes_a_pool_and_serves() {
    test(async |kit| {
        let interlock = Interlock::connect(&kit.database.url()).await.unwrap();
        let app = guarded(interlock.require(can_edit), update);
        assert_eq!(put(&app, "/1", "new").await.status, 200);
        assert_eq!(kit.body(1).await, "new");
        interlock.drain().await;
    });
}

#[test]
fn connect_rejects_malformed_url() {
    test(async |_| {
        let error = Interlock::connect("no url").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
    });
}

#[test]
fn connect_without_a_server_is_unavailable() {
    test(async |_| {
        let error = Interlock::connect("postgres://nobody@127.0.0.1:1/none").await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn layer_deadline_overrides_that_of_the_interlock() {
    test(async |kit| {
        let layer = kit.interlock.require(anyone);
        let layer = layer.deadline(Duration::from_millis(200));
        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            std::future::pending::<Result<(), Error>>().await
        };
        let response = put(&guarded(layer, handler), "/1", "").await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn layer_attempts_override_those_of_the_interlock() {
    test(async |kit| {
        let outside = kit.outside.clone();
        let handler =
            move |mut tx: Tx| async move { Ok::<_, Error>(conflict(&mut tx, &outside).await?) };
        let layer = kit.interlock.require(anyone).max_attempts(2);
        let response = put(&guarded(layer, handler), "/1", "").await;
        response.assert_problem(ErrorKind::RetriesExhausted);
        assert_eq!(response.report().attempts(), 2);
    });
}

#[test]
fn layer_body_settings_override_those_of_the_interlock() {
    test(async |kit| {
        let layer = kit.interlock.require(anyone).body_limit(3);
        let response = put(&guarded(layer, never), "/1", "four").await;
        response.assert_problem(ErrorKind::BodyTooLarge);

        let layer = kit.interlock.require(anyone);
        let layer = layer.body_timeout(Duration::from_millis(50));
        let endless = Body::from_stream(stream::pending::<Result<Bytes, Error>>());
        let request = Request::put("/1").body(endless).unwrap();
        let response = send(&guarded(layer, never), request).await;
        response.assert_problem(ErrorKind::BodyTimeout);
    });
}

#[test]
fn named_policy_is_reported_by_its_name() {
    test(async |kit| {
        let layer = kit.interlock.require(anyone).named("anyone at all");
        let app = guarded(layer, write).route_layer(kit.interlock.require(anyone));
        let response = put(&app, "/1", "").await;
        let [outer, inner] = response.report().policies() else {
            panic!("{:?}", response.report());
        };
        assert!(outer.ends_with("anyone"));
        assert_eq!(*inner, "anyone at all");
    });
}

#[test]
fn unauthenticated_caller_gets_401_with_the_challenge() {
    async fn policy() -> Result<(), Error> {
        Err(Error::unauthenticated("Bearer"))
    }
    test(async |kit| {
        let response = put(&guarded(kit.interlock.require(policy), never), "/1", "").await;
        response.assert_problem(ErrorKind::Unauthenticated);
        assert_eq!(response.status, 401);
        assert_eq!(response.header(header::WWW_AUTHENTICATE), Some("Bearer"));
        assert_eq!(response.outcome(), Outcome::NoTransaction);
    });
}

#[test]
fn failed_authentication_of_a_conditional_write_is_401_with_the_challenge() {
    static WRITE: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE id = $1 AND {conditions} RETURNING version",
        &[Condition::authenticated(
            "EXISTS (SELECT 1 FROM grants WHERE user_id = $1)",
            "Bearer",
        )],
    );
    test(async |kit| {
        let version: i64 = WRITE
            .bind(1_i64)
            .fetch_scalar(&kit.interlock)
            .await
            .unwrap();
        assert_eq!(version, 0);
        let interlock = kit.interlock.clone();
        let handler = async move || {
            let version: i64 = WRITE.bind(2_i64).fetch_scalar(&interlock).await?;
            Ok::<_, Error>(version.to_string())
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::Unauthenticated);
        assert_eq!(response.header(header::WWW_AUTHENTICATE), Some("Bearer"));
        assert_eq!(kit.body(2).await, "old");
    });
}

#[test]
fn handler_can_be_called_with_an_unchecked_proof() {
    async fn handler(can: Authorized<CanEdit>) -> i64 {
        can.document
    }
    test(async |_| {
        let proof = Authorized::unchecked_for_tests(CanEdit { document: 7 });
        assert_eq!(handler(proof).await, 7);
    });
}

#[test]
fn missing_row_is_a_404_as_a_response_and_no_404_elsewhere() {
    test(async |kit| {
        let missing = sqlx::query_scalar::<_, i64>("SELECT id FROM documents WHERE id = 99");
        let error = kit
            .interlock
            .transact(async |mut tx: Tx| {
                let missing = sqlx::query_scalar("SELECT id FROM documents WHERE id = 99");
                Ok::<i64, Error>(missing.fetch_one(&mut tx).await?)
            })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RowNotFound);
        let error = Error::from(missing.fetch_one(&kit.outside).await.unwrap_err());
        assert_eq!(error.kind(), ErrorKind::RowNotFound);
        let handler = async |mut tx: Tx| {
            let missing = sqlx::query_scalar("SELECT id FROM documents WHERE id = 99");
            let id: i64 = missing.fetch_one(&mut tx).await?;
            Ok::<_, Error>(id.to_string())
        };
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::NotFound);
    });
}
