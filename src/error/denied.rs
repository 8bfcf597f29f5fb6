//! The denial of a policy.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// A policy's denial, with a reason for the log.
///
/// ```
/// use tower_interlock::{Denied, Error};
///
/// fn check(allowed: bool) -> Result<(), Error> {
///     Denied::unless(allowed, "no edit grant")?;
///     Ok(())
/// }
/// assert_eq!(check(false).unwrap_err().status(), 403);
/// ```
#[derive(Debug, Clone)]
pub struct Denied {
    reason: Cow<'static, str>,
    hidden: bool,
}

impl Denied {
    /// Returns a denial with status 403. The reason is logged and never sent to the client; it must
    /// not contain secrets.
    #[must_use = "a denial that is not returned denies nothing"]
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            hidden: false,
        }
    }

    /// Denies unless `allowed` is true. SQL's NULL, a `None`, is not true.
    ///
    /// # Errors
    ///
    /// Returns the denial.
    #[must_use = "a denial that is not returned denies nothing: add `?`"]
    pub fn unless(
        allowed: impl Into<Option<bool>>,
        reason: impl Into<Cow<'static, str>>,
    ) -> Result<(), Self> {
        if allowed.into() == Some(true) {
            Ok(())
        } else {
            Err(Self::new(reason))
        }
    }

    /// Turns the response into the 404 of [`Error::not_found`](crate::Error::not_found), so that it
    /// does not reveal whether the resource exists:
    /// `Denied::unless(allowed, "not shared").map_err(Denied::hidden)?`.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    pub(crate) fn is_hidden(&self) -> bool {
        self.hidden
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl StdError for Denied {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_denied() {
        assert!(Denied::unless(None, "null").is_err());
        assert!(Denied::unless(Some(true), "true").is_ok());
    }
}
