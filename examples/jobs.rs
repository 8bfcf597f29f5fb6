//! Jobs: an export that a request leaves behind is authorized when it runs.
//!
//! The rule is one function, called by the policy of the request and by the handler of the job. The
//! first export is ordered, and its permission revoked before the worker runs: it is refused. The
//! second one is made.
//!
//! `cargo run --example jobs` prints what happens as it happens, ends by itself, and fails if a
//! result is not the expected one. It uses the server of `DATABASE_URL` if set; otherwise it starts
//! one for the run.

use std::time::Duration;

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::post,
};
use serde::{Deserialize, Serialize};
use support::{Kind, Server};
use tower::ServiceExt as _;
use tower_interlock::{
    Authorized, Denied, Error, Interlock, Tx,
    jobs::{Job, RunningJob, Worker},
    observe::{JobRunEnded, Observer},
    schema::{JOBS, SERIALIZABLE_GUARD},
};

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    CREATE TABLE exports (document_id INT8 PRIMARY KEY, user_name TEXT NOT NULL, body TEXT NOT NULL);
    INSERT INTO documents VALUES (7, 'secret plans'), (8, 'public plans');
    INSERT INTO grants VALUES ('ada', 7), ('ada', 8);
";

/// On PostgreSQL, lets only SERIALIZABLE transactions change grants.
const ATTACH_GUARD: &str = "
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON grants
        FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    ALTER TABLE grants ENABLE ALWAYS TRIGGER interlock_guard;
";

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(String);

/// Proof that the user may export the document. Only the rule returns it.
#[derive(Clone)]
struct CanExport {
    user: String,
    document: i64,
}

/// The payload of the job: what to do. It carries no permission.
#[derive(Serialize, Deserialize)]
struct Export {
    document: i64,
}

/// The rule, for the request and for the job.
async fn may_export(tx: &mut Tx, user: &str, document: i64) -> Result<CanExport, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";
    let allowed: bool = sqlx::query_scalar(rule)
        .bind(user)
        .bind(document)
        .fetch_one(tx)
        .await?;
    Denied::unless(allowed, "no grant for the document")?;
    let user = user.to_owned();
    Ok(CanExport { user, document })
}

/// The policy of the request.
async fn can_order(
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanExport, Error> {
    may_export(&mut tx, &user, document).await
}

/// The handler of the request: the job is stored exactly if this commits.
async fn order(can: Authorized<CanExport>, mut tx: Tx) -> Result<StatusCode, Error> {
    let document = can.document;
    let job = Job::new("export", Export { document }).unique(document.to_be_bytes());
    tx.enqueue(job).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The handler of the job.
async fn export(job: RunningJob<Export>, mut tx: Tx) -> Result<(), Error> {
    let can = may_export(&mut tx, job.principal()?, job.payload().document).await?;
    sqlx::query("INSERT INTO exports SELECT id, $2, body FROM documents WHERE id = $1")
        .bind(can.document)
        .bind(&can.user)
        .execute(&mut tx)
        .await?;
    Ok(())
}

/// Prints the end of each run.
struct Print;

impl Observer for Print {
    fn job_run_ended(&self, run: &JobRunEnded<'_>) {
        let reason = run.reason.map(|reason| format!(": {reason}"));
        let (kind, end) = (run.kind, run.end);
        println!(
            "  worker: {kind} of {:?}: {end:?}{}",
            run.principal,
            reason.unwrap_or_default()
        );
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?;
    println!("database: {server}");
    let database = server.create_database("jobs").await?;
    for schema in [SCHEMA, JOBS] {
        database.run(schema).await;
    }
    if database.kind() == Kind::PostgreSql {
        database.run(SERIALIZABLE_GUARD).await;
        database.run(ATTACH_GUARD).await;
    }
    let interlock = Interlock::connect_with(database.options(), 8)
        .jobs()
        .principal(|parts| Some(parts.extensions.get::<User>()?.0.clone()))
        .observe(Print)
        .build();
    let orders = post(order).route_layer(interlock.require(can_order));
    let app = Router::new().route("/documents/{id}/exports", orders);

    println!(
        "ada orders an export of document 7: {}",
        send(&app, 7).await?
    );
    interlock
        .transact(async |mut tx: Tx| {
            let revoke = "DELETE FROM grants WHERE user_name = 'ada' AND document_id = 7";
            sqlx::query(revoke).execute(&mut tx).await?;
            Ok::<_, Error>(())
        })
        .await?;
    println!("her grant for document 7 is revoked");

    println!("the worker starts");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker: Worker = interlock.worker().on("export", export);
    let working = tokio::spawn(worker.run(async move { drop(stopped.await) }));
    println!(
        "ada orders an export of document 8: {}",
        send(&app, 8).await?
    );
    while live(&interlock).await? > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(stop);
    working.await??;

    let exports: Vec<i64> = interlock
        .transact(async |mut tx: Tx| {
            let exports = sqlx::query_scalar("SELECT document_id FROM exports");
            Ok::<_, Error>(exports.fetch_all(&mut tx).await?)
        })
        .await?;
    println!("exports: of documents {exports:?}");
    assert_eq!(exports, [8]);
    for job in interlock.jobs().ended(10).await? {
        println!(
            "ended: {} of {:?}, {:?}: {}",
            job.kind, job.principal, job.ending, job.reason
        );
    }

    interlock.drain().await;
    database.drop().await?;
    Ok(())
}

async fn send(app: &Router, document: i64) -> Result<StatusCode, Box<dyn std::error::Error>> {
    let request = Request::post(format!("/documents/{document}/exports"))
        .extension(User("ada".to_owned()))
        .body(Body::empty())?;
    Ok(app.clone().oneshot(request).await?.status())
}

/// The jobs that are due, will be, or are running.
async fn live(interlock: &Interlock) -> Result<u64, Error> {
    let state = interlock.jobs().state().await?;
    Ok(state
        .iter()
        .map(|kind| kind.due + kind.waiting + kind.running)
        .sum())
}
