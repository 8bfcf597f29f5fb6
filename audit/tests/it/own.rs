//! The interlock's own statements, which are no statements of the service.

use std::time::Duration;

use axum::{Router, extract::State, routing::post};
use http::{HeaderValue, Method, StatusCode, header, request::Parts};
use sqlx::{Executor as _, PgPool};
use support::Database;
use tower_interlock::{
    Authorized, Denied, Error, Interlock, Receipts, Tx,
    jobs::{Job, RunningJob},
    schema::{JOBS, RECEIPTS},
};
use tower_interlock_audit::{Audit, Recorder, Statement, Trace};

use crate::{
    kit::{pool, request, test},
    service::{CanEdit, User},
};

const KINDS: [&str; 3] = ["done", "denied", "failed"];

/// The service writes on the queue by itself, too.
const CLEAR: &str = "DELETE FROM interlock_jobs WHERE runs < 7";

async fn order(_: Authorized<CanEdit>, mut tx: Tx) -> Result<(), Error> {
    for kind in KINDS {
        tx.enqueue(Job::new(kind, ()).unique("one")).await?;
    }
    Ok(())
}

async fn clear(State(pool): State<PgPool>) -> Result<(), Error> {
    pool.execute(CLEAR).await?;
    Ok(())
}

async fn may_edit(User(user): User, mut tx: Tx) -> Result<CanEdit, Error> {
    let check = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1)";
    let allowed: bool = sqlx::query_scalar(check)
        .bind(user)
        .fetch_one(&mut tx)
        .await?;
    Denied::unless(allowed, "no grant")?;
    Ok(CanEdit)
}

struct Service {
    recorder: Recorder,
    interlock: Interlock,
    app: Router,
}

impl Service {
    async fn start(database: &Database) -> Self {
        database.run(RECEIPTS).await;
        database.run(JOBS).await;
        let recorder = Recorder::new();
        let pool = pool(database);
        let interlock = Interlock::builder(pool.clone())
            .receipts(Receipts::new().record_denials())
            .principal(|parts: &Parts| {
                let user = parts.headers.get(header::AUTHORIZATION)?;
                Some(user.to_str().ok()?.to_owned())
            })
            .jobs()
            .observe(recorder.clone())
            .build();
        let edit = interlock.require(may_edit).named("edit").idempotent();
        let app = Router::new()
            .route("/orders", post(order).route_layer(edit))
            .route("/clear", post(clear))
            .with_state(pool)
            .layer(recorder.layer());
        Self {
            recorder,
            interlock,
            app,
        }
    }

    async fn post(&self, path: &str, user: &str) -> StatusCode {
        let mut request = request(Method::POST, path, user);
        let key = HeaderValue::from_static("one");
        request.headers_mut().insert("idempotency-key", key);
        let (response, _) = self.recorder.send(&self.app, request).await;
        response.status()
    }

    /// Runs the jobs until one is done, one is denied and one is parked.
    async fn run_jobs(&self) {
        let worker = self.interlock.worker().max_runs(1);
        let worker = worker
            .poll_interval(Duration::from_millis(50))
            .on("done", async |_: RunningJob<()>, mut tx: Tx| {
                let write = "UPDATE documents SET body = 'exported'";
                sqlx::query(write).execute(&mut tx).await?;
                Ok::<_, Error>(())
            })
            .on("denied", async |_: RunningJob<()>, _: Tx| {
                Denied::unless(false, "revoked")
            })
            .on("failed", async |_: RunningJob<()>, _: Tx| {
                Err(Error::not_found())
            });
        let jobs = self.interlock.jobs();
        worker
            .run(async {
                while jobs.state().await.unwrap().len() != 2
                    || jobs.ended(9).await.unwrap().len() != 2
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await
            .unwrap();
    }

    /// What operators and cleaners do.
    async fn operate(&self) {
        let jobs = self.interlock.jobs();
        for job in jobs.ended(9).await.unwrap() {
            let _ = jobs.retry(job.id).await.unwrap();
            let _ = jobs.discard(job.id).await.unwrap();
        }
        jobs.discard_older(Duration::ZERO).await.unwrap();
        self.interlock.purge_receipts().await.unwrap();
        self.interlock.drain().await;
    }
}

/// The statements on the tables of the interlock, by their text.
fn of_own_tables(trace: &Trace) -> Vec<&str> {
    let requests = trace
        .exchanges
        .iter()
        .flat_map(|exchange| &exchange.statements);
    let is_it = |statement: &&Statement| {
        let mut tables = statement.reads.iter().chain(&statement.writes);
        tables.any(|table| table.starts_with("interlock_"))
    };
    let found = requests.chain(&trace.elsewhere).filter(is_it);
    found.map(|statement| &*statement.sql).collect()
}

#[test]
fn own_statements_are_not_recorded_and_those_of_the_service_on_the_same_tables_are() {
    test(async |database| {
        let service = Service::start(&database).await;
        assert_eq!(service.post("/orders", "alice").await, StatusCode::OK);
        assert_eq!(service.post("/orders", "alice").await, StatusCode::OK);
        assert_eq!(
            service.post("/orders", "mallory").await,
            StatusCode::FORBIDDEN
        );
        service.run_jobs().await;
        service.operate().await;
        let trace = service.recorder.trace();
        assert_eq!(of_own_tables(&trace), [""; 0]);
        let mut elsewhere = trace.elsewhere.iter();
        assert!(elsewhere.any(|statement| statement.writes == ["documents"]));

        assert_eq!(service.post("/clear", "alice").await, StatusCode::OK);
        let trace = service.recorder.trace();
        assert_eq!(
            of_own_tables(&trace),
            ["DELETE FROM interlock_jobs WHERE runs < ?"]
        );
        let cleared = &trace.exchanges[3];
        assert_eq!(cleared.statements[0].writes, ["interlock_jobs"]);
    });
}

#[test]
fn write_of_the_service_on_the_queue_is_a_finding() {
    test(async |database| {
        let service = Service::start(&database).await;
        let _ = service.post("/orders", "alice").await;
        let _ = service.post("/clear", "alice").await;
        let findings = Audit::new().trace(service.recorder.trace()).run();
        let found: Vec<_> = findings
            .findings
            .iter()
            .map(|finding| (finding.rule.id(), finding.operation.as_deref()))
            .collect();
        assert_eq!(found, [("IL001", Some("POST /clear"))], "{findings}");
    });
}
