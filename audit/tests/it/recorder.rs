//! The recorder, on both services.

use axum::Router;
use http::Method;
use sqlx::ConnectOptions as _;
use support::Database;
use tower_interlock::{Interlock, Tx};
use tower_interlock_audit::{
    Exchange, Recorder, Statement, Trace,
    recording::{Effect, Ending, Kind, Place, Step},
};

use crate::{
    kit::{pool, put, request, test},
    service::{bad, good},
};

/// A service whose requests are recorded.
struct Recorded {
    recorder: Recorder,
    app: Router,
}

impl Recorded {
    async fn good(database: &Database) -> Self {
        let recorder = Recorder::new();
        let interlock = Interlock::builder(pool(database));
        let interlock = interlock.observe(recorder.clone()).build();
        let app = good(&interlock).layer(recorder.layer());
        Self { recorder, app }
    }

    async fn bad(database: &Database) -> Self {
        let recorder = Recorder::new();
        let pool = pool(database);
        let interlock = Interlock::builder(pool.clone());
        let interlock = interlock.observe(recorder.clone()).build();
        let app = bad(&interlock, &pool).layer(recorder.layer());
        Self { recorder, app }
    }

    async fn put(&self, path: &str) -> Exchange {
        let (_, exchange) = self.recorder.send(&self.app, put(path)).await;
        exchange.unwrap()
    }
}

/// Whether a statement is inside of its transaction, its step, and the tables that it reads and
/// writes.
type Seen<'e> = (bool, Option<Step>, &'e [String], &'e [String]);

/// The statements that read or write a table.
fn steps(exchange: &Exchange) -> Vec<Seen<'_>> {
    let of_tables = |statement: &&Statement| {
        statement.effect > Effect::Control
            && !(statement.reads.is_empty() && statement.writes.is_empty())
    };
    let statements = exchange.statements.iter().filter(of_tables);
    let steps = statements.map(|statement| {
        let inside = matches!(statement.place, Place::Transaction { .. });
        (
            inside,
            statement.step,
            &statement.reads[..],
            &statement.writes[..],
        )
    });
    steps.collect()
}

#[test]
fn statements_of_layer_are_inside_of_its_transaction() {
    test(async |database| {
        let recorded = Recorded::good(&database).await;
        let exchange = recorded.put("/document").await;
        assert_eq!(exchange.operation().as_deref(), Some("PUT /document"));
        assert_eq!((exchange.status, exchange.blind()), (Some(200), None));
        assert_eq!(exchange.policies(), ["documents.edit"]);
        assert_eq!(exchange.works[0].outcome, Some(Ending::Committed));
        let (grants, documents) = (["grants".to_owned()], ["documents".to_owned()]);
        let expected = [
            (true, Some(Step::Policy), &grants[..], &[][..]),
            (true, Some(Step::Handler), &[][..], &documents[..]),
        ];
        assert_eq!(steps(&exchange), expected);
        assert_eq!(exchange.committed_writes().count(), 1);
    });
}

#[test]
fn conditional_write_is_inside_of_its_own_transaction() {
    test(async |database| {
        let recorded = Recorded::good(&database).await;
        let exchange = recorded.put("/conditional").await;
        assert_eq!(exchange.works[0].kind, Kind::ConditionalWrite);
        assert_eq!(exchange.committed_writes().count(), 1);
        let denied = request(Method::PUT, "/conditional", "mallory");
        let (_, denied) = recorded.recorder.send(&recorded.app, denied).await;
        let denied = denied.unwrap();
        assert_eq!((denied.status, denied.blind()), (Some(403), None));
        assert_eq!(denied.committed_writes().count(), 0);
    });
}

#[test]
fn statements_on_pool_are_outside_also_in_a_policy() {
    test(async |database| {
        let recorded = Recorded::bad(&database).await;
        let on_pool = recorded.put("/policy-on-pool").await;
        let places: Vec<_> = steps(&on_pool)
            .iter()
            .map(|step| (step.0, step.1))
            .collect();
        assert_eq!(
            places,
            [(false, Some(Step::Policy)), (true, Some(Step::Handler))]
        );

        let on_pool = recorded.put("/write-on-pool").await;
        let places: Vec<_> = steps(&on_pool)
            .iter()
            .map(|step| (step.0, step.1))
            .collect();
        assert_eq!(
            places,
            [(true, Some(Step::Policy)), (false, Some(Step::Handler))]
        );

        let by_hand = recorded.put("/by-hand").await;
        let places: Vec<_> = steps(&by_hand)
            .iter()
            .map(|step| (step.0, step.1))
            .collect();
        assert_eq!(places, [(false, None), (false, None)]);
        assert_eq!(by_hand.blind(), None);
    });
}

