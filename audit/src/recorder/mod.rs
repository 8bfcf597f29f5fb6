//! The recorder: which statements a request has run, inside and outside of its transaction.

mod events;
mod exchange;
mod observer;
mod record;
mod service;
mod store;

pub use self::{
    events::Events,
    record::Recorder,
    service::{RecorderLayer, RecorderService},
};
