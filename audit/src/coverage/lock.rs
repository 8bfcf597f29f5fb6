//! The lock file.

use std::{collections::BTreeMap, fmt};

use crate::coverage::{
    changes::Change,
    date::Date,
    guard::{Exception, Guard},
    operation::Operation,
    problem::Problem,
};

/// The lines of a lock file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Lock(pub(super) BTreeMap<Operation, Guard>);

/// A line that is not understood, or whose operation has two.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnreadableLine {
    pub(crate) number: usize,
    pub(crate) line: String,
}

impl Lock {
    /// Reads a lock file.
    pub(crate) fn parse(text: &str) -> Result<Self, UnreadableLine> {
        let mut lines = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let unreadable = || UnreadableLine {
                number: at + 1,
                line: line.to_owned(),
            };
            let (method, rest) = line.split_once(' ').ok_or_else(unreadable)?;
            let (path, guard) = rest.trim_start().split_once(' ').ok_or_else(unreadable)?;
            let guard = Guard::parse(guard.trim()).ok_or_else(unreadable)?;
            if lines.insert(Operation::new(method, path), guard).is_some() {
                return Err(unreadable());
            }
        }
        Ok(Self(lines))
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = (&Operation, &Guard)> {
        self.0.iter()
    }

    /// The first lock file, in which everything uncovered has a date.
    pub(super) fn first(&self, today: Date) -> Self {
        let until = Some(today.plus(DAYS_OF_GRACE));
        let first = self.0.iter().map(|(operation, guard)| {
            let guard = match guard {
                Guard::Uncovered(_) => Guard::Uncovered(Exception {
                    until,
                    reason: "uncovered when the lock was made".to_owned(),
                }),
                guard => guard.clone(),
            };
            (operation.clone(), guard)
        });
        Self(first.collect())
    }

    /// This file with what was found. A line never becomes uncovered, and none that is uncovered is
    /// added.
    pub(super) fn updated(&self, found: &Self) -> Self {
        let updated = found.0.iter().filter_map(|(operation, found)| {
            let locked = self.0.get(operation);
            let guard = if found.is_uncovered() { locked? } else { found };
            Some((operation.clone(), guard.clone()))
        });
        Self(updated.collect())
    }

    /// What is wrong with what was found.
    pub(super) fn compare(&self, found: &Self, today: Date) -> Vec<Problem> {
        let of_found = found.0.iter().filter_map(|(operation, guard)| {
            let operation = operation.clone();
            let found = guard.clone();
            match self.0.get(&operation) {
                None if guard.is_uncovered() => Some(Problem::Uncovered(operation)),
                None => Some(Problem::New(operation, found)),
                Some(locked) => match (Change::between(locked, guard), locked) {
                    (Change::None, Guard::Uncovered(exception)) => {
                        let until = exception.until.filter(|until| *until < today)?;
                        Some(Problem::Expired(operation, until.to_string()))
                    }
                    (Change::None, _) => None,
                    (Change::Looser, _) => Some(Problem::Looser(operation, locked.clone(), found)),
                    (Change::Stricter, _) => {
                        Some(Problem::Stricter(operation, locked.clone(), found))
                    }
                },
            }
        });
        let gone = self
            .0
            .keys()
            .filter(|operation| !found.0.contains_key(operation));
        let gone = gone.cloned().map(Problem::Gone);
        of_found.chain(gone).collect()
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        let width = self.0.keys().map(|operation| operation.path.len()).max();
        let width = width.unwrap_or_default();
        for (Operation { method, path }, guard) in &self.0 {
            writeln!(f, "{method:<7} {path:<width$} {guard}")?;
        }
        Ok(())
    }
}

const HEADER: &str = "\
# What protects each operation, for review. Made by https://docs.rs/tower-interlock-audit.
# INTERLOCK_LOCK=update writes it. A line UNCOVERED has a date, and is only ever removed.
";

/// How long what is uncovered may stay so, in the first lock file.
const DAYS_OF_GRACE: i64 = 90;

