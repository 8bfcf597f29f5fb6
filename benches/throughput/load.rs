//! Clients. Each sends one request after the other.

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
    metrics::{Metrics, milliseconds, quantile},
    scenario::{GRANTEE, RequestKind, STRANGER, Scenario},
    ways::{User, attempts},
};

/// Sums over the exchanges of clients.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// The sum of the clients' times.
    elapsed: Duration,
    /// The CPU time of the whole process.
    cpu: Duration,
    /// Latencies of the expected responses, in milliseconds.
    latencies: Vec<f64>,
    failures: u32,
    attempts: u32,
    /// The number of responses that report their attempts.
    reported: u32,
}

impl Tally {
    /// Lets the clients of a scenario send for some time. Each finishes its last request.
    pub(crate) async fn measure(app: &Router, scenario: Scenario, time: Duration) -> Self {
        let clients = (0..scenario.clients).map(|_| {
            let app = app.clone();
            tokio::spawn(async move { Self::measure_client(&app, scenario, time).await })
        });
        let before = cpu::time();
        let mut all = Self::default();
        for one in join_all(clients).await {
            all.add(one.unwrap());
        }
        let used = cpu::time()
            .zip(before)
            // The sum shrinks when a thread ends.
            .map(|(after, before)| after.saturating_sub(before));
        all.cpu = used.unwrap_or_default();
        all
    }

    async fn measure_client(app: &Router, scenario: Scenario, time: Duration) -> Self {
        let begin = Instant::now();
        let mut tally = Self::default();
        while tally.elapsed < time {
            let exchange = send(app, scenario).await;
            tally.elapsed = begin.elapsed();
            if exchange.expected {
                tally.latencies.push(milliseconds(exchange.latency));
            } else {
                tally.failures += 1;
            }
            if let Some(attempts) = exchange.attempts {
                tally.attempts += attempts;
                tally.reported += 1;
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
        self.reported += other.reported;
    }

    /// Computes the metrics.
    pub(crate) fn metrics(mut self, clients: usize, connections: u32) -> Metrics {
        self.latencies.sort_by(f64::total_cmp);
        let seconds = self.elapsed.as_secs_f64() / clients as f64;
        let responses = self.latencies.len() as f64 + f64::from(self.failures);
        let quantile = |part| quantile(&self.latencies, part).unwrap_or(f64::NAN);
        Metrics {
            successes: self.latencies.len() as f64 / seconds,
            failures: f64::from(self.failures) / seconds,
            p50: quantile(0.5),
            p99: quantile(0.99),
            attempts: (self.reported > 0)
                .then(|| f64::from(self.attempts) / f64::from(self.reported)),
            cpu: (!self.cpu.is_zero()).then(|| milliseconds(self.cpu) * 1000.0 / responses),
            connections,
        }
    }
}

/// The result of one request.
pub(crate) struct Exchange {
    /// Whether the response has the expected status.
    pub(crate) expected: bool,
    pub(crate) latency: Duration,
    attempts: Option<u32>,
}

/// Sends one request, and reads the response to its end.
pub(crate) async fn send(app: &Router, scenario: Scenario) -> Exchange {
    let (user, status) = if fastrand::f64() < scenario.without_grant {
        (STRANGER, StatusCode::FORBIDDEN)
    } else {
        (GRANTEE, StatusCode::OK)
    };
    let path = format!("/documents/{}", fastrand::i64(1..=scenario.rows));
    let request = match scenario.request {
        RequestKind::Read => Request::get(path).body(Body::empty()),
        RequestKind::ReadAllAndWrite => Request::post(path).body(Body::from(BODY)),
        RequestKind::Write => {
            // Every way gets the header, and two of them read it.
            let key = fastrand::u128(..).to_string();
            let request = Request::put(path).header("idempotency-key", key);
            request.body(Body::from(BODY))
        }
    };
    let mut request = request.unwrap();
    request.extensions_mut().insert(User(user));

    let sent = Instant::now();
    let response = app.clone().oneshot(request).await.unwrap();
    let expected = response.status() == status;
    let attempts = attempts(&response);
    to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Exchange {
        expected,
        latency: sent.elapsed(),
        attempts,
    }
}

const BODY: &str = "a body of a hundred bytes, about as long as a short note; \
                    each request of this bench writes it once.";
