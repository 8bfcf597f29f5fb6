//! What is measured, and how it is summed up.

use std::{fmt, time::Duration};

/// What a round has found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Answers a second that were the right ones.
    pub(crate) successes: f64,
    /// Other answers a second.
    pub(crate) failures: f64,
    /// Time to the right answers, in milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Of each request, where the way counts them.
    pub(crate) attempts: Option<f64>,
    /// CPU time of this process for each request, in microseconds, where it is known.
    pub(crate) cpu: Option<f64>,
    /// Connections that the pool had in the end.
    pub(crate) connections: u32,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    Successes,
    Failures,
    P50,
    P99,
    Attempts,
    Cpu,
    Connections,
}

impl Figure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Successes => "successes/s",
            Self::Failures => "failures/s",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Attempts => "attempts",
            Self::Cpu => "CPU",
            Self::Connections => "connections",
        }
    }

    pub(crate) fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Self::Successes => Some(figures.successes),
            Self::Failures => Some(figures.failures),
            Self::P50 => Some(figures.p50),
            Self::P99 => Some(figures.p99),
            Self::Attempts => figures.attempts,
            Self::Cpu => figures.cpu,
            Self::Connections => Some(f64::from(figures.connections)),
        }
        .filter(|number| number.is_finite())
    }
}

/// What several rounds have found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = numbers.collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: median(&sorted)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
        })
    }
}

/// With as many digits as asked for.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Self { median, min, max } = self;
        write!(f, "{median:.digits$}")?;
        if min < max {
            write!(f, " ({min:.digits$}–{max:.digits$})")?;
        }
        Ok(())
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]))
}

/// The quantile of sorted numbers.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * part).round() as usize).copied()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
