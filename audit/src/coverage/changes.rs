//! Whether a change of a guard is stricter or looser.

use crate::coverage::guard::Guard;

/// How a guard differs from the locked one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Stricter,
    /// It lets more pass, or it cannot be told.
    Looser,
}

impl Change {
    pub(super) fn between(locked: &Guard, found: &Guard) -> Self {
        use Guard::{Conditional, FailsClosed, Public, Requires, Uncovered};
        let stricter = match (locked, found) {
            (Uncovered(_), Uncovered(_)) => return Self::None,
            (locked, found) if locked == found => return Self::None,
            (Uncovered(_), _) | (_, FailsClosed) => true,
            (Public(_), Requires { .. } | Conditional(_)) => true,
            (
                Requires {
                    policies,
                    by_path,
                    read_only,
                },
                Requires {
                    policies: found,
                    by_path: found_by_path,
                    read_only: found_read_only,
                },
            ) => {
                contains_all(found, policies)
                    && (*found_by_path || !by_path)
                    && (*found_read_only || !read_only)
            }
            (Conditional(conditions), Conditional(found)) => contains_all(found, conditions),
            _ => false,
        };
        if stricter {
            Self::Stricter
        } else {
            Self::Looser
        }
    }
}

fn contains_all(found: &[String], locked: &[String]) -> bool {
    locked.iter().all(|name| found.contains(name))
}

#[cfg(test)]
mod tests {
    use super::Change;
    use crate::coverage::guard::Guard;

    #[track_caller]
    fn assert_change(locked: &str, found: &str, expected: Change) {
        let read = |text| match text {
            "UNCOVERED" => Guard::uncovered(),
            text => Guard::parse(text).unwrap(),
        };
        let (locked_guard, found_guard) = (read(locked), read(found));
        let change = Change::between(&locked_guard, &found_guard);
        assert_eq!(change, expected, "{locked} to {found}");
    }

    #[test]
    fn less_protection_is_looser() {
        let until = "UNCOVERED until 2030-01-01 \"old\"";
        for (locked, found, expected) in [
            ("requires a", "requires a", Change::None),
            (until, "UNCOVERED", Change::None),
            ("requires a", "requires a + b", Change::Stricter),
            ("requires a + b", "requires b", Change::Looser),
            ("requires a", "requires b", Change::Looser),
            ("requires a", "requires a, read-only", Change::Stricter),
            ("requires a, read-only", "requires a", Change::Looser),
            ("requires a", "requires a, by path", Change::Stricter),
            (
                "requires a, by path",
                "requires a, read-only",
                Change::Looser,
            ),
            ("requires a", "public \"why\"", Change::Looser),
            ("public \"why\"", "requires a", Change::Stricter),
            ("public \"why\"", "public \"because\"", Change::Looser),
            (
                "conditional permitted(a) current(b)",
                "conditional permitted(a)",
                Change::Looser,
            ),
            (
                "conditional permitted(a)",
                "conditional permitted(a) current(b)",
                Change::Stricter,
            ),
            (
                "conditional permitted(a)",
                "conditional permitted(b)",
                Change::Looser,
            ),
            ("conditional permitted(a)", "requires a", Change::Looser),
            ("requires a", "UNCOVERED", Change::Looser),
            (until, "public \"why\"", Change::Stricter),
            ("requires a", "fails closed", Change::Stricter),
            ("fails closed", "requires a", Change::Looser),
        ] {
            assert_change(locked, found, expected);
        }
    }
}
