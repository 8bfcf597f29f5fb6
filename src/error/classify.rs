//! The meaning of a database error for the transaction that it happened in.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::error::{
    class::ErrorClass,
    kind::ErrorKind,
    sqlstate::{self, Effects, Meaning, Session, TABLE, When},
};

/// Where in its transaction an error occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Begin,
    /// In a transaction that the crate has made READ ONLY.
    ReadOnly,
    /// In any other transaction, at its COMMIT, or in a statement without one.
    ReadWrite,
}

/// Classifies an error before COMMIT. `None` if the transaction goes on unharmed.
pub(crate) fn classify(error: &sqlx::Error) -> Option<ErrorClass> {
    match error {
        sqlx::Error::Io(_) => Some(ErrorClass::ConnectionLost),
        sqlx::Error::Configuration(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::WorkerCrashed => Some(ErrorClass::Other),
        error => meaning(error, Moment::ReadWrite).map(|meaning| meaning.class),
    }
}

/// The kind of an error, if nothing of its statement was kept.
pub(crate) fn kind(error: &sqlx::Error, moment: Moment) -> ErrorKind {
    match error {
        sqlx::Error::RowNotFound => ErrorKind::RowNotFound,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => {
            ErrorKind::Unavailable
        }
        error => meaning(error, moment).map_or(ErrorKind::Database, |meaning| meaning.kind),
    }
}

/// Whether the connection is not to be used after this transaction, or at all any more.
pub(crate) fn breaks_connection(error: &sqlx::Error, moment: Moment) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::WorkerCrashed => true,
        error => meaning(error, moment).is_some_and(|meaning| meaning.session == Session::Closed),
    }
}

/// The effect on CockroachDB of a COMMIT, or of a statement that is its own, with this reply.
pub(crate) fn effects(error: &sqlx::Error) -> Effects {
    match error {
        sqlx::Error::Encode(_) | sqlx::Error::TypeNotFound { .. } => Effects::Unwritten,
        error => {
            meaning(error, Moment::ReadWrite).map_or(Effects::Unknown, |meaning| meaning.effects)
        }
    }
}

/// Whether PostgreSQL has rolled back the COMMIT, or the statement that is its own, to which it
/// replies with this error. After its commit record it raises no `ERROR`.
pub(crate) fn is_rolled_back_by_postgres(error: &sqlx::Error) -> bool {
    severity(error) == Some(PgSeverity::Error) || is_interrupt(error)
}

/// Whether PostgreSQL has ended the session where it processes interrupts: for a shutdown,
/// `pg_terminate_backend` or a timeout. The errors of a pooler have no routine.
///
/// It is no reply to a COMMIT that was done. `CommitTransaction` holds interrupts from before the
/// commit record on, and the next place that processes them comes after the acknowledgement
/// (`src/backend/access/transam/xact.c`, `src/backend/tcop/postgres.c`).
pub(crate) fn is_interrupt(error: &sqlx::Error) -> bool {
    severity(error) == Some(PgSeverity::Fatal)
        && sqlstate::routine(error) == Some("ProcessInterrupts")
}

/// Whether the server has ended the session with this error.
pub(crate) fn is_fatal(error: &sqlx::Error) -> bool {
    matches!(severity(error), Some(PgSeverity::Fatal | PgSeverity::Panic))
}

fn severity(error: &sqlx::Error) -> Option<PgSeverity> {
    error
        .as_database_error()?
        .try_downcast_ref::<PgDatabaseError>()
        .map(PgDatabaseError::severity)
}

/// The row of the table. `None` if it is no error of the database.
fn meaning(error: &sqlx::Error, moment: Moment) -> Option<Meaning> {
    let database = error.as_database_error()?;
    let code = database.code();
    let reported = Reported {
        code: code.as_deref().unwrap_or_default(),
        message: database.message(),
        routine: sqlstate::routine(error),
        fatal: is_fatal(error),
    };
    reported.meaning(moment)
}

/// The fields of an error by which the table is read.
#[derive(Debug, Clone, Copy)]
struct Reported<'e> {
    code: &'e str,
    message: &'e str,
    routine: Option<&'e str>,
    fatal: bool,
}

