//! Every fault at every moment of a request is compared with the model. A proxy injects the faults.

mod catalogue;
mod cell;
mod writes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use support::{Fault, Kind, Moment, ServerError};
use tower::ServiceExt as _;
use tower_interlock::{Error, ErrorKind, Interlock, Tx};

use self::{
    catalogue::{ALWAYS, FATAL, SILENT, TEXT, UNSURE, before, heard, pairs, taken_for, times},
    cell::{Cell, SLACK, behind_a_proxy, compare, prepare},
};
use crate::{
    kit::{self, Kit, anyone, guarded, note, put, test},
    script::{
        Close, EFFECTS, End, Layer, OnError, Part, Plain, Script, Settings, Stage, Statement, Step,
    },
};

const ATTEMPTS: u32 = 3;

const LONG: Duration = Duration::from_secs(10);
/// The deadline of requests that wait for a silent server.
const SHORT: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_millis(300);

#[test]
fn fault_before_commit_is_overcome_or_rolled_back() {
    play(|server| {
        let mut cells = Vec::new();
        for (moment, fault) in pairs(before(), heard()) {
            for (on_error, times) in pairs([OnError::PassOn, OnError::Swallow], times(&fault)) {
                let strike = (moment.clone(), fault.clone(), *times);
                cells.push(Cell::new(script(on_error), strike, server));
            }
        }
        cells
    });
}

#[test]
fn silence_before_commit_ends_at_deadline() {
    play(|server| {
        let cells = pairs(before(), SILENT).map(|(moment, fault)| {
            let script = with_short_deadline(script(OnError::PassOn));
            Cell::new(script, (moment, fault, 1), server)
        });
        // If the deadline is far away, BEGIN is retried on another connection.
        let begins = SILENT.map(|fault| {
            let script = script(OnError::PassOn);
            Cell::new(script, (Moment::Begin, fault, 1), server)
        });
        cells.chain(begins).collect()
    });
}

#[test]
fn unknown_commit_outcome_is_reported_and_not_retried() {
    play(|server| {
        let mut cells = Vec::new();
        for server in taken_for(server) {
            let mut add = |fault, times| {
                let strike = (Moment::Commit, fault, times);
                cells.push(Cell::new(script(OnError::PassOn), strike, server));
            };
            for fault in heard() {
                times(&fault)
                    .iter()
                    .for_each(|times| add(fault.clone(), *times));
            }
            // COMMIT succeeds, and the server reports one of the errors that leave that open.
            for code in FATAL {
                add(Fault::Misreport(ServerError::fatal(code, TEXT)), 1);
            }
            for code in UNSURE.into_iter().filter(|_| server == Kind::CockroachDb) {
                add(Fault::Misreport(ServerError::error(code, TEXT)), 1);
            }
        }
        cells
    });
}

#[test]
fn silent_commit_is_unknown_and_continues() {
    play(|server| {
        let cells = pairs(taken_for(server), SILENT).map(|(server, fault)| {
            let script = with_short_deadline(script(OnError::PassOn));
            Cell::new(script, (Moment::Commit, fault, 1), server)
        });
        cells.collect()
    });
}

#[test]
fn fault_at_rollback_neither_changes_nor_delays_response() {
    play(|server| {
        let errors = [
            (End::Pass, End::Respond(409)),
            (End::Respond(403), End::Pass),
        ];
        let cells = pairs(heard().chain(SILENT), errors).map(|(fault, (policy, handler))| {
            let mut script = script(OnError::PassOn);
            script.outer.policy.end = policy;
            script.handler.end = handler;
            Cell::new(script, (Moment::Rollback, fault, 1), server)
        });
        cells.collect()
    });
}

#[test]
fn fault_at_rollback_does_not_prevent_retry() {
    play(|server| {
        let conflict = Step::Do(Statement::Plain(Plain::Conflict(1)), OnError::PassOn);
        let mut script = script(OnError::PassOn);
        script.handler.steps.insert(0, conflict);
        let cell = |script, fault| Cell::new(script, (Moment::Rollback, fault, 1), server);
        let cells = heard()
            .chain(SILENT)
            .map(|fault| cell(script.clone(), fault));
        let hurried = SILENT.map(|fault| cell(with_short_deadline(script.clone()), fault));
        cells.chain(hurried).collect()
    });
}

#[test]
fn fault_after_commit_has_no_effect() {
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let (kit, proxy) = behind_a_proxy(&kit, kit.database.kind()).await;
        // The connection of the previous request is dead.
        for request in 0..10 {
            let stage = Stage::new(request, &kit.outside);
            let (app, interlock) = script(OnError::PassOn).app(kit.builder(), &stage);
            let response = app.oneshot(Script::request()).await.unwrap();
            proxy.cut();
            assert_eq!(response.status(), 200);
            interlock.drain().await;
            assert_eq!(stage.hooks(), [4]);
            assert_eq!(stage.rows().await, [0, 1, 3]);
        }
        assert_eq!(proxy.counts().commits, 10);
    });
}

