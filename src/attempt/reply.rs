//! The result of an attempt, as far as it decides on the transaction.

use crate::error::Error;

/// The result of an attempt, be it a response or a `Result`, as far as it decides on the
/// transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply<'r> {
    pub(crate) class: ReplyClass,
    /// The error of this crate that it carries.
    pub(crate) error: Option<&'r Error>,
    /// The status, if it is a response.
    pub(crate) status: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyClass {
    /// It claims that the effects are kept.
    Success,
    /// It claims so too, unless a policy redirects to a login page.
    Redirect,
    ClientError,
    ServerError,
    /// It is neither: an informational response, or a success that `commit_if` declines.
    Declined,
}

impl ReplyClass {
    pub(crate) fn is_success(self) -> bool {
        matches!(self, Self::Success | Self::Redirect)
    }
}
