//! Clients that send one request after the other.

use std::time::{Duration, Instant};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode},
};
use futures::future::join_all;
use tower::ServiceExt as _;

use crate::{
    cpu,
    figures::{Figures, milliseconds, quantile},
    scenario::{OWNER, STRANGER, Scenario},
    ways::{User, attempts},
};

/// What clients have seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The clients' time, all together.
    elapsed: Duration,
    /// Of the whole process.
    cpu: Duration,
    /// Of the right answers, in milliseconds.
    latencies: Vec<f64>,
    failures: u32,
    attempts: u32,
    /// The answers that tell their attempts.
    counted: u32,
}

impl Tally {
    /// Lets all clients of a scenario send for a time, and then finish what they have begun.
    pub(crate) async fn take(app: &Router, scenario: Scenario, time: Duration) -> Self {
        let clients = (0..scenario.clients).map(|_| {
            let app = app.clone();
            tokio::spawn(async move { Self::of_one(&app, scenario, time).await })
        });
        let before = cpu::time();
        let mut all = Self::default();
        for one in join_all(clients).await {
            all.add(one.unwrap());
        }
        let used = cpu::time()
            .zip(before)
            // A thread that has ended meanwhile has taken its time along.
            .map(|(after, before)| after.saturating_sub(before));
        all.cpu = used.unwrap_or_default();
        all
    }

    async fn of_one(app: &Router, scenario: Scenario, time: Duration) -> Self {
        let begin = Instant::now();
        let mut tally = Self::default();
        while tally.elapsed < time {
            let answer = ask(app, scenario).await;
            tally.elapsed = begin.elapsed();
            if answer.right {
                tally.latencies.push(milliseconds(answer.latency));
            } else {
                tally.failures += 1;
            }
            if let Some(attempts) = answer.attempts {
                tally.attempts += attempts;
                tally.counted += 1;
            }
        }
        tally
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.elapsed += other.elapsed;
        self.cpu += other.cpu;
        self.latencies.extend(other.latencies);
        self.failures += other.failures;
        self.attempts += other.attempts;
        self.counted += other.counted;
    }

    /// Sums up what so many clients have seen, on so many connections.
    pub(crate) fn figures(mut self, clients: usize, connections: u32) -> Figures {
        self.latencies.sort_by(f64::total_cmp);
        let seconds = self.elapsed.as_secs_f64() / clients as f64;
        let answers = self.latencies.len() as f64 + f64::from(self.failures);
        let quantile = |part| quantile(&self.latencies, part).unwrap_or(f64::NAN);
        Figures {
            successes: self.latencies.len() as f64 / seconds,
            failures: f64::from(self.failures) / seconds,
            p50: quantile(0.5),
            p99: quantile(0.99),
            attempts: (self.counted > 0)
                .then(|| f64::from(self.attempts) / f64::from(self.counted)),
            cpu: (!self.cpu.is_zero()).then(|| milliseconds(self.cpu) * 1000.0 / answers),
            connections,
        }
    }
}

/// An answer, as far as it counts.
pub(crate) struct Answer {
    /// Whether it has the status that was to be expected.
    pub(crate) right: bool,
    pub(crate) latency: Duration,
    attempts: Option<u32>,
}

/// Sends one request, and reads the answer to its end.
pub(crate) async fn ask(app: &Router, scenario: Scenario) -> Answer {
    let (user, expected) = if fastrand::f64() < scenario.strangers {
        (STRANGER, StatusCode::FORBIDDEN)
    } else {
        (OWNER, StatusCode::OK)
    };
    let path = format!("/documents/{}", fastrand::i64(1..=scenario.rows));
    let request = if scenario.reads {
        Request::get(path).body(Body::empty())
    } else {
        Request::put(path).body(Body::from(BODY))
    };
    let mut request = request.unwrap();
    request.extensions_mut().insert(User(user));

    let asked = Instant::now();
    let response = app.clone().oneshot(request).await.unwrap();
    let right = response.status() == expected;
    let attempts = attempts(&response);
    to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer {
        right,
        latency: asked.elapsed(),
        attempts,
    }
}

const BODY: &str = "a body of a hundred bytes, which is about as much as a short note has; it is written again and again";
