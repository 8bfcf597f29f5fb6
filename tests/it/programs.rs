//! Random requests are compared with the model: statements, savepoints, errors, panics, nested
//! layers, clients that disconnect and connections that break, in any order.
//!
//! `PROPTEST_CASES` is the number of requests.

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use futures::FutureExt as _;
use proptest::{
    collection::vec,
    option,
    prelude::*,
    test_runner::{Config, TestCaseError, TestError, TestRunner, contextualize_config},
};
use support::{Fault, Moment, Proxy, ServerError, drop_after};
use tokio::{runtime::Handle, select, task::block_in_place};
use tower::ServiceExt as _;
use tower_interlock::{Interlock, Outcome};

use crate::{
    kit::{self, Kit, test},
    model::{Prediction, Reply, Strike, World, predict},
    script::{
        Close, EFFECTS, End, FOREVER, Layer, OnError, Part, Plain, Script, Settings, Stage,
        Statement, Step,
    },
};

/// A request and its faults.
#[derive(Debug, Clone)]
struct Case {
    script: Script,
    strikes: Vec<Strike>,
    /// The client disconnects after this number of polls.
    polls: Option<i64>,
    /// It waits for a response that never comes.
    waits: bool,
    handoff: bool,
    runner: Runner,
}

/// The part of the crate that runs the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    Layer,
    /// `transact` runs the handler's part.
    Transact,
}

/// The observed result of a request.
#[derive(Debug)]
struct Seen {
    /// `None` if the client disconnected.
    response: Option<Reply>,
    report: Option<(Outcome, u32)>,
    rows: Vec<i64>,
    hooks: Vec<i64>,
}

const CASES: u32 = 1000;
const POOL: u32 = 2;
const DEADLINE: Duration = Duration::from_secs(1);

#[test]
fn random_requests_match_model() {
    match_model(Runner::Layer);
}

#[test]
fn random_transactions_match_model() {
    match_model(Runner::Transact);
}

fn match_model(runner: Runner) {
    test(async move |kit| {
        kit.database.run(EFFECTS).await;
        let proxy = Proxy::start(&kit.database);
        let options = Interlock::pool_options().max_connections(POOL);
        let pool = options.connect_lazy_with(proxy.options());
        let kit = Kit { pool, ..kit };

        let config = contextualize_config(Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        });
        let requests = AtomicI64::new(0);
        block_in_place(|| {
            let held = TestRunner::new(config).run(&case(runner), |case| {
                let request = requests.fetch_add(1, Ordering::Relaxed);
                Handle::current().block_on(case.hold(request, &kit, &proxy))
            });
            match held {
                Ok(()) => println!("{requests:?} requests"),
                Err(TestError::Fail(reason, case)) => panic!("{reason}\n{case:?}"),
                Err(error) => panic!("{error}"),
            }
        });
    });
}

impl Case {
    /// Sends the request, and compares the result with the prediction.
    async fn hold(mut self, request: i64, kit: &Kit, proxy: &Proxy) -> Result<(), TestCaseError> {
        let world = World {
            server: kit.database.kind(),
            pool: POOL,
            strikes: self.strikes.clone(),
        };
        let mut predicted = predict(&self.script, &world);
        if self.waits && predicted.response == Reply::Gone {
            self.script.settings.deadline = DEADLINE;
            predicted = predict(&self.script, &world);
        }
        for (moment, fault, times) in self.strikes.clone() {
            proxy.inject_times(times as usize, moment, fault);
        }
        let seen = self.see(request, kit).await;
        proxy.relent();
        kit.assert_nothing_leaked().await;
        if seen.agrees_with(&predicted) {
            Ok(())
        } else {
            let difference = format!("predicted: {predicted:?}\nseen: {seen:?}");
            Err(TestCaseError::fail(difference))
        }
    }

    async fn see(&self, request: i64, kit: &Kit) -> Seen {
        let builder = kit.builder().handoff(self.handoff);
        let stage = Stage::new(request, &kit.outside);
        let (app, interlock) = match self.runner {
            Runner::Layer => self.script.app(builder, &stage),
            Runner::Transact => self.script.transact_app(builder, &stage),
        };
        let sent = drop_after(
            self.polls.unwrap_or(i64::MAX),
            app.oneshot(Script::request()),
        );
        let ended = select! {
            biased;
            ended = AssertUnwindSafe(sent).catch_unwind() => ended,
            () = stage.hung(), if self.script.settings.deadline == FOREVER => Ok(None),
        };
        let (response, report) = match ended {
            Ok(Some(Ok(response))) => {
                let response = kit::read(response).await;
                let report = match response.recorder() {
                    Some(recorder) => recorder.last().unwrap(),
                    None => (response.outcome(), response.report().attempts()),
                };
                (Some(Reply::of(&response)), Some(report))
            }
            Ok(Some(Err(never))) => match never {},
            Ok(None) => (None, None),
            Err(_) => (Some(Reply::Panic), None),
        };
        stage.let_go();
        interlock.drain().await;
        Seen {
            response,
            report,
            rows: stage.rows().await,
            hooks: stage.hooks(),
        }
    }
}

impl Seen {
    /// A dropped request is stored as a whole or not at all.
    fn agrees_with(&self, predicted: &Prediction) -> bool {
        let whole = self.rows == predicted.rows && self.hooks == predicted.hooks;
        let absent = self.rows.is_empty() && self.hooks.is_empty();
        let Some(response) = self.response else {
            return whole || absent;
        };
        let report = self
            .report
            .unwrap_or((predicted.outcome, predicted.attempts));
        whole
            && predicted.response.agrees_with(response)
            && report == (predicted.outcome, predicted.attempts)
    }
}