#[cfg(test)]
mod tests {
    use super::{Date, Guard, Lock, Problem};

    const LOCKED: &str = "
        # a comment
        GET  /health      public \"for the load balancer\"
        GET  /documents   requires known, by path, read-only
        PUT  /documents   conditional permitted(grants) current(documents)
        POST /documents   requires known + documents.create
        POST /legacy      UNCOVERED until 2027-01-31 \"being replaced\"
        POST /closed      fails closed
    ";

    fn lock(text: &str) -> Lock {
        Lock::parse(text).unwrap()
    }

    fn on(day: &str) -> Date {
        day.parse().unwrap()
    }

    /// What a probe would find: uncovered operations have neither date nor reason.
    fn found(text: &str) -> Lock {
        let mut found = lock(text);
        for guard in found.0.values_mut().filter(|guard| guard.is_uncovered()) {
            *guard = Guard::uncovered();
        }
        found
    }

    #[test]
    fn written_file_is_read_again() {
        let lock = lock(LOCKED);
        assert_eq!(Lock::parse(&lock.to_string()).unwrap(), lock);
        assert_eq!(lock.0.len(), 6);
    }

    #[test]
    fn line_that_is_not_understood_is_an_error() {
        for line in [
            "GET /x",
            "GET /x allowed",
            "GET /x public because",
            "GET /x UNCOVERED",
            "GET /x UNCOVERED until tomorrow \"x\"",
            "GET /x fails closed\nGET /x fails closed",
        ] {
            let error = Lock::parse(line).unwrap_err();
            assert!(!error.line.is_empty(), "{line}");
        }
    }

    #[test]
    fn same_guards_have_no_problem() {
        let problems = lock(LOCKED).compare(&found(LOCKED), on("2027-01-31"));
        assert_eq!(problems, []);
    }

    #[test]
    fn exception_expires_after_its_day() {
        let problems = lock(LOCKED).compare(&found(LOCKED), on("2027-02-01"));
        assert!(
            matches!(&problems[..], [Problem::Expired(..)]),
            "{problems:?}"
        );
    }

    #[test]
    fn each_difference_is_a_problem() {
        let changed = "
            GET  /health      public \"for the load balancer\"
            GET  /documents   requires known, read-only
            PUT  /documents   conditional permitted(grants) current(documents) exists(documents)
            POST /legacy      requires known
            GET  /new         requires known
            GET  /bare        UNCOVERED until 2030-01-01 \"x\"
            POST /closed      fails closed
        ";
        let problems = lock(LOCKED).compare(&found(changed), on("2026-01-01"));
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 6, "{texts:#?}");
        for (problem, start) in problems
            .iter()
            .zip(["bare", "doc", "doc", "leg", "new", "doc"])
        {
            assert!(problem.to_string().contains(start), "{texts:#?}");
        }
    }

    #[test]
    fn update_never_adds_an_uncovered_line() {
        let bare = "GET /bare UNCOVERED until 2030-01-01 \"x\"";
        assert_eq!(Lock::default().updated(&found(bare)), Lock::default());
        let locked = lock("GET /bare requires known");
        let updated = locked.updated(&found(bare));
        assert_eq!(updated, locked);
        let problems = updated.compare(&found(bare), on("2026-01-01"));
        assert!(
            matches!(&problems[..], [Problem::Looser(..)]),
            "{problems:?}"
        );
    }

    #[test]
    fn update_keeps_dates_and_drops_what_is_gone() {
        let updated = lock(LOCKED).updated(&found("POST /legacy UNCOVERED until 2030-01-01 \"x\""));
        assert_eq!(
            updated,
            lock("POST /legacy UNCOVERED until 2027-01-31 \"being replaced\"")
        );
    }

    #[test]
    fn first_file_has_a_date_for_what_is_uncovered() {
        let first = found("POST /legacy UNCOVERED until 2030-01-01 \"x\"").first(on("2026-01-01"));
        assert!(
            first.to_string().contains("UNCOVERED until 2026-04-01"),
            "{first}"
        );
    }
}
