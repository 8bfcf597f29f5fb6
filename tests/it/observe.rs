//! The observer and the principal.

use axum::{
    Extension, Router,
    http::{HeaderMap, request::Parts},
    routing::put as put_route,
};
use tower_interlock::{
    Condition, ConditionalWrite, Error, ErrorKind, Outcome, Tx,
    observe::{
        AttemptEnded, ErrorClass, Observer, Phase, StatementExecuted, WorkFinished, WorkKind,
    },
};

use crate::kit::{
    Recorder, Seen, anyone, can_edit, conflict_once, guarded, note, put, test, update, write,
};

static INSERT_NOTE: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO notes (id, note) SELECT $1, 'by a write' WHERE {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = $1)",
    )],
);

#[test]
fn request_is_observed_from_its_statements_to_its_end() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let layer = interlock.require(can_edit).named("documents.edit");
        put(&guarded(layer, update), "/1", "new").await;
        let events = recorder.take();
        let [
            Seen::Statement {
                phase: Phase::Policy,
                ok: true,
                sql: check,
                attempt: 1,
                ..
            },
            Seen::Statement {
                phase: Phase::Handler,
                ok: true,
                sql: write,
                attempt: 1,
                ..
            },
            attempt,
            finished,
        ] = &events[..]
        else {
            panic!("{events:#?}");
        };
        assert!(check.starts_with("SELECT EXISTS") && write.starts_with("UPDATE documents"));
        assert_eq!(*attempt, ended(1, None, false));
        let expected = Seen::Finished {
            kind: WorkKind::Request,
            names: vec!["documents.edit"],
            principal: None,
            attempts: 1,
            outcome: Outcome::Committed,
            error: None,
        };
        assert_eq!(*finished, expected);
    });
}

#[test]
fn raw_connection_is_observed_and_its_statements_are_not() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let work = interlock.transact(async |mut tx: Tx| {
            sqlx::query("SELECT 1")
                .execute(tx.connection().await?)
                .await?;
            Ok::<_, Error>(())
        });
        work.await.unwrap();
        let taken = Seen::Connection {
            attempt: 1,
            phase: Phase::Work,
        };
        let [first, attempt, finished] = &recorder.take()[..] else {
            panic!("a statement on the raw connection was observed");
        };
        assert_eq!((first, attempt), (&taken, &ended(1, None, false)));
        assert!(matches!(finished, Seen::Finished { .. }));
    });
}

fn ended(number: u32, error: Option<(ErrorClass, &str)>, retried: bool) -> Seen {
    Seen::Attempt {
        number,
        class: error.map(|(class, _)| class),
        sqlstate: error.map(|(_, sqlstate)| sqlstate.to_owned()),
        retried,
    }
}

#[test]
fn serialization_failure_is_observed_as_a_retried_attempt() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let outside = kit.outside.clone();
        let handler = move |mut tx: Tx| async move {
            conflict_once(&mut tx, &outside).await?;
            Ok::<_, Error>(())
        };
        put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        let attempts = recorder.take().into_iter();
        let attempts: Vec<_> = attempts
            .filter(|event| matches!(event, Seen::Attempt { .. }))
            .collect();
        let failure = Some((ErrorClass::SerializationFailure, "40001"));
        assert_eq!(attempts, [ended(1, failure, true), ended(2, None, false)]);
    });
}

#[test]
fn failed_statement_is_observed_with_its_sqlstate() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let handler = async |mut tx: Tx| {
            let _ = sqlx::query("SELECT 1 FROM missing").execute(&mut tx).await;
            "ok"
        };
        let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::TransactionAborted);
        let events = recorder.take();
        let statement = Seen::Statement {
            attempt: 1,
            phase: Phase::Handler,
            sql: "SELECT 1 FROM missing".to_owned(),
            ok: false,
            sqlstate: Some("42P01".to_owned()),
        };
        assert_eq!(events.first(), Some(&statement));
        assert!(matches!(
            events.last(),
            Some(Seen::Finished {
                error: Some(ErrorKind::TransactionAborted),
                outcome: Outcome::RolledBack,
                ..
            })
        ));
    });
}

#[test]
fn savepoint_statements_and_row_streams_are_observed() {
    use futures::TryStreamExt as _;
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let handler = async |mut tx: Tx| {
            let mut savepoint = tx.savepoint().await?;
            sqlx::query("INSERT INTO notes VALUES (1, '')")
                .execute(&mut savepoint)
                .await?;
            savepoint.release().await?;
            let mut rows = sqlx::query("SELECT generate_series(1, 9)").fetch(&mut tx);
            rows.try_next().await?;
            drop(rows);
            Ok::<_, Error>(())
        };
        put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        let texts: Vec<_> = recorder.take_statements();
        let expected = [
            (
                Phase::Handler,
                "INSERT INTO notes VALUES (1, '')".to_owned(),
            ),
            (Phase::Handler, "SELECT generate_series(1, 9)".to_owned()),
        ];
        assert_eq!(texts, expected);
    });
}

#[test]
fn conditional_write_is_observed_with_its_phase() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        INSERT_NOTE.bind(1_i64).execute(&interlock).await.unwrap();
        let events = recorder.take();
        assert!(
            matches!(
                &events[..],
                [
                    Seen::Statement {
                        phase: Phase::Work,
                        ok: true,
                        ..
                    },
                    Seen::Attempt {
                        number: 1,
                        class: None,
                        retried: false,
                        ..
                    },
                    Seen::Finished {
                        kind: WorkKind::ConditionalWrite,
                        outcome: Outcome::Committed,
                        attempts: 1,
                        ..
                    }
                ]
            ),
            "{events:#?}"
        );

        // The diagnosis is a statement as well.
        let denied = INSERT_NOTE.bind(2_i64).execute(&interlock).await;
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::Denied);
        let events = recorder.take();
        assert!(
            matches!(
                &events[..],
                [
                    Seen::Statement { ok: true, .. },
                    Seen::Statement { ok: true, .. },
                    Seen::Attempt { .. },
                    Seen::Finished {
                        error: Some(ErrorKind::Denied),
                        ..
                    }
                ]
            ),
            "{events:#?}"
        );
    });
}

