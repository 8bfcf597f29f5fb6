//! The settings that a layer and its services share.

use std::{fmt, sync::Arc};

use crate::{
    attempt::{Engine, Limits},
    database::Access,
    http::{idempotency::Idempotency, options::Options, policy::ErasedPolicy, reads::PolicyReads},
};

/// The settings of a layer, its policy and its engine.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) engine: Arc<Engine>,
    pub(crate) limits: Limits,
    pub(crate) options: Options,
    pub(crate) policy: Arc<dyn ErasedPolicy>,
    pub(crate) reads: Arc<PolicyReads>,
    pub(crate) name: &'static str,
    pub(crate) access: Access,
    pub(crate) body: BodyMode,
    pub(crate) idempotency: Idempotency,
}

/// The way of the request's body to the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyMode {
    /// It is read to its end first, so that the request can be retried.
    Buffered,
    /// It streams to the handler.
    Streamed,
}

impl Route {
    /// The limits of a request. One that cannot be made again has one attempt (R4).
    pub(crate) fn limits(&self, is_repeatable: bool) -> Limits {
        let mut limits = self.limits;
        if !is_repeatable {
            limits.set_max_attempts(1);
        }
        limits
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizeLayer")
            .field("policy", &format_args!("{}", self.name))
            .field("access", &self.access)
            .field("body", &self.body)
            .field("idempotency", &self.idempotency)
            .finish_non_exhaustive()
    }
}
