//! Policies: the permission check, and its proof for the handler.

use std::{any::type_name, marker::PhantomData, ops::Deref};

use axum_core::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use futures_core::future::BoxFuture;
use http::request::Parts;

use crate::{
    error::{Error, ErrorKind},
    http::extract::logged_without_layer,
};

/// A permission check: an async function of extractors, like a handler.
///
/// It takes 0 to 8 arguments that implement [`FromRequestParts`], [`Tx`](crate::Tx) among them, and
/// returns `Result<G, E>`. `G`, the grant, reaches the handler as [`Authorized<G>`]; use one type
/// for each policy. `E` is the rejection, an [`IntoResponse`].
///
/// * An `Err` of 4xx denies. So does the rejection of an extractor.
/// * An `Err` of 3xx, to a login page, denies if the request has run no statement. After one it is
///   a 500: to the client a redirect is a success, and nothing was committed.
/// * An `Err` of 5xx means that the check could not run. It never allows, and never becomes a 403.
/// * A check that returned `Ok` although a statement failed did not pass: the response is a 5xx.
///
/// A policy of several routes takes its path parameters by name, as a struct in `Path`: axum
/// responds with 500 to a `Path<i64>` on a route with two parameters.
///
/// AND is two layers; OR is one SQL statement. A policy is not given the body; a check that needs
/// it is a [`Denied`](crate::Denied) from the handler.
///
/// # Rules without a request
///
/// A rule that [`transact`](crate::Interlock::transact) needs as well is a plain function, and the
/// policy of the request calls it:
///
/// ```
/// # use axum::{Extension, extract::Path};
/// use tower_interlock::{Denied, Error, Tx};
///
/// # #[derive(Clone)] struct User { id: i64 }
/// # #[derive(Clone)] struct CanEdit { document: i64 }
/// async fn may_edit(tx: &mut Tx, user: i64, document: i64) -> Result<CanEdit, Error> {
///     let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)";
///     let allowed: bool = sqlx::query_scalar(rule).bind(user).bind(document).fetch_one(tx).await?;
///     Denied::unless(allowed, "no edit grant")?;
///     Ok(CanEdit { document })
/// }
///
/// async fn can_edit(user: Extension<User>, document: Path<i64>, mut tx: Tx) -> Result<CanEdit, Error> {
///     may_edit(&mut tx, user.id, *document).await
/// }
/// ```
///
/// The trait is sealed: it is implemented for async functions only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a policy",
    label = "not a policy",
    note = "a policy is `async fn(extractors...) -> Result<G, E>` with 0 to 8 arguments that implement `FromRequestParts<{S}>`",
    note = "the grant must be `G: Clone + Send + Sync + 'static`, the rejection `E: IntoResponse`, and the future `Send`",
    note = "`sqlx::Error` is no response: return `tower_interlock::Error`; the body belongs to the handler",
    note = "a policy that needs state is passed to `require_with_state`"
)]
pub trait Policy<M, S>: sealed::Sealed<M, S> + Clone + Send + Sync + 'static {
    /// The proof for the handler.
    type Grant: Clone + Send + Sync + 'static;

    /// Checks one request.
    ///
    /// # Errors
    ///
    /// Returns the response of the rejection.
    fn check(
        self,
        parts: &mut Parts,
        state: &S,
    ) -> impl Future<Output = Result<Self::Grant, Response>> + Send;
}

mod sealed {
    #[expect(unnameable_types, reason = "it seals Policy")]
    pub trait Sealed<M, S> {}
}

macro_rules! impl_policy {
    ($($extractor:ident),*) => {
        #[diagnostic::do_not_recommend]
        impl<F, Fut, G, E, S, $($extractor,)*> sealed::Sealed<($($extractor,)*), S> for F
        where
            F: FnOnce($($extractor,)*) -> Fut,
            Fut: Future<Output = Result<G, E>>,
        {
        }

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

/// The proof that a policy of this route returned: the caller is authorized.
///
/// Without a layer whose policy returns `G` it rejects with
/// [`Misconfigured`](ErrorKind::Misconfigured), so a handler that takes it cannot run unchecked.
///
/// Only a policy makes one. A handler reads the grant through `Deref`.
#[derive(Debug, Clone, Copy)]
pub struct Authorized<G>(G);

impl<G> Authorized<G> {
    /// Returns the grant.
    pub fn into_inner(self) -> G {
        self.0
    }

    /// Returns a proof without a check, to call a handler in a test.
    pub fn unchecked_for_tests(grant: G) -> Self {
        Self(grant)
    }
}

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
            None => Err(logged_without_layer(
                parts,
                Error::because(
                    ErrorKind::Misconfigured,
                    format!("no policy of this route grants {}", type_name::<G>()),
                ),
            )),
        }
    }
}

/// A policy whose types are erased, so that the layer has no type parameters.
pub(crate) trait ErasedPolicy: Send + Sync {
    /// Checks, and puts the grant into the extensions.
    fn check<'a>(&'a self, parts: &'a mut Parts) -> BoxFuture<'a, Result<(), Response>>;

    fn type_name(&self) -> &'static str;

    /// The type names of its extractors.
    fn extractors(&self) -> &'static str;
}

/// A policy, and the state of its extractors.
pub(crate) struct PolicyWithState<P, M, S> {
    policy: P,
    state: S,
    marker: PhantomData<fn() -> M>,
}

impl<P, M, S> PolicyWithState<P, M, S> {
    pub(crate) fn new(policy: P, state: S) -> Self {
        Self {
            policy,
            state,
            marker: PhantomData,
        }
    }
}

impl<P, M, S> ErasedPolicy for PolicyWithState<P, M, S>
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

    fn type_name(&self) -> &'static str {
        type_name::<P>()
    }

    fn extractors(&self) -> &'static str {
        type_name::<M>()
    }
}

/// A grant in the extensions. Only this file can make one, so that nothing but a policy
/// authorizes.
#[derive(Clone)]
struct Granted<G>(G);
