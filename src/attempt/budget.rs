//! How many attempts there may be, and for which reasons.

use crate::error::{Error, ErrorClass, ErrorKind, Violation};

/// The attempts at one work.
pub(crate) struct Budget {
    made: u32,
    max: u32,
    lost: bool,
    hidden: bool,
    violations: Vec<Violation>,
    /// How many stale sessions there may still be.
    sessions: u32,
}

impl Budget {
    pub(crate) fn new(max: u32, sessions: u32) -> Self {
        Self {
            made: 0,
            max,
            lost: false,
            hidden: false,
            violations: Vec::new(),
            sessions,
        }
    }

    /// The number of the attempt that is made now, counted from 1.
    pub(crate) fn next(&mut self) -> u32 {
        self.made = self.made.saturating_add(1);
        self.made
    }

    pub(crate) fn made(&self) -> u32 {
        self.made
    }

    pub(crate) fn is_last(&self) -> bool {
        self.made >= self.max
    }

    /// The violations that earlier attempts met.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn add_violations(&mut self, violations: Vec<Violation>) {
        self.violations.extend(violations);
    }

    /// Whether there may be another attempt after an error of this class (R1, R2, R3, R6, R7).
    pub(crate) fn allows(&mut self, class: ErrorClass) -> bool {
        !self.is_last()
            && match class {
                ErrorClass::SerializationFailure | ErrorClass::ConstraintViolation => true,
                ErrorClass::ConnectionLost => !std::mem::replace(&mut self.lost, true),
                ErrorClass::AlreadyAborted => !std::mem::replace(&mut self.hidden, true),
                ErrorClass::StaleSession => {
                    let left = self.sessions.checked_sub(1);
                    self.sessions = left.unwrap_or_default();
                    left.is_some()
                }
                ErrorClass::Other => false,
            }
    }
}

/// The error of work that may not be attempted again.
pub(crate) fn exhausted(class: ErrorClass, error: &Error) -> Error {
    let kind = match class {
        ErrorClass::SerializationFailure => ErrorKind::RetriesExhausted,
        ErrorClass::ConnectionLost | ErrorClass::StaleSession => ErrorKind::Unavailable,
        ErrorClass::ConstraintViolation => return error.clone(),
        ErrorClass::AlreadyAborted | ErrorClass::Other => ErrorKind::TransactionAborted,
    };
    error.with_kind(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serialization_failures_are_retried_to_the_limit_and_lost_connections_once() {
        let mut budget = Budget::new(4, 1);
        budget.next();
        assert!(budget.allows(ErrorClass::ConnectionLost));
        budget.next();
        assert!(!budget.allows(ErrorClass::ConnectionLost));
        assert!(budget.allows(ErrorClass::AlreadyAborted));
        budget.next();
        assert!(!budget.allows(ErrorClass::AlreadyAborted));
        assert!(!budget.allows(ErrorClass::Other));
        assert!(budget.allows(ErrorClass::SerializationFailure));
        budget.next();
        assert!(!budget.allows(ErrorClass::SerializationFailure));
    }

    #[test]
    fn stale_sessions_are_replaced_once_each() {
        let mut budget = Budget::new(100, 2);
        budget.next();
        assert!(budget.allows(ErrorClass::StaleSession));
        assert!(budget.allows(ErrorClass::StaleSession));
        assert!(!budget.allows(ErrorClass::StaleSession));
    }
}
