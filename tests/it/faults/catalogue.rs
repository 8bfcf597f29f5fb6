//! The faults and their moments.

use std::{iter, time::Duration};

use support::{Fault, Kind, Moment, ServerError};

/// BEGIN, and the statements of the transaction.
pub(super) fn before() -> impl Iterator<Item = Moment> {
    iter::once(Moment::Begin).chain((1..=9).map(Moment::Statement))
}

/// Faults after which the client notices something soon.
pub(super) fn heard() -> impl Iterator<Item = Fault> + Clone {
    let rejected = ERRORS.map(|code| Fault::Reject(ServerError::error(code, TEXT)));
    let terminated = FATAL.map(|code| Fault::Terminate(ServerError::fatal(code, TEXT)));
    CUTS.into_iter().chain(rejected).chain(terminated)
}

pub(super) const CUTS: [Fault; 4] = [
    Fault::Delay(Duration::from_millis(20)),
    Fault::CutBefore,
    Fault::CutSent,
    Fault::CutAfter,
];

/// Longer than a short deadline.
const LATE: Duration = Duration::from_millis(3500);

/// Faults after which the client notices nothing in time.
pub(super) const SILENT: [Fault; 3] = [Fault::Stall, Fault::Swallow, Fault::Delay(LATE)];

const ERRORS: [&str; 22] = [
    "40001", "40P01", "40003", "08006", "08P01", "0A000", "22012", "23505", "25006", "25P02",
    "42501", "53100", "53300", "55P03", "57014", "57P01", "58030", "58C00", "P0001", "XX000",
    "XXC02", "XXUUU",
];

pub(super) const FATAL: [&str; 11] = [
    "08006", "08P01", "25P03", "25P04", "53300", "57P01", "57P02", "57P03", "57P05", "58030",
    "XX000",
];

/// Errors on CockroachDB after which COMMIT may have been executed.
pub(super) const UNSURE: [&str; 8] = [
    "08006", "40003", "57014", "57P01", "58030", "XX000", "XXUUU", "XXA00",
];

/// The kinds that the crate takes the server for. PostgreSQL is also tested as CockroachDB.
pub(super) fn taken_for(server: Kind) -> Vec<Kind> {
    match server {
        Kind::CockroachDb => vec![server],
        Kind::PostgreSql => vec![server, Kind::CockroachDb],
    }
}

/// A text that must not reach a client.
pub(super) const TEXT: &str = "restart transaction: key=/Table/grants/SELECT";

/// How often a fault occurs. A fault that is retried also occurs in every attempt.
pub(super) fn times(fault: &Fault) -> &'static [u32] {
    let retried = match fault {
        Fault::CutBefore | Fault::CutSent | Fault::CutAfter => true,
        Fault::Reject(error) => RETRIED.contains(&error.code()),
        Fault::Terminate(error) => !FINAL.contains(&error.code()),
        _ => false,
    };
    if retried { &[1, ALWAYS] } else { &[1] }
}

const RETRIED: [&str; 4] = ["08006", "40001", "40P01", "57P01"];

/// The errors that end a session and would end the next one.
const FINAL: [&str; 2] = ["25P03", "25P04"];

/// In every attempt.
pub(super) const ALWAYS: u32 = 1000;

/// All pairs of the two.
pub(super) fn pairs<A: Clone, B>(
    ones: impl IntoIterator<Item = A>,
    others: impl IntoIterator<Item = B> + Clone,
) -> impl Iterator<Item = (A, B)> {
    let ones = ones.into_iter();
    ones.flat_map(move |one| {
        others
            .clone()
            .into_iter()
            .map(move |other| (one.clone(), other))
    })
}
