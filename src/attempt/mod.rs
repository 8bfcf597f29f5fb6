//! The engine: it runs work until that has an outcome. It knows nothing of HTTP.

mod backoff;
mod budget;
mod commit;
mod decide;
mod engine;
mod examine;
mod failure;
mod limits;
mod queue;
mod reply;
mod run;
mod settle;
mod work;

pub use self::backoff::Backoff;
pub(crate) use self::{
    engine::Engine,
    failure::{Failure, Retry},
    limits::Limits,
    reply::{Reply, ReplyClass},
    run::run,
    work::{Attempt, Step, Work},
};
