//! What a response says about access.

use std::fmt;

use http::StatusCode;

/// What a response says about access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Access {
    /// A success or a redirect: 2xx, 3xx or 101.
    Allow,
    /// 401 or 403.
    Deny,
    /// 404, as if the resource did not exist.
    Hide,
}

impl Access {
    /// What a status says. `None` if it says nothing about access.
    #[must_use]
    pub fn of(status: StatusCode) -> Option<Self> {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(Self::Deny),
            StatusCode::NOT_FOUND => Some(Self::Hide),
            StatusCode::SWITCHING_PROTOCOLS => Some(Self::Allow),
            _ if status.is_success() || status.is_redirection() => Some(Self::Allow),
            _ => None,
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Hide => "hide",
        })
    }
}