impl Reported<'_> {
    fn meaning(self, moment: Moment) -> Option<Meaning> {
        TABLE
            .iter()
            .find(|(code, when, _)| self.code.starts_with(code) && self.applies(*when, moment))
            .map(|(_, _, meaning)| *meaning)
    }

    fn applies(self, when: When, moment: Moment) -> bool {
        match when {
            When::Always => true,
            When::Fatal => self.fatal,
            When::Begin => moment == Moment::Begin,
            When::ReadOnly => moment == Moment::ReadOnly,
            When::Message(part) => self.message.contains(part),
            When::Routine(routine) => self.routine == Some(routine),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::error::sqlstate::class;

    /// PostgreSQL's `errcodes.txt` from 13 to 18 and CockroachDB's `codes.go`, without success,
    /// warnings and `no_data`.
    const CLASSES: &str = "03 08 09 0A 0B 0F 0L 0P 0Z 10 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 38 \
                           39 3B 3D 3F 40 42 44 53 54 55 57 58 72 F0 HV P0 XC XX";

    const ERROR: Reported<'_> = Reported {
        code: "",
        message: "",
        routine: None,
        fatal: false,
    };

    fn at(moment: Moment, reported: Reported<'_>) -> Meaning {
        reported.meaning(moment).unwrap()
    }

    fn error(code: &str) -> Meaning {
        at(Moment::ReadWrite, Reported { code, ..ERROR })
    }

    fn fatal(code: &str) -> Meaning {
        let fatal = true;
        at(
            Moment::ReadWrite,
            Reported {
                code,
                fatal,
                ..ERROR
            },
        )
    }

    fn with_message(code: &'static str, message: &'static str) -> Meaning {
        let reported = Reported {
            code,
            message,
            ..ERROR
        };
        at(Moment::ReadWrite, reported)
    }

    #[test]
    fn io_error_is_a_lost_connection_and_missing_row_is_no_error() {
        let broken = sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(classify(&broken), Some(ErrorClass::ConnectionLost));
        assert!(breaks_connection(&broken, Moment::ReadWrite));
        assert_eq!(classify(&sqlx::Error::RowNotFound), None);
    }

    #[test]
    fn every_class_has_exactly_one_row() {
        let rows = TABLE.iter();
        let mut rows: Vec<_> = rows
            .filter(|(code, when, _)| code.len() == 2 && *when == When::Always)
            .map(|(code, ..)| *code)
            .collect();
        rows.sort_unstable();
        let classes: Vec<_> = CLASSES.split_whitespace().collect();
        assert_eq!(rows, classes);
    }

    /// A row is dead if one above it applies whenever it does.
    #[test]
    fn no_row_is_hidden_by_one_above_it() {
        for (number, (code, when, _)) in TABLE.iter().enumerate() {
            let above = TABLE.iter().take(number);
            let hidden = above.clone().any(|(other, at, _)| {
                code.starts_with(other) && (*at == When::Always || at == when)
            });
            assert!(!hidden, "{code} {when:?}");
        }
    }

    #[test]
    fn exceptions_stand_beside_their_class() {
        let mut seen = HashSet::new();
        let mut last = "";
        for (code, when, _) in TABLE {
            if *when == When::Fatal || code.is_empty() {
                continue;
            }
            if class(code) != last {
                last = class(code);
                assert!(seen.insert(last), "{code}");
            }
        }
    }

    #[test]
    fn fatal_error_loses_the_connection_unless_a_retry_would_meet_it_again() {
        for code in ["08P01", "40001", "53300", "57P01", "58030", "XX000"] {
            assert_eq!(fatal(code).class, ErrorClass::ConnectionLost, "{code}");
        }
        for code in ["25P03", "25P04"] {
            let meaning = fatal(code);
            let seen = (meaning.class, meaning.kind, meaning.session);
            let expected = (
                ErrorClass::Other,
                ErrorKind::DeadlineExceeded,
                Session::Closed,
            );
            assert_eq!(seen, expected, "{code}");
        }
    }

    #[test]
    fn only_what_may_succeed_is_retried() {
        use ErrorClass::{
            AlreadyAborted, ConnectionLost, ConstraintViolation, Other, SerializationFailure,
        };
        for (codes, class) in [
            ("40001 40P01 72000", SerializationFailure),
            ("08006 57P01 57P02 57P03 57P04", ConnectionLost),
            ("25P02", AlreadyAborted),
            ("23503 23505 23P01", ConstraintViolation),
            (
                "08P01 23502 23514 40003 42501 53100 55P03 57014 58C00",
                Other,
            ),
            ("0A000 26000 42P05 XX000 XXUUU XXC02 99999", Other),
        ] {
            for code in codes.split_whitespace() {
                assert_eq!(error(code).class, class, "{code}");
            }
        }
    }

    #[test]
    fn kind_says_who_can_help() {
        use ErrorKind::{
            ConstraintViolation, Database, DeadlineExceeded, RetriesExhausted, Unavailable,
        };
        for (codes, kind) in [
            ("23505 23514 23P01 44000 40002", ConstraintViolation),
            ("40001 40P01 55P03", RetriesExhausted),
            (
                "25006 53100 53200 53300 53400 55006 57P01 58C00 XXC02",
                Unavailable,
            ),
            ("57014", DeadlineExceeded),
            (
                "08P01 0A000 22012 42501 42601 P0001 54001 XX000 XXUUU",
                Database,
            ),
        ] {
            for code in codes.split_whitespace() {
                assert_eq!(error(code).kind, kind, "{code}");
            }
        }
    }

    #[test]
    fn rejected_statement_has_written_nothing() {
        for code in "08P01 0A000 22012 25006 42601 42501 55P03 P0001 XXC02".split_whitespace() {
            assert_eq!(error(code).effects, Effects::Unwritten, "{code}");
        }
        for code in "40001 40P01 25P02 23505".split_whitespace() {
            assert_eq!(error(code).effects, Effects::RolledBack, "{code}");
        }
        for code in "08006 40003 53200 57014 57P01 58030 XX000 XXUUU 99999".split_whitespace() {
            assert_eq!(error(code).effects, Effects::Unknown, "{code}");
        }
        assert_eq!(error("XXA00").effects, Effects::Committed);
    }

    #[test]
    fn stale_session_is_known_by_the_message_that_is_not_translated() {
        for (code, message) in [
            ("0A000", "cached plan must not change result type"),
            ("26000", "prepared statement \"sqlx_s_1\" does not exist"),
            ("42P05", "prepared statement \"sqlx_s_1\" already exists"),
            ("XX000", "cache lookup failed for type 16384"),
        ] {
            let meaning = with_message(code, message);
            assert_eq!(meaning.class, ErrorClass::StaleSession, "{code}");
            assert_eq!(meaning.session, Session::Closed, "{code}");
            assert_eq!(meaning.effects, Effects::Unwritten, "{code}");
        }
        let own = with_message("26000", "prepared statement \"mine\" does not exist");
        assert_eq!(own.class, ErrorClass::Other);
    }

    #[test]
    fn row_security_denies_and_missing_privilege_does_not() {
        let rejected = with_message("42501", "new row violates row-level security policy for …");
        assert_eq!(rejected.kind, ErrorKind::Denied);
        let translated = Reported {
            code: "42501",
            routine: Some("ExecWithCheckOptions"),
            ..ERROR
        };
        assert_eq!(at(Moment::ReadWrite, translated).kind, ErrorKind::Denied);
        let missing = with_message("42501", "permission denied for table documents");
        assert_eq!(missing.kind, ErrorKind::Database);
    }

    #[test]
    fn read_only_server_is_unavailable_and_read_only_layer_is_a_mistake() {
        let code = "25006";
        for (moment, kind, session) in [
            (Moment::Begin, ErrorKind::Unavailable, Session::Closed),
            (Moment::ReadWrite, ErrorKind::Unavailable, Session::Closed),
            (Moment::ReadOnly, ErrorKind::Database, Session::Kept),
        ] {
            let meaning = at(moment, Reported { code, ..ERROR });
            assert_eq!((meaning.kind, meaning.session), (kind, session));
        }
    }
}
