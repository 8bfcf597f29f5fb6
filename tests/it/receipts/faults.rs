//! Every fault around COMMIT, around the receipt and around the fence: the response is right, and
//! the effect is there exactly once when the request is repeated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, extract::Path, routing::post};
use futures::{StreamExt as _, stream};
use support::{Fault, Moment, Proxy, ServerError};
use tokio::time::timeout;
use tower_interlock::{AuthorizeLayer, Error, ErrorKind, Interlock, Outcome, Tx};

use super::{add_effect, count_effects, keyed, make_tables, with_receipts};
use crate::kit::{Kit, TestResponse, anyone, send, test};

const STORE: Moment =
    Moment::Text("INSERT INTO interlock_receipts (key, attempt, status, fingerprint");
const FIND: Moment = Moment::Text("AND status <> 0");
const FENCE: Moment = Moment::Text("VALUES ($1, $2, 0, now()");

const FOREVER: usize = 1_000;

/// A request, and the faults that it meets.
#[derive(Debug, Clone)]
struct Cell {
    strikes: Vec<(Moment, Fault, usize)>,
    /// Whether nothing can tell what has become of its COMMIT. Then it has no idempotency key, by
    /// which its receipt would be found.
    may_be_unknown: bool,
}

fn faults() -> Vec<Fault> {
    vec![
        Fault::CutBefore,
        Fault::CutSent,
        Fault::CutAfter,
        Fault::Swallow,
        Fault::Stall,
        Fault::Terminate(ServerError::SHUTDOWN),
        Fault::Misreport(ServerError::SHUTDOWN),
        Fault::Reject(ServerError::RESTART),
    ]
}

