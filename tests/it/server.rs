//! The check of the server, the settings of the recommended pool, and `drain`.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    routing::put as put_route,
};
use futures::poll;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, postgres::PgPoolOptions};
use support::Kind;
use tokio::{sync::Notify, time::timeout};
use tower_interlock::{Error, ErrorKind, Interlock, Outcome, Tx};
use tracing::Level;

use crate::kit::{Kit, Log, TestResponse, anyone, can_edit, note, put, test, traced, write};

const SERVER_CHECK: &str = "inspected the server";

fn app(interlock: &Interlock) -> Router {
    Router::new().route(
        "/{id}",
        put_route(write).route_layer(interlock.require(can_edit)),
    )
}

/// A pool of one connection with this setting and none of the recommended ones.
fn plain_pool(kit: &Kit, setting: &'static str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                // The crate rejects its default. PostgreSQL does not know the setting.
                let _ = connection.execute("SET autocommit_before_ddl = off").await;
                connection.execute(setting).await?;
                Ok(())
            })
        })
        .connect_lazy_with(kit.database.options())
}

/// The response of an interlock on `pool`, and its warnings.
async fn first_request(pool: &PgPool) -> (TestResponse, Vec<String>) {
    let interlock = Interlock::new(pool.clone());
    let (response, log) = traced(put(&app(&interlock), "/1", "")).await;
    interlock.drain().await;
    assert_eq!(log.find(SERVER_CHECK).len(), 1);
    (response, warnings(&log))
}

fn warnings(log: &Log) -> Vec<String> {
    let warnings = log.events.iter().filter(|event| event.level == Level::WARN);
    warnings.map(|event| event.message().to_owned()).collect()
}

fn about(setting: &str, warnings: &[String]) -> usize {
    let about = warnings
        .iter()
        .filter(|warning| warning.starts_with(setting));
    about.count()
}

async fn knows(kit: &Kit, setting: &str) -> bool {
    let known: Option<String> = sqlx::query_scalar("SELECT current_setting($1, true)")
        .bind(setting)
        .fetch_one(&kit.outside)
        .await
        .unwrap();
    known.is_some()
}