#[test]
fn statements_of_a_spawned_task_are_elsewhere() {
    test(async |database| {
        let recorded = Recorded::bad(&database).await;
        let spawned = recorded.put("/spawned").await;
        assert_eq!((spawned.status, steps(&spawned).len()), (Some(200), 0));
        let trace = recorded.recorder.trace();
        let mut elsewhere = trace.elsewhere.iter();
        assert!(elsewhere.any(|statement| statement.sql.contains("UPDATE documents")));
    });
}

#[test]
fn transaction_that_is_rolled_back_has_no_committed_write() {
    test(async |database| {
        let recorder = Recorder::new();
        let interlock = Interlock::builder(pool(&database));
        let interlock = interlock.observe(recorder.clone()).dry_run(true).build();
        let app = good(&interlock).layer(recorder.layer());
        let (_, exchange) = recorder.send(&app, put("/document")).await;
        let exchange = exchange.unwrap();
        assert_eq!(exchange.works[0].outcome, Some(Ending::RolledBack));
        assert_eq!(exchange.committed_writes().count(), 0);
    });
}

#[test]
fn hook_belongs_to_its_request() {
    test(async |database| {
        let recorder = Recorder::new();
        let pool = pool(&database);
        let interlock = Interlock::builder(pool.clone());
        let interlock = interlock.observe(recorder.clone()).build();
        let handler = async move |mut tx: Tx| {
            sqlx::query("SELECT body FROM documents")
                .execute(&mut tx)
                .await
                .unwrap();
            tx.after_commit(async move {
                let log = "INSERT INTO log VALUES ('hooked')";
                sqlx::query(log).execute(&pool).await.unwrap();
            });
        };
        let layer = interlock.require(async || Ok::<_, tower_interlock::Error>(()));
        let route = axum::routing::put(handler).route_layer(layer);
        let app = Router::new().route("/", route).layer(recorder.layer());
        recorder.send(&app, put("/")).await;
        interlock.drain().await;
        let trace = recorder.trace();
        let hooked = trace.exchanges[0].statements.iter();
        let mut hooked = hooked.filter(|statement| statement.writes == ["log"]);
        let hooked = hooked.next().unwrap();
        assert_eq!(
            (hooked.place, hooked.step),
            (Place::Outside, Some(Step::Hook))
        );
    });
}

#[test]
fn pool_that_does_not_log_makes_the_recorder_blind() {
    test(async |database| {
        let recorder = Recorder::new();
        let silent = database.options().disable_statement_logging();
        let pool = Interlock::pool_options().connect_lazy_with(silent);
        let interlock = Interlock::builder(pool).observe(recorder.clone()).build();
        let app = good(&interlock).layer(recorder.layer());
        let (_, exchange) = recorder.send(&app, put("/document")).await;
        let blind = exchange.unwrap().blind().unwrap().to_owned();
        assert!(blind.contains("came as no event"), "{blind}");
        assert!(recorder.trace().blind().is_some());
    });
}

#[test]
fn interlock_that_is_not_observed_makes_the_recorder_blind() {
    test(async |database| {
        let recorder = Recorder::new();
        let interlock = Interlock::new(pool(&database));
        let app = good(&interlock).layer(recorder.layer());
        let (_, exchange) = recorder.send(&app, put("/document")).await;
        let blind = exchange.unwrap().blind().unwrap().to_owned();
        assert!(blind.contains("is not its observer"), "{blind}");
        let (_, health) = recorder
            .send(&app, request(Method::GET, "/health", ""))
            .await;
        assert_eq!(health.unwrap().blind(), None);
    });
}

#[test]
fn work_outside_of_requests_on_a_pool_that_does_not_log_is_blind() {
    test(async |database| {
        let recorder = Recorder::new();
        let silent = database.options().disable_statement_logging();
        for (options, blind) in [(database.options(), false), (silent, true)] {
            let pool = Interlock::pool_options().connect_lazy_with(options);
            let interlock = Interlock::builder(pool).observe(recorder.clone()).build();
            let work = interlock.transact(async |mut tx: Tx| {
                let write = "UPDATE documents SET body = 'new'";
                sqlx::query(write).execute(&mut tx).await?;
                Ok::<_, tower_interlock::Error>(())
            });
            work.await.unwrap();
            let trace = recorder.trace();
            assert_eq!(trace.elsewhere_blind.is_some(), blind);
            assert_eq!(trace.blind().is_some(), blind);
        }
    });
}