/// Runs each cell on a proxy and a pool of its own.
fn play(cells: Vec<Cell>) {
    test(async |kit| {
        make_tables(&kit).await;
        let number = AtomicI64::new(0);
        let cells = cells.into_iter().map(|cell| {
            let number = number.fetch_add(1, Relaxed);
            let kit = &kit;
            async move {
                let verdict = timeout(Duration::from_secs(60), cell.judge(kit, number)).await;
                let verdict = verdict.unwrap_or_else(|_| Some("it hangs".to_owned()));
                verdict.map(|verdict| format!("{cell:?}: {verdict}"))
            }
        });
        let wrong: Vec<_> = stream::iter(cells).buffer_unordered(12).collect().await;
        let wrong: Vec<_> = wrong.into_iter().flatten().collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}

#[test]
fn fault_at_commit_is_decided() {
    let single = faults().into_iter().flat_map(|fault| {
        [1, 2].map(|times| Cell {
            strikes: vec![(Moment::Commit, fault.clone(), times)],
            may_be_unknown: false,
        })
    });
    play(single.collect());
}

#[test]
fn fault_at_fence_is_overcome() {
    let mut cells = Vec::new();
    for commit in [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::Swallow,
        Fault::Stall,
    ] {
        for fence in faults() {
            cells.push(Cell {
                strikes: vec![(Moment::Commit, commit.clone(), 1), (FENCE, fence, 1)],
                may_be_unknown: false,
            });
        }
    }
    play(cells);
}

#[test]
fn fence_that_never_succeeds_leaves_the_outcome_unknown() {
    let mut cells = Vec::new();
    for commit in [Fault::CutBefore, Fault::CutAfter] {
        for fence in [
            Fault::CutBefore,
            Fault::Stall,
            Fault::Reject(ServerError::RESTART),
        ] {
            cells.push(Cell {
                strikes: vec![(Moment::Commit, commit.clone(), 1), (FENCE, fence, FOREVER)],
                may_be_unknown: true,
            });
        }
    }
    play(cells);
}

#[test]
fn fault_at_receipt_or_at_search_is_overcome_or_changes_nothing() {
    let mut cells = Vec::new();
    for moment in [STORE, FIND] {
        for fault in faults() {
            for times in [1, 2] {
                cells.push(Cell {
                    strikes: vec![(moment.clone(), fault.clone(), times)],
                    may_be_unknown: false,
                });
            }
        }
    }
    play(cells);
}

/// What has become of a request.
#[derive(Debug)]
struct Seen {
    kind: Option<ErrorKind>,
    response: TestResponse,
    effects: i64,
    hooks: i64,
}

impl Cell {
    /// What is wrong, if anything is.
    async fn judge(&self, kit: &Kit, number: i64) -> Option<String> {
        let proxy = Proxy::start(&kit.database);
        let hooks = Arc::new(AtomicI64::new(0));
        let process = || Process::new(&proxy, number, &hooks);
        for (moment, fault, times) in &self.strikes {
            proxy.inject_times(*times, moment.clone(), fault.clone());
        }
        let seen = process().send(kit, &proxy, !self.may_be_unknown).await;
        if proxy.counts().faults == 0 {
            return Some("nothing went wrong".to_owned());
        }
        if !self.is_right(&seen) {
            return Some(format!("{seen:?}"));
        }
        if self.may_be_unknown {
            return None;
        }
        // The client repeats it, at another process.
        let again = process().send(kit, &proxy, true).await;
        let is_done = again.kind.is_none() && again.response.status == 201;
        let right = is_done && again.effects == 1 && again.hooks <= 1;
        (!right).then(|| format!("{seen:?}, again {again:?}"))
    }

    fn is_right(&self, seen: &Seen) -> bool {
        match seen.kind {
            _ if self.may_be_unknown => {
                seen.kind == Some(ErrorKind::OutcomeUnknown)
                    && seen.response.outcome() == Outcome::Unknown
                    && seen.effects <= 1
                    && seen.hooks <= seen.effects
            }
            None => seen.response.status == 201 && seen.effects == 1 && seen.hooks == 1,
            Some(ErrorKind::OutcomeUnknown) => false,
            Some(_) => seen.effects == 0 && seen.hooks == 0,
        }
    }
}

/// One of the processes that serve the route.
struct Process<'a> {
    interlock: Interlock,
    number: i64,
    hooks: &'a Arc<AtomicI64>,
}

impl<'a> Process<'a> {
    fn new(proxy: &Proxy, number: i64, hooks: &'a Arc<AtomicI64>) -> Self {
        let pool = Interlock::pool_options().max_connections(2);
        let pool = pool.connect_lazy_with(proxy.options());
        let interlock = with_receipts(Interlock::builder(pool))
            .deadline(Duration::from_secs(3))
            .grace(Duration::from_secs(3))
            .handoff(number % 2 == 0)
            .build();
        Self {
            interlock,
            number,
            hooks,
        }
    }

    /// Sends the request, ends the faults, and waits until everything is over.
    async fn send(self, kit: &Kit, proxy: &Proxy, is_idempotent: bool) -> Seen {
        let layer = self.interlock.require(anyone);
        let layer = if is_idempotent {
            layer.idempotent()
        } else {
            layer
        };
        let response = send(&app(layer, self.hooks), keyed(self.number, "a")).await;
        proxy.relent();
        self.interlock.drain().await;
        Seen {
            kind: response.error().map(Error::kind),
            effects: count_effects(kit, self.number).await,
            hooks: self.hooks.load(Relaxed),
            response,
        }
    }
}

fn app(layer: AuthorizeLayer, hooks: &Arc<AtomicI64>) -> Router {
    let hooks = Arc::clone(hooks);
    let handler = async move |Path(request): Path<i64>, mut tx: Tx| {
        add_effect(&mut tx, request).await?;
        tx.after_commit(async move {
            hooks.fetch_add(1, Relaxed);
        });
        Ok::<_, Error>((axum::http::StatusCode::CREATED, "done"))
    };
    Router::new().route("/effects/{request}", post(handler).route_layer(layer))
}
