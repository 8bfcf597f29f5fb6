//! Jobs by Graphile Worker: added in the transaction of the request, authorized again when they
//! run.
//!
//! `graphile_worker.add_job` is a function of the database, so the request calls it on its `Tx`,
//! and a job exists exactly if the request commits. The worker calls the same rule inside of
//! `transact`. PostgreSQL only.
//!
//! Run it with `cargo run -p with-graphile` in `ecosystem/`.

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::post,
};
use graphile_worker::{IntoTaskHandlerResult, TaskHandler, WorkerContext, WorkerOptions};
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

async fn order(export: Authorized<Export>, mut tx: Tx) -> Result<StatusCode, Error> {
    sqlx::query("SELECT graphile_worker.add_job($1, $2::json)")
        .bind(Export::IDENTIFIER)
        .bind(sqlx::types::Json(&*export))
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::ACCEPTED)
}

impl TaskHandler for Export {
    const IDENTIFIER: &'static str = "export";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        let interlock = context.get_ext::<Interlock>().ok_or("no interlock")?;
        let made = make(interlock, &self, *context.job().id()).await;
        println!("  worker: export of document {}: {made:?}", self.document);
        match made {
            // An error would be retried.
            Err(error) if error.kind() == ErrorKind::Denied => Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyDone => Ok(()),
            made => made.map_err(|error| error.to_string()),
        }
    }
}

/// The id of the job as idempotency key makes the export happen once, also if the worker dies
/// before it says that it is done.
async fn make(interlock: &Interlock, job: &Export, id: i64) -> Result<(), Error> {
    let transaction = interlock.transaction().named("exports.make");
    transaction
        .principal(&job.user)
        .idempotency_key(id.to_be_bytes())
        .run(async |mut tx: Tx| {
            let can = may_export(&mut tx, &job.user, job.document).await?;
            sqlx::query("INSERT INTO exports SELECT id, $2, body FROM documents WHERE id = $1")
                .bind(can.document)
                .bind(can.user)
                .execute(&mut tx)
                .await?;
            Ok(())
        })
        .await
}

fn app(interlock: &Interlock) -> Router {
    let can_order = interlock.require(can_order);
    Router::new().route("/documents/{id}/exports", post(order).route_layer(can_order))
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("graphile", SCHEMA, &["grants"]).await?;
    if tour.kind() == Kind::CockroachDb {
        println!("Graphile Worker needs PostgreSQL: its queue is written in PL/pgSQL");
        return tour.end().await;
    }
    tour.run(RECEIPTS).await;
    let pool = Interlock::pool_options().max_connections(4);
    let pool = pool.connect_with(tour.options()).await?;
    let interlock = Interlock::builder(pool.clone()).receipts(Receipts::new()).build();
    let app = app(&interlock);
    // Its statements are made for READ COMMITTED, so the worker has a pool of its own.
    let queue = sqlx::PgPool::connect_with(tour.options()).await?;
    let worker = WorkerOptions::default()
        .pg_pool(queue.clone())
        .define_job::<Export>()
        .add_extension(interlock.clone())
        .init()
        .await?;

    for document in [7, 8] {
        let title = format!("ada orders an export of document {document}");
        tour::send(&app, &title, order_by_ada(document), StatusCode::ACCEPTED).await?;
    }
    tour.change("DELETE FROM grants WHERE user_name = 'ada' AND document_id = 7").await?;

    println!("the worker runs until the queue is empty");
    worker.run_once().await?;
    let exports: Vec<i64> = tour.read("SELECT array_agg(document_id) FROM exports").await?;
    println!("exports: of documents {exports:?}");
    assert_eq!(exports, [8]);

    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              DELETE FROM graphile_worker._private_jobs",
        revoke: "DELETE FROM grants WHERE document_id = 7",
        effect: "SELECT count(*) FROM graphile_worker.jobs",
    };
    tour.race(&app, || order_by_ada(7), revocation).await?;

    interlock.drain().await;
    pool.close().await;
    queue.close().await;
    tour.end().await
}

fn order_by_ada(document: i64) -> axum::http::Result<Request<Body>> {
    Request::post(format!("/documents/{document}/exports"))
        .extension(User("ada"))
        .body(Body::empty())
}
