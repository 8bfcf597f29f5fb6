//! The parts of a policy's signature. Each is a trait of its own, so that the compiler names the
//! part that is wrong.

use axum_core::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::request::Parts;

/// A function of `Arguments`, a tuple. It seals [`Policy`](crate::Policy).
#[expect(unnameable_types, reason = "it seals Policy")]
pub trait Function<Arguments> {
    type Future;

    fn call(self, arguments: Arguments) -> Self::Future;
}

/// The arguments of a policy, a tuple.
#[expect(unnameable_types, reason = "a part of what seals Policy")]
pub trait Arguments<S>: Sized + Send {
    fn extract(parts: &mut Parts, state: &S)
    -> impl Future<Output = Result<Self, Response>> + Send;
}

/// An argument of a policy.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a policy whose state is `{S}`",
    label = "a policy with such an argument",
    note = "an argument implements `FromRequestParts<{S}>`",
    note = "an extractor of state needs it: `interlock.require_with_state(state, policy)`",
    note = "the body belongs to the handler: a check that needs it is a `Denied` from there"
)]
#[expect(unnameable_types, reason = "a part of what seals Policy")]
pub trait Argument<S>: Sized + Send {
    fn extract(parts: &mut Parts, state: &S)
    -> impl Future<Output = Result<Self, Response>> + Send;
}

#[diagnostic::do_not_recommend]
impl<T, S> Argument<S> for T
where
    T: FromRequestParts<S> + Send,
    S: Sync,
{
    async fn extract(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let extracted = Self::from_request_parts(parts, state).await;
        extracted.map_err(IntoResponse::into_response)
    }
}

/// What a policy returns.
#[diagnostic::on_unimplemented(
    message = "a policy cannot return `{Self}`",
    label = "a policy that returns it",
    note = "a policy returns `Result<G, E>`: the grant, or the response of the rejection"
)]
#[expect(unnameable_types, reason = "a part of what seals Policy")]
pub trait PolicyResult {
    type Grant: Grant;

    #[expect(clippy::result_large_err, reason = "it is the response that is sent")]
    fn into_result(self) -> Result<Self::Grant, Response>;
}

impl<G: Grant, E: Rejection> PolicyResult for Result<G, E> {
    type Grant = G;

    fn into_result(self) -> Result<G, Response> {
        self.map_err(Rejection::into_response)
    }
}

/// The grant of a policy.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the grant of a policy",
    label = "a policy that returns `Result<{Self}, _>`",
    note = "a grant is `Clone + Send + Sync + 'static`"
)]
#[expect(unnameable_types, reason = "a part of what seals Policy")]
pub trait Grant: Clone + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<G: Clone + Send + Sync + 'static> Grant for G {}

/// The error of a policy.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a policy",
    label = "a policy that returns `Result<_, {Self}>`",
    note = "it is the response of the rejection, and implements `IntoResponse`",
    note = "return `tower_interlock::Error`: `?` converts a `sqlx::Error` and a `Denied` to it"
)]
#[expect(unnameable_types, reason = "a part of what seals Policy")]
pub trait Rejection {
    fn into_response(self) -> Response;
}

#[diagnostic::do_not_recommend]
impl<E: IntoResponse> Rejection for E {
    fn into_response(self) -> Response {
        IntoResponse::into_response(self)
    }
}

macro_rules! impl_signature {
    ($($argument:ident),*) => {
        #[diagnostic::do_not_recommend]
        #[allow(non_snake_case, reason = "the macro names values after their types")]
        impl<F, Fut, $($argument,)*> Function<($($argument,)*)> for F
        where
            F: FnOnce($($argument,)*) -> Fut,
        {
            type Future = Fut;

            fn call(self, ($($argument,)*): ($($argument,)*)) -> Fut {
                self($($argument,)*)
            }
        }

        #[allow(
            clippy::unused_unit,
            unused_variables,
            reason = "the macro is used without arguments as well"
        )]
        impl<S: Sync, $($argument: Argument<S>,)*> Arguments<S> for ($($argument,)*) {
            async fn extract(parts: &mut Parts, state: &S) -> Result<Self, Response> {
                Ok(($($argument::extract(parts, state).await?,)*))
            }
        }
    };
}

impl_signature!();
impl_signature!(T1);
impl_signature!(T1, T2);
impl_signature!(T1, T2, T3);
impl_signature!(T1, T2, T3, T4);
impl_signature!(T1, T2, T3, T4, T5);
impl_signature!(T1, T2, T3, T4, T5, T6);
impl_signature!(T1, T2, T3, T4, T5, T6, T7);
impl_signature!(T1, T2, T3, T4, T5, T6, T7, T8);
