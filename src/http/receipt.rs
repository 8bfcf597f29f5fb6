//! The receipt of a request: its key, what it says, and the response of an earlier copy.

use std::sync::Arc;

use axum::extract::OriginalUri;
use axum_core::response::Response;
use http::{Method, StatusCode, header, request::Parts};
use tokio::time::Instant;

use crate::{
    attempt::{Attempt, Engine},
    database::Access,
    error::{Error, ErrorKind},
    http::{
        idempotency::{Idempotency, IdempotencyKey},
        kept,
        options::Options,
        response::{FinalResponse, render},
        route::{BodyMode, Route},
        source::RequestSource,
    },
    receipts::{AttemptId, Fingerprint, Receipt, ReceiptKey, Receipts, Sha256Writer, find},
    report::Outcome,
    tx::{SlotState, WorkContext},
};

/// The receipt of a request, before there is an attempt to store it.
pub(crate) struct RequestReceipt {
    settings: Receipts,
    key: Key,
    principal: Option<Arc<str>>,
    method: Method,
    path: String,
}

/// The key of the receipt.
enum Key {
    /// Each attempt has a key of its own: the request has no idempotency key.
    Random,
    /// That of the idempotency key. The body of the request is still to be read.
    Unread(ReceiptKey, Sha256Writer),
    /// That of the idempotency key.
    Known(ReceiptKey, Fingerprint),
    /// The idempotency key has no owner.
    Anonymous,
}

impl RequestReceipt {
    /// The receipt of a request whose body is still to be read. `None` without receipts.
    ///
    /// # Errors
    ///
    /// Returns `InvalidIdempotencyKey`, or `Misconfigured` for an idempotent route that cannot be
    /// one.
    pub(crate) fn new(
        route: &Route,
        parts: &Parts,
        context: &WorkContext,
    ) -> Result<Option<Box<Self>>, Error> {
        let idempotency = if parts.method.is_safe() {
            Idempotency::Unsupported
        } else {
            route.idempotency
        };
        let original = parts.extensions.get::<OriginalUri>();
        if idempotency != Idempotency::Unsupported {
            check_idempotent(route, original)?;
        }
        let Some(settings) = &route.engine.receipts else {
            return Ok(None);
        };
        let uri = original.map_or(&parts.uri, |OriginalUri(uri)| uri);
        let principal = context.principal.clone();
        let key = match (IdempotencyKey::read(parts, idempotency)?, &principal) {
            (None, _) => Key::Random,
            (Some(_), None) => Key::Anonymous,
            (Some(key), Some(principal)) => {
                let name = Sha256Writer::new("request")
                    .part(principal.as_bytes())
                    .part(parts.method.as_str().as_bytes())
                    .part(uri.path().as_bytes())
                    .part(key.as_bytes());
                let header = |name| parts.headers.get(name).map(|value| value.as_bytes());
                let fingerprint = Sha256Writer::new("fingerprint")
                    .optional(uri.query().map(str::as_bytes))
                    .optional(header(header::CONTENT_TYPE))
                    .optional(header(header::CONTENT_ENCODING));
                Key::Unread(ReceiptKey::hash(name), fingerprint)
            }
        };
        Ok(Some(Box::new(Self {
            settings: settings.clone(),
            key,
            principal,
            method: parts.method.clone(),
            path: uri.path().to_owned(),
        })))
    }

    /// Adds the body to what the request asks for.
    pub(crate) fn with_body(mut self: Box<Self>, source: &RequestSource) -> Box<Self> {
        self.key = match self.key {
            Key::Unread(key, hash) => Key::Known(key, Fingerprint::hash(hash.part(source.bytes()))),
            other => other,
        };
        self
    }

    /// Whether each attempt looks for an earlier copy of the request first.
    pub(crate) fn is_keyed(&self) -> bool {
        matches!(self.key, Key::Known(..))
    }

    /// The response of an earlier copy of the request, if one was committed.
    ///
    /// # Errors
    ///
    /// Returns `IdempotencyKeyReused` if that one asked for something else, `AlreadyDone` if its
    /// response was not kept, or the error of the query.
    pub(crate) async fn replay(
        &self,
        engine: &Engine,
        limit: Instant,
    ) -> Result<Option<Response>, Error> {
        let Key::Known(key, fingerprint) = &self.key else {
            return Ok(None);
        };
        let Some(stored) = find(&engine.database, *key, limit).await? else {
            return Ok(None);
        };
        if !stored.has_fingerprint(fingerprint) {
            return Err(Error::new(ErrorKind::IdempotencyKeyReused));
        }
        match kept::replay(stored) {
            Some(response) => Ok(Some(response)),
            None => Err(Error::new(ErrorKind::AlreadyDone)),
        }
    }

