//! Jobs by apalis: pushed in the transaction of the request, authorized again when they run.
//!
//! `push_tasks` takes the `Tx`, so a job exists exactly if the request commits. The worker calls
//! the same rule inside of `transact`. A denial ends the job; the id of the task as idempotency key
//! makes its effects happen once, also if the worker dies before it says that it is done.
//! PostgreSQL only.
//!
//! Run it with `cargo run -p with-apalis` in `ecosystem/`.

use std::time::Duration;

use apalis::prelude::*;
use apalis_postgres::PostgresStorage;
use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{self, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};
use tour::{Kind, Revocation, Tour};
use tower_interlock::{
    Authorized, Denied, Error, ErrorKind, Interlock, Receipts, Tx, schema::RECEIPTS,
};

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    CREATE TABLE exports (document_id INT8 PRIMARY KEY, user_name TEXT NOT NULL, body TEXT);
    INSERT INTO documents VALUES (7, 'secret plans'), (8, 'public plans');
    INSERT INTO grants VALUES ('ada', 7), ('ada', 8);
";

/// The payload. It says who has ordered the export, and carries no permission.
#[derive(Clone, Serialize, Deserialize)]
struct Export {
    user: String,
    document: i64,
}

/// The rule, for the request and for the job. It returns what the job needs.
async fn may_export(tx: &mut Tx, user: &str, document: i64) -> Result<Export, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";
    let allowed: bool = sqlx::query_scalar(rule).bind(user).bind(document).fetch_one(tx).await?;
    Denied::unless(allowed, "no grant for the document")?;
    let user = user.to_owned();
    Ok(Export { user, document })
}

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

async fn can_order(
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<Export, Error> {
    may_export(&mut tx, user, document).await
}

async fn order(export: Authorized<Export>, mut tx: Tx) -> Result<StatusCode, Response> {
    let export = serde_json::to_vec(&*export);
    let export = export.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())?;
    let task = TaskBuilder::new(export).build();
    match apalis_postgres::queries::push_tasks(&mut tx, QUEUE, vec![task]).await {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(apalis_postgres::Error::Database(error)) => Err(Error::from(error).into_response()),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
    }
}

const QUEUE: &str = "exports";

/// The handler of the job.
async fn export(job: Export, id: TaskId, interlock: Data<Interlock>) -> Result<(), BoxDynError> {
    let transaction = interlock.transaction().named("exports.make");
    let made = transaction
        .principal(&job.user)
        .idempotency_key(id.to_string())
        .run(async |mut tx: Tx| {
            let can = may_export(&mut tx, &job.user, job.document).await?;
            sqlx::query("INSERT INTO exports SELECT id, $2, body FROM documents WHERE id = $1")
                .bind(can.document)
                .bind(can.user)
                .execute(&mut tx)
                .await?;
            Ok::<_, Error>(())
        })
        .await;
    println!("  worker: export of document {}: {made:?}", job.document);
    match made {
        Err(error) if error.kind() == ErrorKind::Denied => Err(AbortError::new(error).into()),
        Err(error) if error.kind() == ErrorKind::AlreadyDone => Ok(()),
        made => Ok(made?),
    }
}

fn app(interlock: &Interlock) -> Router {
    let can_order = interlock.require(can_order);
    Router::new().route("/documents/{id}/exports", post(order).route_layer(can_order))
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("apalis", SCHEMA, &["grants"]).await?;
    if tour.kind() == Kind::CockroachDb {
        println!("apalis-postgres needs PostgreSQL: its migrations have PL/pgSQL and NOTIFY");
        return tour.end().await;
    }
    tour.run(RECEIPTS).await;
    let pool = Interlock::pool_options().max_connections(4);
    let pool = pool.connect_with(tour.options()).await?;
    PostgresStorage::setup(&pool).await?;
    let interlock = Interlock::builder(pool.clone()).receipts(Receipts::new()).build();
    let app = app(&interlock);

    for document in [7, 8] {
        let title = format!("ada orders an export of document {document}");
        tour::send(&app, &title, order_by_ada(document), StatusCode::ACCEPTED).await?;
    }
    tour.change("DELETE FROM grants WHERE user_name = 'ada' AND document_id = 7").await?;

    println!("the worker starts");
    let config = apalis_postgres::Config::default().queue(QUEUE);
    let storage = PostgresStorage::<Export>::new(&pool).with_config(config);
    let worker =
        WorkerBuilder::new("exporter").backend(storage).data(interlock.clone()).build(export);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let working = tokio::spawn(worker.run_until(async move {
        drop(stopped.await);
        Ok::<_, std::io::Error>(())
    }));
    let live = "SELECT count(*) FROM apalis.jobs WHERE status NOT IN ('Done', 'Killed')";
    while tour.read::<i64>(live).await? > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(stop);
    working.await??;
    let exports: Vec<i64> = tour.read("SELECT array_agg(document_id) FROM exports").await?;
    println!("exports: of documents {exports:?}");
    assert_eq!(exports, [8]);

    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              DELETE FROM apalis.jobs",
        revoke: "DELETE FROM grants WHERE document_id = 7",
        effect: "SELECT count(*) FROM apalis.jobs",
    };
    tour.race(&app, || order_by_ada(7), revocation).await?;

    interlock.drain().await;
    pool.close().await;
    tour.end().await
}

fn order_by_ada(document: i64) -> http::Result<http::Request<Body>> {
    http::Request::post(format!("/documents/{document}/exports"))
        .extension(User("ada"))
        .body(Body::empty())
}
