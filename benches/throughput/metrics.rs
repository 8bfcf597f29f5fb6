//! The metrics of a round.

use std::time::Duration;

/// The metrics of one way in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metrics {
    /// Expected responses per second.
    pub(crate) successes: f64,
    /// Other responses per second.
    pub(crate) failures: f64,
    /// Latencies of the expected responses, in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Attempts per request, if the way reports them.
    pub(crate) attempts: Option<f64>,
    /// CPU time of this process per request, in microseconds, if the system reports it.
    pub(crate) cpu: Option<f64>,
    /// Connections of the pool at the end.
    pub(crate) connections: u32,
}

/// Selects one of the [`Metrics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Successes,
    Failures,
    P50,
    P99,
    Attempts,
    Cpu,
    Connections,
}

impl Metric {
    pub(crate) fn of(self, metrics: &Metrics) -> Option<f64> {
        match self {
            Self::Successes => Some(metrics.successes),
            Self::Failures => Some(metrics.failures),
            Self::P50 => Some(metrics.p50),
            Self::P99 => Some(metrics.p99),
            Self::Attempts => metrics.attempts,
            Self::Cpu => metrics.cpu,
            Self::Connections => Some(f64::from(metrics.connections)),
        }
        .filter(|number| number.is_finite())
    }
}

/// Returns a quantile of sorted numbers.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * part).round() as usize).copied()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
