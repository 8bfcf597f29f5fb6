//! Policies: the permission check, and the proof that it leaves for the handler.

use std::{any::type_name, marker::PhantomData, ops::Deref};

use axum_core::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use futures_core::future::BoxFuture;
use http::request::Parts;

use crate::error::{Error, ErrorKind};

/// A permission check: an async function of extractors, like a handler.
///
/// It takes 0 to 8 arguments that implement [`FromRequestParts`], [`Tx`](crate::Tx) among them,
/// and returns `Result<G, E>`. `G`, the grant, reaches the handler as [`Authorized<G>`]; use one
/// type per policy. `E` is the refusal, an [`IntoResponse`].
///
/// * An `Err` of 4xx denies. So does the rejection of an extractor.
/// * An `Err` of 3xx, to a login page, denies as long as the request has run no statement. After one
///   it is a 500: to the client a redirect is a success, and nothing was committed.
/// * An `Err` of 5xx says that the check could not run. It is never an allow, and never becomes a 403.
/// * A check that passed over a failed statement did not pass: the request ends with a 5xx.
///
/// A policy of several routes takes its path parameters by name, as a struct in `Path`: axum answers
/// 500 for a `Path<i64>` on a route with two parameters.
///
/// AND is two layers, OR is one SQL statement. A policy is not given the body; a check that needs
/// it is a [`Denied`](crate::Denied) from the handler.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a policy",
    label = "not a policy",
    note = "a policy is `async fn(extractors...) -> Result<G, E>` with 0 to 8 arguments that implement `FromRequestParts<{S}>`",
    note = "the grant must be `G: Clone + Send + Sync + 'static`, the refusal `E: IntoResponse`, and the future `Send`",
    note = "`sqlx::Error` is no response: return `tower_interlock::Error`; the body belongs to the handler",
    note = "a policy that needs state is passed to `require_with_state`"
)]
pub trait Policy<M, S>: Clone + Send + Sync + 'static {
    /// What the handler gets as proof.
    type Grant: Clone + Send + Sync + 'static;

    /// Checks one request.
    ///
    /// # Errors
    ///
    /// The response of the refusal.
    fn check(
        self,
        parts: &mut Parts,
        state: &S,
    ) -> impl Future<Output = Result<Self::Grant, Response>> + Send;
}

macro_rules! impl_policy {
    ($($extractor:ident),*) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, unused_variables, reason = "the macro names values after their types")]
        impl<F, Fut, G, E, S, $($extractor,)*> Policy<($($extractor,)*), S> for F
        where
            F: FnOnce($($extractor,)*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future<Output = Result<G, E>> + Send,
            G: Clone + Send + Sync + 'static,
            E: IntoResponse,
            S: Sync,
            $($extractor: FromRequestParts<S> + Send,)*
        {
            type Grant = G;

            async fn check(self, parts: &mut Parts, state: &S) -> Result<G, Response> {
                $(
                    let $extractor = $extractor::from_request_parts(parts, state)
                        .await
                        .map_err(IntoResponse::into_response)?;
                )*
                self($($extractor,)*).await.map_err(IntoResponse::into_response)
            }
        }
    };
}

impl_policy!();
impl_policy!(T1);
impl_policy!(T1, T2);
impl_policy!(T1, T2, T3);
impl_policy!(T1, T2, T3, T4);
impl_policy!(T1, T2, T3, T4, T5);
impl_policy!(T1, T2, T3, T4, T5, T6);
impl_policy!(T1, T2, T3, T4, T5, T6, T7);
impl_policy!(T1, T2, T3, T4, T5, T6, T7, T8);

/// What the policy of this route returned: the handler's proof that the caller is authorized.
///
/// Without a layer whose policy returns `G` it rejects with
/// [`Misconfigured`](ErrorKind::Misconfigured), so a handler that takes it cannot run unchecked.
#[derive(Debug, Clone, Copy)]
pub struct Authorized<G>(pub G);

impl<G> Deref for Authorized<G> {
    type Target = G;

    fn deref(&self) -> &G {
        &self.0
    }
}

impl<G, S> FromRequestParts<S> for Authorized<G>
where
    G: Clone + Send + Sync + 'static,
    S: Sync,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        match parts.extensions.get::<Granted<G>>() {
            Some(Granted(grant)) => Ok(Self(grant.clone())),
            None => Err(Error::because(
                ErrorKind::Misconfigured,
                format!("no policy of this route grants {}", type_name::<G>()),
            )),
        }
    }
}

/// A policy whose types are forgotten, so that the layer has no type parameters.
pub(crate) trait Check: Send + Sync {
    /// Checks, and leaves the grant in the extensions.
    fn check<'a>(&'a self, parts: &'a mut Parts) -> BoxFuture<'a, Result<(), Response>>;

    fn name(&self) -> &'static str;
}

pub(crate) struct Stateful<P, M, S> {
    policy: P,
    state: S,
    marker: PhantomData<fn() -> M>,
}

impl<P, M, S> Stateful<P, M, S> {
    pub(crate) fn new(policy: P, state: S) -> Self {
        Self {
            policy,
            state,
            marker: PhantomData,
        }
    }
}

impl<P, M, S> Check for Stateful<P, M, S>
where
    P: Policy<M, S>,
    S: Send + Sync,
{
    fn check<'a>(&'a self, parts: &'a mut Parts) -> BoxFuture<'a, Result<(), Response>> {
        Box::pin(async move {
            let grant = self.policy.clone().check(parts, &self.state).await?;
            parts.extensions.insert(Granted(grant));
            Ok(())
        })
    }

    fn name(&self) -> &'static str {
        type_name::<P>()
    }
}

/// Only this module can make one, so nothing but a policy can authorize.
#[derive(Clone)]
struct Granted<G>(G);
