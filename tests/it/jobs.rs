//! Jobs: enqueued with the request, authorized when they run, done once.

mod authorization;
mod enqueue;
mod faults;
mod lease;
mod load;
mod outcomes;
mod process;
mod queue;
mod workers;

use std::{future::Future, time::Duration};

use support::Kind;
use tower_interlock::{
    Backoff, Denied, Error, Interlock, InterlockBuilder, Tx,
    jobs::{Enqueued, Job, RunningJob, Worker},
    schema::JOBS,
};

use crate::kit::{Kit, test_with_pool};

/// The effects of jobs. Nothing keeps one from being there twice.
const EFFECTS: &str = "
    CREATE TABLE effects (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), item INT8 NOT NULL);
    CREATE TABLE revocations (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), effects INT8 NOT NULL)
";

/// Runs a test with a queue, whose interlock uses it.
fn jobs_test<F, Fut>(body: F)
where
    F: FnOnce(Kit) -> Fut,
    Fut: Future<Output = ()>,
{
    test_with_pool(8, async |mut kit: Kit| {
        kit.database.run(JOBS).await;
        kit.database.run(EFFECTS).await;
        kit.interlock = builder(&kit).build();
        body(kit.clone()).await;
        kit.interlock.drain().await;
    });
}

fn builder(kit: &Kit) -> InterlockBuilder {
    kit.builder()
        .jobs()
        .principal(|parts| parts.headers.get("user")?.to_str().ok().map(str::to_owned))
}

/// The rule, for requests and for jobs: the user has a grant for document 1.
async fn may_act(tx: &mut Tx, user: &str) -> Result<(), Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id::TEXT = $1 AND document_id = 1)";
    let allowed: bool = sqlx::query_scalar(rule).bind(user).fetch_one(tx).await?;
    Ok(Denied::unless(allowed, "no grant")?)
}

async fn add_effect(tx: &mut Tx, item: i64) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO effects (item) VALUES ($1)").bind(item);
    insert.execute(tx).await?;
    Ok(())
}

/// The handler of most tests.
async fn act(job: RunningJob<i64>, mut tx: Tx) -> Result<(), Error> {
    may_act(&mut tx, job.principal()?).await?;
    add_effect(&mut tx, *job.payload()).await?;
    Ok(())
}

/// Enqueues a job as user 1.
async fn enqueue(interlock: &Interlock, job: impl Fn() -> Job + Sync) -> Enqueued {
    enqueue_as(interlock, "1", job).await
}

async fn enqueue_as(interlock: &Interlock, user: &str, job: impl Fn() -> Job + Sync) -> Enqueued {
    let enqueued = interlock.transaction().principal(user).run(|mut tx: Tx| {
        let job = job();
        async move { Ok::<_, Error>(tx.enqueue(job).await?) }
    });
    enqueued.await.unwrap()
}

fn acting(item: i64) -> impl Fn() -> Job + Sync {
    move || Job::new("act", item)
}

/// A worker that does not wait long for anything.
fn worker(interlock: &Interlock) -> Worker {
    interlock
        .worker()
        .on("act", act)
        .poll_interval(Duration::from_millis(20))
        .backoff(Backoff::new(
            Duration::from_millis(2),
            Duration::from_millis(20),
        ))
}

/// Runs workers until no job is left that may run.
async fn work_off(kit: &Kit, workers: impl IntoIterator<Item = Worker>) {
    let runs = workers
        .into_iter()
        .map(|worker| worker.run(until(async || !is_any_live(kit).await)));
    for ended in futures::future::join_all(runs).await {
        ended.unwrap();
    }
}

/// Waits until a condition is true.
async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(600), waiting).await;
    waited.expect("the condition is never true");
}

/// The jobs that have neither ended nor are done.
async fn live(kit: &Kit) -> i64 {
    number(kit, "SELECT count(*) FROM interlock_jobs WHERE live").await
}

/// Whether there is one. To count thousands of them again and again would keep the server busy.
async fn is_any_live(kit: &Kit) -> bool {
    let first = "SELECT count(*) FROM (SELECT 1 FROM interlock_jobs WHERE live LIMIT 1) AS job";
    number(kit, first).await == 1
}

/// The items that were acted on, in order.
async fn effects(kit: &Kit) -> Vec<i64> {
    read(kit, "SELECT item FROM effects ORDER BY item").await
}

/// The ended jobs: how, why, and after how many runs.
async fn ended(kit: &Kit) -> Vec<(String, String, i32)> {
    let mut reader = kit.outside.begin_with(begin_reading(kit)).await.unwrap();
    let ended = sqlx::query_as(
        "SELECT ended, reason, runs FROM interlock_jobs WHERE ended IS NOT NULL ORDER BY ended_at",
    );
    let ended = ended.fetch_all(&mut *reader).await.unwrap();
    reader.commit().await.unwrap();
    ended
}

async fn number(kit: &Kit, sql: &'static str) -> i64 {
    read(kit, sql).await[0]
}

/// Reads without waiting for writers, also on CockroachDB.
async fn read(kit: &Kit, sql: &'static str) -> Vec<i64> {
    let mut reader = kit.outside.begin_with(begin_reading(kit)).await.unwrap();
    let read = sqlx::query_scalar(sql)
        .fetch_all(&mut *reader)
        .await
        .unwrap();
    reader.commit().await.unwrap();
    read
}

fn begin_reading(kit: &Kit) -> &'static str {
    match kit.database.kind() {
        Kind::CockroachDb => "BEGIN PRIORITY HIGH",
        Kind::PostgreSql => "BEGIN",
    }
}

/// Writes from outside of the interlock, in a SERIALIZABLE transaction, and does not wait for the
/// jobs that are running.
async fn write(kit: &Kit, statements: &[&'static str]) {
    let begin = match kit.database.kind() {
        Kind::CockroachDb => "BEGIN PRIORITY HIGH",
        Kind::PostgreSql => "BEGIN ISOLATION LEVEL SERIALIZABLE",
    };
    loop {
        let mut writer = kit.outside.begin_with(begin).await.unwrap();
        let mut failed = None;
        for statement in statements {
            if let Err(error) = sqlx::query(*statement).execute(&mut *writer).await {
                failed = Some(error);
                break;
            }
        }
        let Some(error) = failed else {
            match writer.commit().await {
                Ok(()) => return,
                Err(error) => assert!(is_conflict(&error), "{error}"),
            }
            continue;
        };
        writer.rollback().await.unwrap();
        assert!(is_conflict(&error), "{error}");
    }
}

fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

/// A revocation that has seen how many effects there are.
const REVOKE: &[&str] = &[
    "INSERT INTO revocations (effects) SELECT count(*) FROM effects",
    "DELETE FROM grants",
];