fn case(runner: Runner) -> impl Strategy<Value = Case> {
    let polls = option::weighted(0.2, 1..40_i64);
    let waits = prop::bool::weighted(0.1);
    let cases = (script(), vec(strike(), 0..3), polls, waits, any::<bool>());
    cases.prop_map(move |(mut script, mut strikes, polls, waits, handoff)| {
        if runner == Runner::Transact {
            script.keep_handler_only();
        }
        strikes.retain(|_| !script.abandons());
        Case {
            runner,
            script,
            strikes,
            polls,
            waits,
            handoff,
        }
    })
}

fn script() -> impl Strategy<Value = Script> {
    let rarely = || prop::bool::weighted(0.1);
    (
        settings(),
        layer(),
        option::weighted(0.3, layer()),
        part(handler_end()),
        rarely(),
        rarely(),
    )
        .prop_map(
            |(settings, outer, inner, handler, covered, caught)| Script {
                settings,
                outer,
                covered: covered && inner.is_some(),
                inner,
                handler,
                caught,
            },
        )
}

fn settings() -> impl Strategy<Value = Settings> {
    let rarely = || prop::bool::weighted(0.1);
    (1..5_u32, rarely(), rarely()).prop_map(|(max_attempts, dry_run, commit_if)| Settings {
        max_attempts,
        deadline: FOREVER,
        grace: Duration::ZERO,
        dry_run,
        commit_if,
    })
}

fn layer() -> impl Strategy<Value = Layer> {
    (prop::bool::weighted(0.1), part(policy_end()))
        .prop_map(|(read_only, policy)| Layer { read_only, policy })
}

fn part(end: impl Strategy<Value = End>) -> impl Strategy<Value = Part> {
    (vec(step(), 0..5), end).prop_map(|(steps, end)| Part { steps, end })
}

fn policy_end() -> impl Strategy<Value = End> {
    let status = prop::sample::select(&[403, 404, 401, 302, 200, 500, 503][..]);
    prop_oneof![
        16 => Just(End::Pass),
        2 => status.clone().prop_map(End::Respond),
        1 => status.prop_map(End::Keep),
        1 => Just(End::Escape),
    ]
}

fn handler_end() -> impl Strategy<Value = End> {
    let status = prop::sample::select(&[204, 400, 409, 201, 202, 303, 404, 500, 503, 102][..]);
    prop_oneof![
        12 => Just(End::Pass),
        4 => status.clone().prop_map(End::Respond),
        2 => status.prop_map(End::Keep),
        1 => Just(End::Escape),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let raw = (plain(), on_error())
        .prop_map(|(plain, on_error)| Step::Do(Statement::Raw(plain), on_error));
    prop_oneof![
        12 => anywhere(),
        6 => savepoint(),
        2 => raw,
        1 => Just(Step::RollbackOnly),
    ]
}

/// Steps with savepoints, nested to a depth of three.
fn savepoint() -> impl Strategy<Value = Step> {
    let close = || {
        prop_oneof![
            Just(Close::Release),
            Just(Close::RollBack),
            Just(Close::Drop)
        ]
    };
    let flat = (vec(anywhere(), 0..4), close(), on_error())
        .prop_map(|(steps, close, on_error)| Step::Savepoint(steps, close, on_error));
    flat.prop_recursive(2, 8, 3, move |inside| {
        let steps = vec(prop_oneof![3 => anywhere(), 1 => inside], 0..4);
        (steps, close(), on_error())
            .prop_map(|(steps, close, on_error)| Step::Savepoint(steps, close, on_error))
    })
}

/// A step that is also possible on a savepoint.
fn anywhere() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (statement(), on_error()).prop_map(|(statement, on_error)| Step::Do(statement, on_error)),
        4 => Just(Step::Hook),
        1 => Just(Step::Sleep),
        1 => Just(Step::Abandon),
        1 => Just(Step::Hang),
        1 => Just(Step::Panic),
    ]
}

fn statement() -> impl Strategy<Value = Statement> {
    prop_oneof![
        20 => plain().prop_map(Statement::Plain),
        3 => any::<bool>().prop_map(|fails| Statement::Stream { fails }),
        3 => Just(Statement::Several),
        1 => Just(Statement::HiddenEnd),
        2 => Just(Statement::Control),
        1 => Just(Statement::Rival),
    ]
}

fn plain() -> impl Strategy<Value = Plain> {
    prop_oneof![
        6 => Just(Plain::Write),
        1 => Just(Plain::Read),
        1 => Just(Plain::Missing),
        2 => Just(Plain::Fail),
        1 => (1..4_u32).prop_map(Plain::Conflict),
    ]
}

fn on_error() -> impl Strategy<Value = OnError> {
    prop_oneof![Just(OnError::Swallow), Just(OnError::PassOn)]
}

fn strike() -> impl Strategy<Value = Strike> {
    let moment = prop_oneof![
        1 => Just(Moment::Begin),
        6 => (1..9_usize).prop_map(Moment::Statement),
        2 => Just(Moment::Commit),
        1 => Just(Moment::Rollback),
    ];
    let fault = prop_oneof![
        Just(Fault::CutBefore),
        Just(Fault::CutAfter),
        Just(Fault::Reject(ServerError::RESTART)),
        Just(Fault::Reject(ServerError::error("XX000", "internal error"))),
        Just(Fault::Terminate(ServerError::SHUTDOWN)),
    ];
    (moment, fault, 1..3_u32)
}
