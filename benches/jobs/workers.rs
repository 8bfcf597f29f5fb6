//! Workers of this crate.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use sqlx::postgres::PgConnectOptions;
use tower_interlock::{Denied, Error, Interlock, Tx, jobs::RunningJob};

use crate::way::{EXPORT, RULE};

/// Workers of this crate, each with a pool of its own.
pub(crate) struct Workers {
    interlocks: Vec<Interlock>,
    /// How many jobs each of them runs at a time.
    jobs: usize,
}

impl Workers {
    pub(crate) fn new(options: &PgConnectOptions, workers: usize, jobs: usize) -> Self {
        let connections = u32::try_from(jobs).unwrap() + 1;
        let interlock = || {
            Interlock::connect_with(options.clone(), connections)
                .jobs()
                .build()
        };
        Self {
            interlocks: (0..workers).map(|_| interlock()).collect(),
            jobs,
        }
    }

    /// Works for some time, and returns how often the handler was called.
    pub(crate) async fn work(&self, time: Duration) -> u64 {
        let attempts = Arc::new(AtomicU64::new(0));
        let workers = self.interlocks.iter().map(|interlock| {
            let attempts = Arc::clone(&attempts);
            let handler = move |job: RunningJob<i64>, tx: Tx| {
                attempts.fetch_add(1, Ordering::Relaxed);
                export(job, tx)
            };
            let worker = interlock.worker().on("export", handler);
            tokio::spawn(worker.concurrency(self.jobs).run(tokio::time::sleep(time)))
        });
        for ended in join_all(workers).await {
            ended.unwrap().unwrap();
        }
        attempts.load(Ordering::Relaxed)
    }

    pub(crate) async fn close(self) {
        for interlock in self.interlocks {
            interlock.drain().await;
        }
    }
}

async fn export(job: RunningJob<i64>, mut tx: Tx) -> Result<(), Error> {
    let document = *job.payload();
    let rule = sqlx::query_scalar(RULE)
        .bind(job.principal()?)
        .bind(document);
    let allowed: bool = rule.fetch_one(&mut tx).await?;
    Denied::unless(allowed, "no grant")?;
    let export = sqlx::query(EXPORT)
        .bind(job.id().to_string())
        .bind(document);
    export.execute(&mut tx).await?;
    Ok(())
}
