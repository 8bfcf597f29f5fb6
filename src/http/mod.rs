//! Requests: the layer, policies, bodies, responses.

mod body;
mod extract;
mod idempotency;
mod kept;
mod layer;
mod mark;
mod options;
mod policy;
pub(crate) mod precondition;
pub(crate) mod probe;
mod problem;
mod reads;
mod receipt;
mod reply;
mod response;
mod route;
mod service;
mod signature;
mod source;
mod work;

pub use self::{
    layer::AuthorizeLayer,
    mark::{MarkFuture, MarkLayer, MarkService},
    policy::{Authorized, Policy},
    service::{AuthorizeService, ResponseFuture},
};
pub(crate) use self::{options::Options, policy::PolicyWithState};