#[test]
fn weaker_default_isolation_is_warned_about() {
    test(async |kit| {
        let set = "SET default_transaction_isolation = 'read committed'";
        let (response, warnings) = first_request(&plain_pool(&kit, set)).await;
        // CockroachDB tracks the conflicts of transactions of every isolation level.
        let expected = usize::from(kit.database.kind() == Kind::PostgreSql);
        assert_eq!(about("default_transaction_isolation", &warnings), expected);
        assert_eq!(warnings.len(), expected, "{warnings:?}");
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn read_only_default_is_warned_about() {
    test(async |kit| {
        let set = "SET default_transaction_read_only = on";
        let (response, warnings) = first_request(&plain_pool(&kit, set)).await;
        assert_eq!(about("default_transaction_read_only", &warnings), 1);
        response.assert_problem(ErrorKind::Unavailable);
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn asynchronous_commit_is_warned_about() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            println!("skipped: CockroachDB has no such setting");
            return;
        }
        let set = "SET synchronous_commit = off";
        let (response, warnings) = first_request(&plain_pool(&kit, set)).await;
        assert_eq!(about("synchronous_commit", &warnings), 1);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn recommended_pool_causes_no_warning() {
    test(async |kit| {
        let (response, warnings) = first_request(&kit.pool).await;
        assert_eq!(warnings, [] as [&str; 0]);
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
    });
}

const SETTINGS: [&str; 3] = [
    "autocommit_before_ddl",
    "default_transaction_use_follower_reads",
    "force_savepoint_restart",
];

#[test]
fn setting_that_breaks_a_promise_is_rejected() {
    test(async |kit| {
        for setting in SETTINGS {
            if !knows(&kit, setting).await {
                println!("skipped: this server has no {setting}");
                continue;
            }
            let set: &str = format!("SET {setting} = on").leak();
            let (response, _) = first_request(&plain_pool(&kit, set)).await;
            response.assert_problem(ErrorKind::Misconfigured);
            assert_eq!(response.outcome(), Outcome::RolledBack);
        }
        assert!(kit.notes().await.is_empty());
    });
}

/// PostgreSQL has none of those settings. A function that shadows its own reports them.
#[test]
fn rejected_setting_is_rechecked_until_fixed() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql {
            println!("skipped: CockroachDB has no functions that shadow its own");
            return;
        }
        for setting in SETTINGS {
            let function = format!(
                "CREATE SCHEMA IF NOT EXISTS shadow;
                 CREATE OR REPLACE FUNCTION shadow.current_setting(name TEXT, missing_ok BOOL)
                 RETURNS TEXT LANGUAGE sql AS $$
                     SELECT CASE name WHEN '{setting}' THEN 'on'
                     ELSE pg_catalog.current_setting(name, missing_ok) END $$"
            );
            kit.outside.execute(AssertSqlSafe(function)).await.unwrap();
            let broken = Arc::new(AtomicBool::new(true));
            let pool = PgPoolOptions::new()
                .after_connect({
                    let broken = Arc::clone(&broken);
                    move |connection, _| {
                        let broken = broken.load(Ordering::SeqCst);
                        Box::pin(async move {
                            if broken {
                                let shadow = "SET search_path = shadow, pg_catalog, public";
                                connection.execute(shadow).await?;
                            }
                            Ok(())
                        })
                    }
                })
                .connect_lazy_with(kit.database.options());
            let interlock = Interlock::new(pool);
            let app = app(&interlock);

            let (response, log) = traced(put(&app, "/1", "")).await;
            response.assert_problem(ErrorKind::Misconfigured);
            let [error] = *log.above_debug() else {
                panic!("{log:?}");
            };
            assert_eq!(error.level, Level::ERROR);
            assert!(error.fields["cause"].starts_with(setting), "{error:?}");
            assert!(kit.notes().await.is_empty());

            broken.store(false, Ordering::SeqCst);
            assert_eq!(put(&app, "/1", "").await.outcome(), Outcome::Committed);
            assert_eq!(kit.notes().await, [1]);
            kit.outside.execute("DELETE FROM notes").await.unwrap();
            interlock.drain().await;
        }
    });
}

#[test]
fn server_is_checked_once() {
    test(async |kit| {
        let pool = plain_pool(&kit, "SET default_transaction_read_only = on");
        let interlock = Interlock::new(pool);
        let read = Router::new().route(
            "/{id}",
            put_route(async || "ok").route_layer(interlock.clone().require(can_edit)),
        );
        let (_, log) = traced(put(&read, "/1", "")).await;
        assert_eq!(log.find(SERVER_CHECK).len(), 1);
        assert!(!warnings(&log).is_empty());

        for path in ["/1", "/2"] {
            let (_, log) = traced(put(&read, path, "")).await;
            assert!(log.find(SERVER_CHECK).is_empty());
            assert!(warnings(&log).is_empty());
        }
        interlock.drain().await;
    });
}

#[test]
fn pool_options_set_session_settings() {
    test(async |kit| {
        // CockroachDB shows durations in milliseconds, PostgreSQL in the largest unit.
        for (setting, values) in [
            ("default_transaction_isolation", ["serializable"; 2]),
            ("statement_timeout", ["20s", "20000"]),
            ("idle_in_transaction_session_timeout", ["30s", "30000"]),
            ("autocommit_before_ddl", ["off"; 2]),
            ("default_transaction_use_follower_reads", ["off"; 2]),
            ("force_savepoint_restart", ["off"; 2]),
        ] {
            if !knows(&kit, setting).await {
                println!("skipped: this server has no {setting}");
                continue;
            }
            let show = AssertSqlSafe(format!("SHOW {setting}"));
            let shown: String = sqlx::query_scalar(show).fetch_one(&kit.pool).await.unwrap();
            assert!(values.contains(&&*shown), "{setting} is {shown}");
        }
    });
}

#[test]
fn pool_options_have_documented_values() {
    let options = Interlock::pool_options();
    assert!(!options.get_test_before_acquire());
    assert_eq!(options.get_acquire_timeout(), Duration::from_secs(5));
}

/// Reports that it was reached, and waits until it is opened.
#[derive(Default)]
struct Gate {
    reached: Notify,
    open: Notify,
}

impl Gate {
    async fn pass(&self) {
        self.reached.notify_one();
        self.open.notified().await;
    }
}

#[derive(Clone, Default)]
struct Gates {
    handler: Arc<Gate>,
    hook: Arc<Gate>,
}

async fn handler(State(gates): State<Gates>, mut tx: Tx) -> Result<(), Error> {
    note(&mut tx, 1).await?;
    let hook = gates.hook;
    tx.after_commit(async move { hook.pass().await });
    gates.handler.pass().await;
    Ok(())
}

#[test]
fn drain_waits_for_requests_and_hooks_and_rejects_new_requests() {
    test(async |kit| {
        let gates = Gates::default();
        let app = Router::new()
            .route("/{id}", put_route(handler))
            .route_layer(kit.interlock.require(can_edit))
            .with_state(gates.clone());
        let running = tokio::spawn({
            let app = app.clone();
            async move { put(&app, "/1", "").await }
        });
        gates.handler.reached.notified().await;

        let clone = kit.interlock.clone();
        let mut drained = pin!(clone.drain());
        assert!(poll!(&mut drained).is_pending());
        let rejected = put(&app, "/1", "").await;
        rejected.assert_problem(ErrorKind::Unavailable);
        assert_eq!(rejected.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(rejected.header(header::RETRY_AFTER), Some("1"));
        assert_eq!(rejected.outcome(), Outcome::NoTransaction);

        gates.handler.open.notify_one();
        let response = running.await.unwrap();
        assert_eq!(response.outcome(), Outcome::Committed);
        assert_eq!(kit.notes().await, [1]);
        gates.hook.reached.notified().await;
        assert!(poll!(&mut drained).is_pending());

        gates.hook.open.notify_one();
        timeout(Duration::from_secs(10), drained).await.unwrap();
    });
}

#[test]
fn drain_is_permanent() {
    test(async |kit| {
        let app = app(&kit.interlock);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        // It applies to all clones, also after its future was dropped.
        assert!(poll!(pin!(kit.interlock.clone().drain())).is_ready());
        let rejected = put(&app, "/1", "").await;
        rejected.assert_problem(ErrorKind::Unavailable);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn drain_lets_running_request_enter_joined_layers() {
    test(async |kit| {
        let gate = Arc::new(Gate::default());
        let policy = {
            let gate = Arc::clone(&gate);
            async move || {
                gate.pass().await;
                Ok::<_, Error>(())
            }
        };
        let app = Router::new()
            .route("/{id}", put_route(write))
            .route_layer(kit.interlock.require(anyone))
            .route_layer(kit.interlock.require(policy));
        let running = tokio::spawn(async move { put(&app, "/1", "").await });
        gate.reached.notified().await;
        let mut drained = pin!(kit.interlock.drain());
        assert!(poll!(&mut drained).is_pending());
        gate.open.notify_one();
        assert_eq!(running.await.unwrap().outcome(), Outcome::Committed);
        drained.await;
        assert_eq!(kit.notes().await, [1]);
    });
}
