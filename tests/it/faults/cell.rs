//! One cell of the matrix: a request, a fault at a moment, and the observed result.

use std::{
    fmt,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use sqlx::{Executor as _, PgPool};
use support::{Fault, Kind, Proxy};
use tokio::time::timeout;
use tower::ServiceExt as _;
use tower_interlock::{Interlock, Outcome};

use crate::{
    kit::{self, Kit, Log, traced},
    model::{Prediction, Reply, Strike, World, predict},
    script::{EFFECTS, Script, Stage},
};

/// One request and its fault.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    script: Script,
    strike: Strike,
    /// The server that the crate detects.
    server: Kind,
}

pub(super) const POOL: u32 = 1;
/// How much longer than a wait a busy machine may take.
pub(super) const SLACK: Duration = Duration::from_secs(4);
/// The time in which everything ends that does not hang.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cell {
    pub(super) fn new(script: Script, strike: Strike, server: Kind) -> Self {
        Self {
            script,
            strike,
            server,
        }
    }

    /// How the result differs from the prediction.
    pub(super) async fn compare(self, kit: Kit, number: i64) -> Option<String> {
        let world = World {
            server: self.server,
            pool: POOL,
            strikes: vec![self.strike.clone()],
        };
        let predicted = predict(&self.script, &world);
        let mut seen = self.play(&kit, number, &predicted).await;
        // The prediction leaves this open.
        if predicted.response.agrees_with(seen.response) {
            seen.response = predicted.response;
        }
        if (predicted.waited..predicted.waited + SLACK).contains(&seen.waited) {
            seen.waited = predicted.waited;
        }
        if gives_up(&kit, &self.strike) && seen.rows.is_empty() {
            seen.rows = predicted.rows.clone();
        }
        // After a rejected COMMIT, a BEGIN ends the old transaction.
        let begins = predicted.begins..=predicted.begins + predicted.commits;
        if begins.contains(&seen.begins) {
            seen.begins = predicted.begins;
        }
        (seen != predicted).then(|| format!("  {predicted:?}\n  {seen:?}"))
    }

    async fn play(&self, kit: &Kit, number: i64, predicted: &Prediction) -> Prediction {
        let (kit, proxy) = behind_a_proxy(kit, self.server).await;
        let (moment, fault, times) = self.strike.clone();
        proxy.inject_times(times as usize, moment, fault);
        let builder = kit::builder(&kit.pool, number);
        let stage = Stage::new(number, &kit.outside);
        let (app, interlock) = self.script.app(builder, &stage);
        let unknown = predicted.outcome == Outcome::Unknown;
        let late = unknown && !predicted.hooks.is_empty();

        let request = async {
            let asked = Instant::now();
            let response = kit::read(app.oneshot(Script::request()).await.unwrap()).await;
            let waited = asked.elapsed();
            // A COMMIT without a reply is awaited as long as the connection exists.
            if unknown && !late && !predicted.waited.is_zero() {
                proxy.cut();
            }
            let drained = timeout(PATIENCE, interlock.drain()).await;
            drained.expect("something hangs");
            (response, waited)
        };
        let ((response, waited), log) = traced(request).await;
        proxy.relent();
        let counts = proxy.counts();
        assert!(counts.faults > 0, "nothing went wrong");
        if unknown {
            let outcome = if late { "committed" } else { "unknown" };
            assert!(reports(&log, outcome), "{log:?}");
        }
        assert_eq!(stage.attempts(), response.report().attempts());
        kit.assert_nothing_leaked().await;
        self.assert_it_goes_on(&kit, number).await;
        Prediction {
            response: Reply::of(&response),
            outcome: response.outcome(),
            attempts: stage.attempts(),
            rows: stage.rows().await,
            hooks: stage.hooks(),
            begins: counts.begins as u32,
            commits: counts.commits as u32,
            waited,
        }
    }

    /// Asserts that the same request succeeds afterwards without a fault.
    async fn assert_it_goes_on(&self, kit: &Kit, number: i64) {
        let world = World {
            server: self.server,
            pool: POOL,
            strikes: Vec::new(),
        };
        let predicted = predict(&self.script, &world);
        let stage = Stage::new(-number, &kit.outside);
        let (app, interlock) = self.script.app(kit.builder(), &stage);
        let response = kit::read(app.oneshot(Script::request()).await.unwrap()).await;
        interlock.drain().await;
        assert_eq!(Reply::of(&response), predicted.response);
        assert_eq!(response.outcome(), predicted.outcome);
        assert_eq!(stage.rows().await, predicted.rows);
    }
}