/// The check of a server comes before BEGIN, so it can be retried.
#[test]
fn fault_at_server_check_moves_to_another_connection() {
    const LOOK: Moment = Moment::Text("AS synchronous_commit");
    let terminated = Fault::Terminate(ServerError::SHUTDOWN);
    let rejected = Fault::Reject(ServerError::error("XX000", TEXT));
    let cases = [
        (Fault::CutBefore, LONG, None),
        (Fault::CutAfter, LONG, None),
        (terminated, LONG, None),
        (Fault::Stall, LONG, None),
        (Fault::Stall, SHORT, Some(ErrorKind::DeadlineExceeded)),
        (rejected, LONG, Some(ErrorKind::Database)),
    ];
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let cases = cases.into_iter().map(async |(fault, deadline, error)| {
            let (kit, proxy) = behind_a_proxy(&kit, kit.database.kind()).await;
            proxy.inject(LOOK, fault);
            let (response, stage) = send(&kit, deadline).await;
            assert_eq!(proxy.counts().faults, 1);
            assert_eq!(response.report().attempts(), 1);
            match error {
                Some(kind) => response.assert_problem(kind),
                None => assert_eq!(response.status, 200),
            }
            let stored: &[i64] = if error.is_none() { &[0, 1, 3] } else { &[] };
            assert_eq!(stage.rows().await, stored);
            kit.assert_nothing_leaked().await;
        });
        join_all(cases).await;
    });
}

/// A server that is starting, or has no free connection slot.
#[test]
fn failed_connection_is_retried_until_timeout() {
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let cases = ["57P03", "53300"].map(async |code| {
            let (kit, proxy) = behind_a_proxy(&kit, kit.database.kind()).await;
            proxy.cut();
            let terminated = Fault::Terminate(ServerError::fatal(code, TEXT));
            proxy.inject_times(ALWAYS as usize, Moment::Connect, terminated.clone());
            let (response, _) = send(&kit, SHORT).await;
            response.assert_problem(ErrorKind::DeadlineExceeded);
            let (response, stage) = send(&kit, LONG).await;
            response.assert_problem(ErrorKind::Unavailable);
            assert!(stage.rows().await.is_empty());

            proxy.relent();
            proxy.inject_times(2, Moment::Connect, terminated);
            let (response, stage) = send(&kit, LONG).await;
            assert_eq!(
                (response.status.as_u16(), response.report().attempts()),
                (200, 1)
            );
            assert_eq!(stage.rows().await, [0, 1, 3]);
            kit.assert_nothing_leaked().await;
        });
        join_all(cases).await;
    });
}

/// COPY needs the raw connection. In a text of a `Tx` no code continues its protocol.
#[test]
fn copy_in_text_fails_at_once() {
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let copies = [
            "COPY effects FROM STDIN",
            "SELECT 1; COPY effects FROM STDIN",
        ];
        for (copy, swallow) in pairs(copies, [false, true]) {
            let handler = move |mut tx: Tx| async move {
                note(&mut tx, 1).await?;
                let copied = sqlx::raw_sql(copy).execute(&mut tx).await;
                if swallow {
                    note(&mut tx, 2).await.unwrap_err();
                } else {
                    copied?;
                }
                Ok::<_, Error>(())
            };
            let interlock = Interlock::new(kit.pool.clone());
            let asked = Instant::now();
            let response = put(&guarded(interlock.require(anyone), handler), "/1", "").await;
            assert!(asked.elapsed() < SLACK, "it hangs");
            let (aborted, failed) = (ErrorKind::TransactionAborted, ErrorKind::Database);
            response.assert_problem(if swallow { aborted } else { failed });
            interlock.drain().await;
            kit.assert_nothing_leaked().await;
            assert!(kit.notes().await.is_empty());
        }
    });
}

/// Runs cells in one database.
fn play(cells: impl FnOnce(Kind) -> Vec<Cell>) {
    test(async |kit| {
        prepare(&kit).await;
        compare(&kit, cells(kit.database.kind()), Cell::compare).await;
    });
}

/// The request of the matrix: a check, a write, a released savepoint, a rolled back savepoint, a
/// write and a hook.
fn script(on_error: OnError) -> Script {
    let write = Step::Do(Statement::Plain(Plain::Write), on_error);
    let savepoint = |close| Step::Savepoint(vec![write.clone()], close, on_error);
    Script {
        settings: Settings {
            max_attempts: ATTEMPTS,
            deadline: LONG,
            grace: GRACE,
            dry_run: false,
            commit_if: false,
        },
        outer: Layer {
            read_only: false,
            policy: Part {
                steps: vec![Step::Do(Statement::Plain(Plain::Read), on_error)],
                end: End::Pass,
            },
        },
        inner: None,
        handler: Part {
            steps: vec![
                write.clone(),
                savepoint(Close::Release),
                savepoint(Close::RollBack),
                write.clone(),
                Step::Hook,
            ],
            end: End::Pass,
        },
        covered: false,
        caught: false,
    }
}

fn with_short_deadline(mut script: Script) -> Script {
    script.settings.deadline = SHORT;
    script
}

/// Sends the request of the matrix, and waits until it has ended in every respect.
async fn send(kit: &Kit, deadline: Duration) -> (kit::TestResponse, Arc<Stage>) {
    static REQUESTS: AtomicI64 = AtomicI64::new(0);
    let stage = Stage::new(REQUESTS.fetch_add(1, Ordering::Relaxed), &kit.outside);
    let mut script = script(OnError::PassOn);
    script.settings.deadline = deadline;
    let (app, interlock) = script.app(kit.builder(), &stage);
    let asked = Instant::now();
    let response = kit::read(app.oneshot(Script::request()).await.unwrap()).await;
    assert!(asked.elapsed() < deadline + SLACK, "too late");
    interlock.drain().await;
    (response, stage)
}
