//! What a response means for its transaction, and what is stored with it.

use axum_core::response::{IntoResponse as _, Response};
use http::StatusCode;

use crate::{
    attempt::{Attempt, ReplyClass},
    http::{options::Options, receipt::RequestReceipt},
    receipts::Receipt,
    tx::SlotState,
};

/// A response on its way to the settlement.
pub(crate) struct PreparedReply {
    /// The response as it is sent.
    pub(crate) response: Response,
    /// The receipt that is stored if it commits.
    pub(crate) receipt: Option<Box<Receipt>>,
    pub(crate) class: ReplyClass,
    /// The status before it was rendered.
    pub(crate) status: u16,
}

impl PreparedReply {
    pub(crate) fn new(response: Response, options: &Options) -> Self {
        Self {
            class: class_of(&response, options),
            status: response.status().as_u16(),
            response,
            receipt: None,
        }
    }

    /// Adds the receipt, if it may commit. An error that prevents that takes the place of the
    /// response.
    pub(crate) async fn with_receipt(
        self,
        receipt: &RequestReceipt,
        attempt: &Attempt<'_>,
        options: &Options,
        policies: &[&'static str],
        state: &mut SlotState,
    ) -> Self {
        if !may_commit(self.class, state) {
            return self;
        }
        let preparing = receipt.prepare(attempt, options, policies, self.response, state);
        match preparing.await {
            Ok((response, receipt)) => Self {
                response,
                receipt: receipt.map(Box::new),
                ..self
            },
            Err(error) => Self::new(error.into_response(), options),
        }
    }
}

/// Whether a receipt may be needed.
fn may_commit(class: ReplyClass, state: &SlotState) -> bool {
    let keeps = class == ReplyClass::ClientError && state.ending.keep_client_errors;
    (class.is_success() || keeps)
        && state.verdict.is_none()
        && !state.ending.rollback_only
        && state.transaction.is_some()
}

/// The meaning of a response for the transaction.
fn class_of(response: &Response, options: &Options) -> ReplyClass {
    let status = response.status();
    let commits = || {
        let commit_if = options.commit_if.as_ref();
        commit_if.is_none_or(|commit_if| commit_if(response))
    };
    let succeeds = status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS;
    if succeeds && commits() {
        ReplyClass::Success
    } else if status.is_redirection() && commits() {
        ReplyClass::Redirect
    } else if status.is_client_error() {
        ReplyClass::ClientError
    } else if status.is_server_error() {
        ReplyClass::ServerError
    } else {
        ReplyClass::Declined
    }
}
