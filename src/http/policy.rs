//! Policies: the permission check, and its proof for the handler.

use std::{
    any::{TypeId, type_name},
    marker::PhantomData,
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use axum::extract::{MatchedPath, NestedPath, OriginalUri};
use axum_core::{extract::FromRequestParts, response::Response};
use futures_core::future::BoxFuture;
use http::request::Parts;

use crate::{
    error::{Error, ErrorKind},
    http::{
        extract::logged_without_layer,
        signature::{Arguments, Function, PolicyResult},
    },
};

/// A permission check: an async function of extractors, like a handler.
///
/// It takes 0 to 8 arguments that implement [`FromRequestParts`], [`Tx`](crate::Tx) among them, and
/// returns `Result<G, E>`. `G`, the grant, reaches the handler as [`Authorized<G>`]; use one type
/// for each policy. `E` is the rejection, an
/// [`IntoResponse`](axum_core::response::IntoResponse).
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
    label = "not an async function of 0 to 8 arguments",
    note = "a policy is `async fn(extractors...) -> Result<G, E>` with 0 to 8 arguments"
)]
pub trait Policy<M, S>: Function<M> + Clone + Send + Sync + 'static {
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

impl<F, M, S, O> Policy<M, S> for F
where
    F: Function<M> + Clone + Send + Sync + 'static,
    F::Future: Future<Output = O> + Send,
    M: Arguments<S>,
    O: PolicyResult,
    S: Sync,
{
    type Grant = O::Grant;

    async fn check(self, parts: &mut Parts, state: &S) -> Result<O::Grant, Response> {
        let arguments = M::extract(parts, state).await?;
        self.call(arguments).await.into_result()
    }
}

/// Checks the signature of a policy where it is defined, and not first where a layer is made of it.
///
/// The compiler names the argument or the part of the result that is wrong. The second argument is
/// the type of the state, if the policy needs one: `debug_policy!(can_edit, AppState)`.
///
/// ```
/// use tower_interlock::{Denied, Error, Tx};
///
/// async fn is_open(mut tx: Tx) -> Result<(), Error> {
///     let open: bool = sqlx::query_scalar("SELECT open FROM shops").fetch_one(&mut *tx).await?;
///     Ok(Denied::unless(open, "closed")?)
/// }
///
/// tower_interlock::debug_policy!(is_open);
/// ```
#[doc(alias = "debug_handler")]
#[macro_export]
macro_rules! debug_policy {
    ($policy:expr $(,)?) => {
        $crate::debug_policy!($policy, ());
    };
    ($policy:expr, $state:ty $(,)?) => {
        const _: fn(&$crate::Interlock, $state) -> $crate::AuthorizeLayer =
            |interlock, state| interlock.require_with_state(state, $policy);
    };
}

/// The proof that a policy of this route returned: the caller is authorized.
///
/// Without a layer whose policy returns `G` it rejects with
/// [`Misconfigured`](ErrorKind::Misconfigured), so a handler that takes it cannot run unchecked. If
/// two policies of the route return `G`, it rejects as well, because one of them would prove what
/// the other one has checked.
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
        let grant = type_name::<G>();
        let cause = match parts.extensions.get::<Granted<G>>() {
            Some(Granted::By(_, grant)) => return Ok(Self(grant.clone())),
            Some(Granted::Ambiguously) => format!(
                "two policies of this route grant {grant}: give each policy a type of its own"
            ),
            None => format!(
                "no policy of this route grants {grant}: add \
                 `.route_layer(interlock.require(policy))` with a policy that returns it"
            ),
        };
        let error = Error::because(ErrorKind::Misconfigured, cause);
        Err(logged_without_layer(parts, error))
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
    /// Whether the log has the mistake of a check where no route is.
    unrouted: AtomicBool,
    marker: PhantomData<fn() -> M>,
}

impl<P, M, S> PolicyWithState<P, M, S> {
    pub(crate) fn new(policy: P, state: S) -> Self {
        Self {
            policy,
            state,
            unrouted: AtomicBool::new(false),
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
            let checked = self.policy.clone().check(parts, &self.state).await;
            if checked.is_err() && is_unrouted(parts) && !self.unrouted.swap(true, Relaxed) {
                tracing::warn!(
                    policy = self.type_name(),
                    "a policy has rejected a path that no route matches, where the router would \
                     respond with 404: apply the layer with `route_layer` instead of `layer`, \
                     unless it protects a fallback"
                );
            }
            Granted::insert(TypeId::of::<P>(), checked?, parts);
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
enum Granted<G> {
    /// The policy of this type has granted it.
    By(TypeId, G),
    /// Two policies have. A handler would get the proof of one for that of the other.
    Ambiguously,
}

impl<G: Clone + Send + Sync + 'static> Granted<G> {
    fn insert(policy: TypeId, grant: G, parts: &mut Parts) {
        let granted = match parts.extensions.get() {
            Some(Self::By(other, _)) if *other != policy => Self::Ambiguously,
            Some(Self::Ambiguously) => Self::Ambiguously,
            Some(Self::By(..)) | None => Self::By(policy, grant),
        };
        parts.extensions.insert(granted);
    }
}

/// Whether no route of an axum router has matched. Inside of a nested service that is not known.
fn is_unrouted(parts: &Parts) -> bool {
    let extensions = &parts.extensions;
    extensions.get::<OriginalUri>().is_some()
        && extensions.get::<MatchedPath>().is_none()
        && extensions.get::<NestedPath>().is_none()
}
