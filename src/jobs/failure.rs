//! How a run ends that has not done its job, in words.

use std::{any::Any, error::Error as StdError};

use crate::error::{Denied, Error, ErrorKind, Moment};

/// An error of a handler.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// The error of this crate that a handler has returned, also inside of one of its own.
pub(crate) fn find_error(error: &BoxError) -> Option<Error> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&**error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<Error>() {
            return Some(error.clone());
        }
        if let Some(denied) = error.downcast_ref::<Denied>() {
            return Some(Error::from(denied.clone()));
        }
        if let Some(error) = error.downcast_ref::<sqlx::Error>() {
            return Some(Error::recorded(error, Moment::ReadWrite));
        }
        cause = error.source();
    }
    None
}

/// The reason of a denial, or the description of any other error of this crate.
pub(crate) fn describe(error: &Error) -> String {
    match (error.kind(), error.describe()) {
        (ErrorKind::Denied, Some(reason)) => storable(&reason),
        (kind, Some(cause)) => storable(&format!("{kind:?}: {cause}")),
        (kind, None) => storable(&format!("{kind:?}")),
    }
}

/// An error of a handler, with its causes.
pub(crate) fn describe_foreign(error: &BoxError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    storable(&text)
}

/// The message of a panic.
pub(crate) fn describe_panic(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    storable(&format!(
        "panic: {}",
        message.unwrap_or("without a message")
    ))
}

/// A text that fits into its column. The servers reject NUL.
pub(crate) fn storable(text: &str) -> String {
    let text = text
        .chars()
        .map(|it| if it == '\0' { '\u{fffd}' } else { it });
    text.take(LONGEST_REASON).collect()
}

const LONGEST_REASON: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_is_found_inside_of_other_errors() {
        #[derive(Debug)]
        struct Outer(Error);
        impl std::fmt::Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("outer")
            }
        }
        impl StdError for Outer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }
        let denied = || Error::from(Denied::new("no grant"));
        for error in [
            BoxError::from(denied()),
            BoxError::from(Denied::new("no grant")),
            BoxError::from(Outer(denied())),
            BoxError::from(denied().into_sqlx()),
        ] {
            let found = find_error(&error).unwrap();
            assert_eq!(found.kind(), ErrorKind::Denied);
            assert_eq!(describe(&found), "no grant");
        }
        assert!(find_error(&BoxError::from("text")).is_none());
    }

    #[test]
    fn reason_has_no_nul_and_is_short() {
        let reason = storable(&"\0".repeat(10_000));
        assert!(!reason.contains('\0'));
        assert_eq!(reason.chars().count(), 2_000);
    }
}
