//! A worker as it is usually written: one transaction takes the job, does it, and commits.
//!
//! It has no lease, counts no runs, and parks nothing: a job that fails is tried again at once, for
//! ever.

use std::time::{Duration, Instant};

use futures::future::join_all;
use sqlx::{Connection as _, PgConnection, PgPool, types::Uuid};

use crate::way::{EXPORT, RULE};

/// Workers by hand. Each keeps its connection.
pub(crate) struct ByHand {
    pub(crate) pool: PgPool,
    pub(crate) workers: usize,
    pub(crate) begin: &'static str,
    pub(crate) skip_locked: bool,
}

impl ByHand {
    /// Works for some time, and returns how many transactions were attempted.
    pub(crate) async fn work(&self, time: Duration) -> u64 {
        let workers = (0..self.workers).map(|_| {
            let (pool, begin) = (self.pool.clone(), self.begin);
            let take = if self.skip_locked { TAKE } else { TAKE_WAITING };
            tokio::spawn(async move {
                let mut connection = pool.acquire().await.unwrap();
                let started = Instant::now();
                let mut attempts = 0;
                while started.elapsed() < time {
                    attempts += 1;
                    if let Err(error) = run_one(&mut connection, begin, take).await {
                        assert!(is_conflict(&error), "{error}");
                    }
                }
                attempts
            })
        });
        let attempts = join_all(workers).await;
        attempts.into_iter().map(Result::unwrap).sum()
    }
}

async fn run_one(
    connection: &mut PgConnection,
    begin: &'static str,
    take: &'static str,
) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin_with(begin).await?;
    let taken = sqlx::query_as(take).fetch_optional(&mut *tx).await?;
    let Some((id, principal, document)): Option<(Uuid, String, i64)> = taken else {
        return tx.commit().await;
    };
    let rule = sqlx::query_scalar(RULE).bind(principal).bind(document);
    let allowed: bool = rule.fetch_one(&mut *tx).await?;
    if allowed {
        let export = sqlx::query(EXPORT).bind(id.to_string()).bind(document);
        export.execute(&mut *tx).await?;
    }
    tx.commit().await
}

fn is_conflict(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

const TAKE: &str = "\
    DELETE FROM queue WHERE id = ( \
        SELECT id FROM queue WHERE kind = 'export' AND run_at <= now() \
        ORDER BY run_at LIMIT 1 FOR UPDATE SKIP LOCKED) \
    RETURNING id, principal, payload::TEXT::INT8";

const TAKE_WAITING: &str = "\
    DELETE FROM queue WHERE id = ( \
        SELECT id FROM queue WHERE kind = 'export' AND run_at <= now() \
        ORDER BY run_at LIMIT 1 FOR UPDATE) \
    RETURNING id, principal, payload::TEXT::INT8";