#[test]
fn statements_on_the_raw_connection_are_inside_up_to_the_next_one_on_the_tx() {
    test(async |database| {
        let recorder = Recorder::new();
        let pool = pool(&database);
        let interlock = Interlock::builder(pool.clone());
        let interlock = interlock.observe(recorder.clone()).build();
        let handler = async move |mut tx: Tx| {
            let raw = tx.connection().await?;
            sqlx::query("UPDATE documents SET body = 'raw'")
                .execute(raw)
                .await?;
            sqlx::query("SELECT body FROM documents")
                .execute(&mut tx)
                .await?;
            sqlx::query("INSERT INTO log VALUES ('outside')")
                .execute(&pool)
                .await?;
            Ok::<_, tower_interlock::Error>(())
        };
        let layer = interlock.require(async || Ok::<_, tower_interlock::Error>(()));
        let route = axum::routing::put(handler).route_layer(layer);
        let app = Router::new().route("/", route).layer(recorder.layer());
        let (_, exchange) = recorder.send(&app, put("/")).await;
        let exchange = exchange.unwrap();
        assert_eq!((exchange.status, exchange.blind()), (Some(200), None));
        let places: Vec<_> = steps(&exchange)
            .iter()
            .map(|(inside, _, _, writes)| (*inside, writes.to_vec()))
            .collect();
        let (documents, log) = ("documents".to_owned(), "log".to_owned());
        let expected = [(true, vec![documents]), (true, vec![]), (false, vec![log])];
        assert_eq!(places, expected);
        let calls = exchange.statements.iter().flat_map(|it| &it.calls);
        assert_eq!(calls.collect::<Vec<_>>(), ["Tx::connection"]);
    });
}

#[test]
fn events_that_do_not_arrive_make_the_recorder_blind() {
    test(async |database| {
        let recorded = Recorded::bad(&database).await;
        // The subscriber of this thread, which runs the request.
        let deaf = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
        let exchange = recorded.put("/by-hand").await;
        drop(deaf);
        assert_eq!((exchange.status, steps(&exchange).len()), (Some(200), 0));
        let blind = exchange.blind().unwrap();
        assert!(
            blind.contains("no event of the target sqlx::query arrives"),
            "{blind}"
        );
    });
}

#[test]
fn retried_request_has_the_writes_of_its_last_attempt() {
    test(async |database| {
        let recorder = Recorder::new();
        let interlock = Interlock::builder(pool(&database));
        let interlock = interlock.observe(recorder.clone()).build();
        let handler = async |mut tx: Tx| {
            let write = "UPDATE documents SET body = 'new'";
            sqlx::query(write).execute(&mut tx).await?;
            if tx.attempt() == 1 {
                let conflict = "SELECT interlock_conflict()";
                sqlx::query(conflict).execute(&mut tx).await?;
            }
            Ok::<_, tower_interlock::Error>(())
        };
        if database.kind() == support::Kind::CockroachDb {
            return println!("CockroachDB before v22.2 has no function that raises 40001");
        }
        database
            .run(
                "CREATE FUNCTION interlock_conflict() RETURNS void LANGUAGE plpgsql AS \
                 'BEGIN RAISE EXCEPTION USING ERRCODE = $q$40001$q$; END'",
            )
            .await;
        let layer = interlock.require(async || Ok::<_, tower_interlock::Error>(()));
        let route = axum::routing::put(handler).route_layer(layer);
        let app = Router::new().route("/", route).layer(recorder.layer());
        let (_, exchange) = recorder.send(&app, put("/")).await;
        let exchange = exchange.unwrap();
        assert_eq!(
            (exchange.status, exchange.works[0].attempts),
            (Some(200), 2)
        );
        let updates = exchange.statements.iter();
        assert_eq!(
            updates
                .filter(|statement| statement.writes == ["documents"])
                .count(),
            2
        );
        assert_eq!(exchange.committed_writes().count(), 1);
    });
}

#[test]
fn file_has_the_same_trace_and_no_values() {
    test(async |database| {
        let recorded = Recorded::good(&database).await;
        recorded.put("/document").await;
        recorded.put("/conditional").await;
        let trace = Trace {
            elsewhere: Vec::new(),
            ..recorded.recorder.trace()
        };
        let path = std::env::temp_dir().join(format!("interlock-{}.jsonl", database.name()));
        trace.write(&path).unwrap();
        trace.append(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let read = Trace::read(&path).unwrap();
        std::fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        let newer = Trace::read(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.exchanges.len(), 4);
        assert_eq!(read.exchanges[..2], trace.exchanges);
        assert!(newer.is_err());
        assert!(text.contains("UPDATE documents SET body = ?"), "{text}");
        assert!(!text.contains("'new'") && !text.contains("alice"), "{text}");
    });
}
