//! The errors and panics of handlers, in words.

use std::{
    any::Any,
    error::Error as StdError,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

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
        (ErrorKind::Denied, Some(reason)) => reason,
        (kind, Some(cause)) => format!("{kind:?}: {cause}"),
        (kind, None) => format!("{kind:?}"),
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
    text
}

/// Polls the future, and turns a panic of it into an error.
pub(crate) async fn catch_panic<F: Future>(future: F) -> Result<F::Output, BoxError> {
    let mut future = pin!(future);
    let caught = poll_fn(|cx| {
        // After a panic it is not polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        polled.map_or_else(|panic| Poll::Ready(Err(panic)), |poll| poll.map(Ok))
    });
    caught.await.map_err(|panic| describe_panic(&*panic).into())
}

fn describe_panic(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", message.unwrap_or("without a message"))
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
