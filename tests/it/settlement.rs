//! Every row of the table that says when it commits.

use axum::{Router, routing::put as put_route};
use tower_interlock::{Authorized, Error, ErrorKind, Outcome, Tx};

use crate::kit::{CanEdit, can_edit, note, put, test};

async fn update(
    Authorized(can): Authorized<CanEdit>,
    mut tx: Tx,
    body: String,
) -> Result<String, Error> {
    sqlx::query("UPDATE documents SET body = $2, version = version + 1 WHERE id = $1")
        .bind(can.document)
        .bind(&body)
        .execute(&mut tx)
        .await?;
    Ok(body)
}

#[test]
fn a_success_is_committed() {
    test(async |kit| {
        let app = Router::new().route(
            "/{id}",
            put_route(update).route_layer(kit.interlock.require(can_edit)),
        );
        let answer = put(&app, "/1", "new").await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "new"));
        assert_eq!(answer.outcome(), Outcome::Committed);
        assert_eq!(answer.report().attempts(), 1);
        assert_eq!(kit.body(1).await, "new");
    });
}

#[test]
fn a_denial_is_rolled_back_and_the_handler_never_runs() {
    test(async |kit| {
        let app = Router::new().route(
            "/{id}",
            put_route(update).route_layer(kit.interlock.require(can_edit)),
        );
        let answer = put(&app, "/2", "new").await;
        answer.assert_problem(ErrorKind::Denied);
        assert_eq!(answer.outcome(), Outcome::RolledBack);
        assert_eq!(kit.body(2).await, "old");
    });
}

#[test]
fn a_swallowed_error_is_not_a_success() {
    test(async |kit| {
        async fn handler(mut tx: Tx) -> &'static str {
            note(&mut tx, 1).await.unwrap();
            let _ = note(&mut tx, 1).await;
            "ok"
        }
        let app = Router::new().route(
            "/{id}",
            put_route(handler).route_layer(kit.interlock.require(can_edit)),
        );
        let answer = put(&app, "/1", "").await;
        answer.assert_problem(ErrorKind::Aborted);
        assert!(kit.notes().await.is_empty());
    });
}
