//! `Tx` as an extractor.

use std::sync::Arc;

use axum_core::extract::FromRequestParts;
use http::request::Parts;

use crate::{
    error::{Error, ErrorKind},
    tx::{Slot, Tx},
};

/// Rejects with [`Misconfigured`](ErrorKind::Misconfigured) on a route without a layer.
impl<S: Sync> FromRequestParts<S> for Tx {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        match parts.extensions.get::<Arc<Slot>>() {
            Some(slot) => Ok(Self::new(slot)),
            None => Err(logged_without_layer(
                parts,
                Error::because(
                    ErrorKind::Misconfigured,
                    "a Tx on a route without a policy: add `.route_layer(interlock.require(policy))` \
                     after the route; it does not cover routes and methods that are added later",
                ),
            )),
        }
    }
}

/// Logs the error of an extractor, unless there is a layer to log it.
pub(crate) fn logged_without_layer(parts: &Parts, error: Error) -> Error {
    if parts.extensions.get::<Arc<Slot>>().is_none() {
        error.log();
    }
    error
}