    /// The response that is sent, in the end. A denial is recorded.
    pub(crate) async fn conclude(
        &self,
        engine: &Engine,
        response: FinalResponse,
        denied: bool,
        limit: Instant,
    ) -> FinalResponse {
        let response = self.resolve(engine, response, limit).await;
        let replayed = response.report.outcome == Outcome::Replayed;
        if denied && !replayed && !response.response.status().is_server_error() {
            self.record_denial(engine, &response);
        }
        response
    }

    /// The response of an earlier copy in place of one that has kept nothing: it may have committed
    /// meanwhile, and be the reason why this one has failed.
    async fn resolve(
        &self,
        engine: &Engine,
        response: FinalResponse,
        limit: Instant,
    ) -> FinalResponse {
        let status = response.response.status();
        let is_done = match response.report.outcome {
            Outcome::Committed | Outcome::Replayed => true,
            // It had nothing to commit.
            Outcome::NoTransaction => !(status.is_client_error() || status.is_server_error()),
            Outcome::RolledBack | Outcome::Unknown => false,
        };
        if is_done || Instant::now() >= limit {
            return response;
        }
        match self.replay(engine, limit).await {
            Ok(Some(replayed)) => FinalResponse::replayed(replayed, response.report.attempts),
            Ok(None) => response,
            Err(error) => {
                tracing::debug!(%error, "no response of an earlier copy of the request");
                response
            }
        }
    }

    /// The receipt of an attempt that ended with `response`, to be stored if it commits, and the
    /// response to send.
    ///
    /// # Errors
    ///
    /// Returns `Misconfigured` if the key of the request has no owner, or the error of the body.
    pub(crate) async fn prepare(
        &self,
        attempt: &Attempt<'_>,
        options: &Options,
        policies: &[&'static str],
        response: Response,
        state: &mut SlotState,
    ) -> Result<(Response, Option<Receipt>), Error> {
        if self.method.is_safe() || state.access == Access::ReadOnly && !self.is_keyed() {
            return Ok((response, None));
        }
        let receipt = self.receipt(response.status(), attempt.number(), policies)?;
        let receipt = Receipt {
            notes: state.take_notes(),
            ..receipt
        };
        match self.key {
            Key::Random => Ok((response, Some(receipt))),
            Key::Known(key, fingerprint) => {
                let limit = self.settings.longest_response();
                let keeping = kept::keep(render(response, options), limit);
                let (response, kept) = attempt.in_time(keeping).await??;
                let receipt = Receipt {
                    key,
                    fingerprint: Some(fingerprint),
                    status: response.status().as_u16(),
                    response: Some(kept),
                    ..receipt
                };
                Ok((response, Some(receipt)))
            }
            Key::Unread(..) | Key::Anonymous => {
                let cause = "an idempotent request without a principal: its key has no owner";
                Err(Error::because(ErrorKind::Misconfigured, cause))
            }
        }
    }

    /// Reports a denial to the log, and records it if the settings say so.
    fn record_denial(&self, engine: &Engine, denied: &FinalResponse) {
        let status = denied.response.status();
        let error = denied.response.extensions().get::<Error>();
        let reason = error.and_then(Error::describe);
        let policies = &denied.report.policies;
        let (principal, path) = (self.principal.as_deref(), &self.path);
        tracing::info!(
            target: "tower_interlock::audit",
            status = status.as_u16(), principal, policies = policies.join(", "),
            method = %self.method, path, reason, "denied"
        );
        if !self.settings.records_denials() {
            return;
        }
        match self.receipt(status, denied.report.attempts, policies) {
            Ok(receipt) => {
                let notes = Some(serde_json::json!({ "denied": reason }));
                let receipt = Receipt { notes, ..receipt };
                engine.denials.record(&engine.database, receipt);
            }
            Err(error) => error.log(),
        }
    }

    /// A receipt with a key of its own.
    fn receipt(
        &self,
        status: StatusCode,
        attempts: u32,
        policies: &[&'static str],
    ) -> Result<Receipt, Error> {
        Ok(Receipt {
            key: ReceiptKey::random()?,
            attempt: AttemptId::random()?,
            status: status.as_u16(),
            fingerprint: None,
            principal: self.principal.clone(),
            names: policies.join(", "),
            method: Some(self.method.as_str().to_owned()),
            path: Some(self.path.clone()),
            attempts,
            notes: None,
            response: None,
            valid_for: self.settings.valid_for(),
        })
    }
}

/// Checks that a route can be idempotent.
fn check_idempotent(route: &Route, original: Option<&OriginalUri>) -> Result<(), Error> {
    let cause = if route.engine.receipts.is_none() {
        "an idempotent route needs InterlockBuilder::receipts"
    } else if route.access == Access::ReadOnly {
        "an idempotent route cannot be read_only: it could store no receipt"
    } else if route.body == BodyMode::Streamed {
        "an idempotent route cannot be unbuffered: requests are compared by their bodies"
    } else if original.is_none() {
        "an idempotent route needs the OriginalUri that axum's Router sets, since the path of a \
         nested router is not whole"
    } else {
        return Ok(());
    };
    Err(Error::because(ErrorKind::Misconfigured, cause))
}
