//! The trace: requests, and the statements that each of them ran; and the file of it.

mod exchange;
mod file;

pub use self::exchange::{Ending, Exchange, Kind, Place, Statement, Step, Trace, WorkDone};
