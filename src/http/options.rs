//! The settings for requests.

use std::{sync::Arc, time::Duration};

use axum_core::response::Response;
use http::request::Parts;

use crate::error::Error;

pub(crate) type CommitIf = dyn Fn(&Response) -> bool + Send + Sync;
pub(crate) type RenderError = dyn Fn(&Error) -> Response + Send + Sync;
pub(crate) type Principal = dyn Fn(&Parts) -> Option<String> + Send + Sync;

/// The settings for requests.
#[derive(Clone)]
pub(crate) struct Options {
    /// `None` is axum's own limit.
    pub(crate) body_limit: Option<usize>,
    pub(crate) body_timeout: Duration,
    pub(crate) commit_if: Option<Arc<CommitIf>>,
    pub(crate) error_response: Option<Arc<RenderError>>,
    pub(crate) principal: Option<Arc<Principal>>,
}

impl Options {
    /// Who a request is recorded for.
    pub(crate) fn principal(&self, parts: &Parts) -> Option<Arc<str>> {
        let principal = self.principal.as_ref()?(parts)?;
        Some(Arc::from(principal))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_limit: None,
            body_timeout: Duration::from_secs(30),
            commit_if: None,
            error_response: None,
            principal: None,
        }
    }
}
