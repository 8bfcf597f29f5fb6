//! A conditional write: the check is in the WHERE clause of the update.

use axum::{
    Extension, Router,
    extract::{Path, State},
    routing::put,
};
use tower_interlock::{Condition, ConditionalWrite, Error, Interlock};

use super::{PATH, User};

pub(super) fn router(interlock: Interlock) -> Router {
    Router::new().route(PATH, put(update)).with_state(interlock)
}

static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = $3, version = version + 1 WHERE id = $2 AND {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)",
    )],
);

async fn update(
    Extension(User(user)): Extension<User>,
    State(interlock): State<Interlock>,
    Path(id): Path<i64>,
    body: String,
) -> Result<(), Error> {
    let update = UPDATE.bind(user).bind(id).bind(body);
    update.execute(&interlock).await?;
    Ok(())
}