#[test]
fn conditional_write_on_a_tx_has_the_phase_of_the_handler_and_in_a_hook_of_the_hook() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        let hooked = interlock.clone();
        let handler = move |mut tx: Tx| async move {
            INSERT_NOTE.bind(3_i64).execute(&mut tx).await.unwrap_err();
            tx.after_commit(async move {
                INSERT_NOTE.bind(4_i64).execute(&hooked).await.unwrap_err();
            });
            "ok"
        };
        put(&guarded(interlock.require(anyone), handler), "/1", "").await;
        interlock.drain().await;
        let statements = recorder.take_statements().into_iter();
        let phases: Vec<_> = statements.map(|(phase, _)| phase).collect();
        // The write and its diagnosis.
        let expected = [Phase::Handler, Phase::Handler, Phase::Hook, Phase::Hook];
        assert_eq!(phases, expected);
    });
}

#[test]
fn transaction_is_observed_by_its_name() {
    test(async |kit| {
        let (interlock, recorder) = kit.observed();
        interlock
            .transaction()
            .named("notes.add")
            .principal("system")
            .run(async |mut tx: Tx| {
                assert_eq!(tx.principal(), Some("system"));
                Ok::<_, Error>(note(&mut tx, 1).await?)
            })
            .await
            .unwrap();
        let events = recorder.take();
        let finished = Seen::Finished {
            kind: WorkKind::Transaction,
            names: vec!["notes.add"],
            principal: Some("system".to_owned()),
            attempts: 1,
            outcome: Outcome::Committed,
            error: None,
        };
        assert_eq!(events.last(), Some(&finished));
        assert!(matches!(
            events[0],
            Seen::Statement {
                phase: Phase::Work,
                ..
            }
        ));
    });
}

#[test]
fn rejected_body_is_observed_as_finished_without_attempts() {
    test(async |kit| {
        let recorder = Recorder::default();
        let builder = kit.builder().body_limit(1).observe(recorder.clone());
        let app = guarded(builder.build().require(anyone), write);
        put(&app, "/1", "long").await;
        assert_eq!(recorder.last(), Some((Outcome::NoTransaction, 0)));
    });
}

#[test]
fn panic_in_the_observer_changes_nothing() {
    struct Panics;
    impl Observer for Panics {
        fn statement_executed(&self, _: &StatementExecuted<'_>) {
            std::panic::resume_unwind(Box::new("statement"));
        }
        fn attempt_ended(&self, _: &AttemptEnded<'_>) {
            std::panic::resume_unwind(Box::new("attempt"));
        }
        fn work_finished(&self, _: &WorkFinished<'_>) {
            std::panic::resume_unwind(Box::new("finished"));
        }
    }
    test(async |kit| {
        let interlock = kit.builder().observe(Panics).build();
        let response = put(&guarded(interlock.require(anyone), write), "/1", "").await;
        assert_eq!(response.status, 200);
        INSERT_NOTE
            .bind(1_i64)
            .execute(&interlock)
            .await
            .unwrap_err();
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn principal_is_read_once_from_the_request_and_authorizes_nothing() {
    fn principal(parts: &Parts) -> Option<String> {
        Some(parts.headers.get("user")?.to_str().ok()?.to_owned())
    }
    async fn handler(headers: HeaderMap, mut tx: Tx) -> Result<(), Error> {
        assert_eq!(
            tx.principal(),
            headers.get("user").map(|user| user.to_str().unwrap())
        );
        Ok(note(&mut tx, 1).await?)
    }
    test(async |kit| {
        let recorder = Recorder::default();
        let builder = kit.builder().principal(principal).observe(recorder.clone());
        let interlock = builder.build();
        let inner = interlock.require(anyone);
        let app = guarded(inner, handler).route_layer(interlock.require(anyone));
        for user in [Some("alice"), None] {
            let mut request = axum::http::Request::put("/1");
            if let Some(user) = user {
                request = request.header("user", user);
            }
            let request = request.body(axum::body::Body::empty()).unwrap();
            crate::kit::send(&app, request).await;
            let events = recorder.take();
            let Some(Seen::Finished { principal, .. }) = events.last() else {
                panic!("{events:?}");
            };
            assert_eq!(principal.as_deref(), user);
        }
        // A denial stays a denial, whichever principal is recorded.
        let denied = guarded(interlock.require(can_edit), write);
        let request = axum::http::Request::put("/2").header("user", "alice");
        let request = request.body(axum::body::Body::empty()).unwrap();
        let response = crate::kit::send(&denied, request).await;
        response.assert_problem(ErrorKind::Denied);
    });
}

#[test]
fn transaction_inherits_the_principal_of_its_request() {
    async fn handler(
        Extension(interlock): Extension<tower_interlock::Interlock>,
    ) -> Result<(), Error> {
        interlock
            .transact(async |tx: Tx| {
                assert_eq!(tx.principal(), Some("alice"));
                Ok::<_, Error>(())
            })
            .await
    }
    test(async |kit| {
        let builder = kit.builder().principal(|_| Some("alice".to_owned()));
        let interlock = builder.build();
        let layer = interlock.require(anyone);
        let app = Router::new()
            .route("/", put_route(handler).route_layer(layer))
            .layer(Extension(interlock));
        assert_eq!(put(&app, "/", "").await.status, 200);
    });
}