/// Whether the server may abandon a statement because the client is gone, as CockroachDB does.
pub(super) fn gives_up(kit: &Kit, strike: &Strike) -> bool {
    let cut = matches!(strike, (_, Fault::CutSent, _));
    cut && kit.database.kind() == Kind::CockroachDb
}

/// Whether the log has an event above DEBUG with this outcome.
fn reports(log: &Log, outcome: &str) -> bool {
    let mut events = log.above_debug().into_iter();
    events.any(|event| {
        event
            .fields
            .get("outcome")
            .is_some_and(|reported| reported == outcome)
    })
}

/// Compares each cell with its prediction, many concurrently. `play` gets the number of the cell
/// and returns the difference.
pub(super) async fn compare<C, F>(kit: &Kit, cells: Vec<C>, compare: fn(C, Kit, i64) -> F)
where
    C: fmt::Debug + Send + 'static,
    F: Future<Output = Option<String>> + Send + 'static,
{
    let count = cells.len();
    let different: Vec<String> = stream::iter((10..).zip(cells))
        .map(async |(number, cell)| {
            let what = format!("{cell:?}");
            let compared = tokio::spawn(compare(cell, kit.clone(), number)).await;
            let difference = compared.unwrap_or_else(|panic| Some(panic.to_string()));
            difference.map(|difference| format!("{what}\n{difference}\n"))
        })
        .buffer_unordered(16)
        .filter_map(async |difference| difference)
        .collect()
        .await;
    println!("{count} cells");
    let differ = different.len();
    assert!(differ == 0, "{differ} differ:\n{}", different.join("\n"));
}

pub(super) async fn prepare(kit: &Kit) {
    kit.database.run(EFFECTS).await;
    if kit.database.kind() == Kind::PostgreSql {
        kit.database.run(SHADOW).await;
    }
}

/// A kit with its own pool through a proxy. The crate takes its server for `server`.
pub(super) async fn behind_a_proxy(kit: &Kit, server: Kind) -> (Kit, Proxy) {
    let proxy = Proxy::start(&kit.database);
    let pool = pool(kit, server, &proxy).await;
    (
        Kit {
            pool,
            ..kit.clone()
        },
        proxy,
    )
}

/// A recommended pool with one open connection. The crate takes its server for `server`.
async fn pool(kit: &Kit, server: Kind, proxy: &Proxy) -> PgPool {
    let options = Interlock::pool_options().max_connections(POOL);
    let options = if server == kit.database.kind() {
        options
    } else {
        options.after_connect(|connection, _| {
            Box::pin(async {
                connection.execute(POSE).await?;
                connection.execute(SERIALIZABLE).await?;
                Ok(())
            })
        })
    };
    options.connect_with(proxy.options()).await.unwrap()
}

const SERIALIZABLE: &str = "SET default_transaction_isolation = 'serializable'";
const POSE: &str = "SET search_path = shadow, pg_catalog, public";

/// Lets PostgreSQL report the version of CockroachDB, from which the crate infers its kind.
const SHADOW: &str = "
    CREATE SCHEMA shadow;
    CREATE FUNCTION shadow.version() RETURNS TEXT LANGUAGE sql AS 'SELECT ''CockroachDB CCL v24.1.0'''
";
