//! The race: a revocation commits while a request is held, at every point of the request.

mod administrator;
mod gate;
mod messages;
mod pump;
mod run;
mod verdict;
mod wire;

pub use self::{
    run::Race,
    verdict::{Finding, Point, RaceError, Verdict},
    wire::Wire,
};
