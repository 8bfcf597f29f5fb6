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
    pub(crate) receipt: Option<Receipt>,
    pub(crate) class: ReplyClass,
    /// The status before it was rendered.
    pub(crate) status: u16,
}

impl PreparedReply {
    pub(crate) async fn new(
        receipt: Option<&RequestReceipt>,
        attempt: &Attempt<'_>,
        options: &Options,
        policies: &[&'static str],
        response: Response,
        state: &mut SlotState,
    ) -> Self {
        let (class, status) = (class_of(&response, options), response.status());
        let prepared = match receipt {
            Some(receipt) if may_commit(class, state) => {
                let preparing = receipt.prepare(attempt, options, policies, response, state);
                // Boxed: what is rarely needed is not to enlarge the future of every request.
                Box::pin(preparing).await
            }
            _ => Ok((response, None)),
        };
        match prepared {
            Ok((response, receipt)) => Self {
                response,
                receipt,
                class,
                status: status.as_u16(),
            },
            Err(error) => Self {
                class: ReplyClass::ServerError,
                status: error.status().as_u16(),
                response: error.into_response(),
                receipt: None,
            },
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
