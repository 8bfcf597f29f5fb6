//! Requests: the layer, policies, bodies, responses.

mod body;
mod extract;
mod idempotency;
mod kept;
mod layer;
mod options;
mod policy;
pub(crate) mod precondition;
mod problem;
mod reads;
mod receipt;
mod response;
mod route;
mod service;
mod source;
mod work;

pub use self::{
    layer::AuthorizeLayer,
    policy::{Authorized, Policy},
    service::{AuthorizeService, ResponseFuture},
};
pub(crate) use self::{options::Options, policy::PolicyWithState};
