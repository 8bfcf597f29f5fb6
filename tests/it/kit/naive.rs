//! The usual way to run a request in a transaction: middleware that commits on success.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    handler::Handler,
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::put,
};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::sync::Mutex;

use super::Kit;

/// The transaction of a request, in the extensions of the request.
pub(crate) type Naive = Arc<Mutex<Option<Transaction<'static, Postgres>>>>;

/// Commits if the response is a success.
async fn naive(State(pool): State<PgPool>, mut request: Request, next: Next) -> Response {
    let slot: Naive = Arc::new(Mutex::new(Some(pool.begin().await.unwrap())));
    request.extensions_mut().insert(Arc::clone(&slot));
    let response = next.run(request).await;
    let transaction = slot.lock().await.take();
    if response.status().is_success()
        && let Some(transaction) = transaction
    {
        transaction.commit().await.unwrap();
    }
    response
}

/// A router that runs `handler` behind that middleware.
pub(crate) fn naive_app<H, T>(kit: &Kit, handler: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    Router::new()
        .route("/{id}", put(handler))
        .layer(from_fn_with_state(kit.outside.clone(), naive))
}
