//! The rules, one line each.

use std::{fmt, str::FromStr};

/// A rule: a kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// A committed write that nothing has checked.
    UncheckedMutation,
    /// A permission that was read in another transaction than the write.
    SplitCheckAndWrite,
    /// A write beside the transaction that was checked.
    WriteOutsideTransaction,
    /// A policy that reads beside the transaction.
    CheckOutsideTransaction,
    /// A permission table of PostgreSQL without the guard.
    PermissionTableUnguarded,
    /// A path parameter that the policy does not seem to look at.
    ObjectIdNotChecked,
    /// A policy that reads nothing, before a write.
    StaleClaims,
    /// Security in the document, and none on the route.
    DeclaredNotEnforced,
    /// A GET or HEAD that writes.
    SafeMethodWrites,
    /// A write of a versioned row without a precondition.
    NoPrecondition,
    /// A precondition that the document does not mention.
    PreconditionUndocumented,
    /// A policy on an operation that is public in the document.
    SecurityUndocumented,
    /// A route that the document does not have.
    UndocumentedRoute,
    /// A denial that the document does not have.
    DenialUndocumented,
    /// An operation that nothing protects, or that no test has exercised.
    UncoveredOperation,
    /// A reference that leads nowhere, or a duplicate or ambiguous path.
    BrokenDocument,
    /// A statement that may write unseen.
    OpaqueStatement,
    /// A recorder that may have missed statements.
    RecorderBlind,
    /// A suppression that is expired, invalid or needless.
    StaleSuppression,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// Worth knowing.
    Note,
    /// To be mended.
    Warning,
    /// A permission can be evaded.
    Error,
}

/// How often a finding of a rule is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// Less often than not.
    Low,
    /// Mostly.
    Medium,
    /// Almost always.
    High,
    /// Always.
    VeryHigh,
}

impl Rule {
    /// All rules, by number.
    pub const ALL: [Self; 19] = [
        Self::UncheckedMutation,
        Self::SplitCheckAndWrite,
        Self::WriteOutsideTransaction,
        Self::CheckOutsideTransaction,
        Self::PermissionTableUnguarded,
        Self::ObjectIdNotChecked,
        Self::StaleClaims,
        Self::DeclaredNotEnforced,
        Self::SafeMethodWrites,
        Self::NoPrecondition,
        Self::PreconditionUndocumented,
        Self::SecurityUndocumented,
        Self::UndocumentedRoute,
        Self::DenialUndocumented,
        Self::UncoveredOperation,
        Self::BrokenDocument,
        Self::OpaqueStatement,
        Self::RecorderBlind,
        Self::StaleSuppression,
    ];

    /// The number, such as `IL002`.
    #[must_use]
    pub fn id(self) -> &'static str {
        self.row().0
    }

    /// The name, such as `split-check-and-write`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The level of its findings, unless a finding has another one.
    #[must_use]
    pub fn level(self) -> Level {
        self.row().2
    }

    /// The severity, from 0 to 10. `None` if it is no matter of security.
    #[must_use]
    pub fn severity(self) -> Option<f32> {
        self.row().3
    }

    /// How often its findings are right.
    #[must_use]
    pub fn precision(self) -> Precision {
        self.row().4
    }

    /// What it is, in one sentence.
    #[must_use]
    pub fn summary(self) -> &'static str {
        self.row().5
    }

    /// What it finds and what it does not, why that matters, and how to mend it, in Markdown.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::UncheckedMutation => include_str!("texts/IL001.md"),
            Self::SplitCheckAndWrite => include_str!("texts/IL002.md"),
            Self::WriteOutsideTransaction => include_str!("texts/IL003.md"),
            Self::CheckOutsideTransaction => include_str!("texts/IL004.md"),
            Self::PermissionTableUnguarded => include_str!("texts/IL005.md"),
            Self::ObjectIdNotChecked => include_str!("texts/IL006.md"),
            Self::StaleClaims => include_str!("texts/IL007.md"),
            Self::DeclaredNotEnforced => include_str!("texts/IL008.md"),
            Self::SafeMethodWrites => include_str!("texts/IL009.md"),
            Self::NoPrecondition => include_str!("texts/IL010.md"),
            Self::PreconditionUndocumented => include_str!("texts/IL011.md"),
            Self::SecurityUndocumented => include_str!("texts/IL012.md"),
            Self::UndocumentedRoute => include_str!("texts/IL013.md"),
            Self::DenialUndocumented => include_str!("texts/IL014.md"),
            Self::UncoveredOperation => include_str!("texts/IL015.md"),
            Self::BrokenDocument => include_str!("texts/IL016.md"),
            Self::OpaqueStatement => include_str!("texts/IL017.md"),
            Self::RecorderBlind => include_str!("texts/IL018.md"),
            Self::StaleSuppression => include_str!("texts/IL019.md"),
        }
    }

    #[rustfmt::skip]
    fn row(self) -> (&'static str, &'static str, Level, Option<f32>, Precision, &'static str) {
        use Level::{Error, Note, Warning};
        use Precision::{High, Low, Medium, VeryHigh};
        match self {
            Self::UncheckedMutation => ("IL001", "unchecked-mutation", Error, Some(9.1), High,
                "A write was committed, and no policy, no condition and no read of a permission came before it."),
            Self::SplitCheckAndWrite => ("IL002", "split-check-and-write", Error, Some(8.1), High,
                "A permission was read in another transaction than the write, so a revocation between them is not seen."),
            Self::WriteOutsideTransaction => ("IL003", "write-outside-transaction", Error, Some(8.1), High,
                "A policy was checked in the transaction, and the handler wrote on another connection."),
            Self::CheckOutsideTransaction => ("IL004", "check-outside-transaction", Error, Some(7.5), High,
                "A policy reads on another connection, or from the past, so a revocation before the COMMIT is not seen."),
            Self::PermissionTableUnguarded => ("IL005", "permission-table-unguarded", Error, Some(7.5), High,
                "A permission table of PostgreSQL has no guard, so a revocation below SERIALIZABLE is not seen."),
            Self::ObjectIdNotChecked => ("IL006", "object-id-not-checked", Warning, Some(6.5), Low,
                "The path names an object, and the policy takes no parameter of the path, or has one value at most."),
            Self::StaleClaims => ("IL007", "stale-claims", Warning, Some(5.0), Medium,
                "The policy reads nothing from the database before a write, so it trusts what was true earlier."),
            Self::DeclaredNotEnforced => ("IL008", "declared-not-enforced", Error, Some(7.5), High,
                "The document requires security, and nothing protects the route."),
            Self::SafeMethodWrites => ("IL009", "safe-method-writes", Warning, Some(5.3), High,
                "A GET or HEAD writes, or may write, although caches, crawlers and other sites may send it."),
            Self::NoPrecondition => ("IL010", "no-precondition", Warning, Some(4.3), Medium,
                "A versioned row is written without If-Match, so an update can overwrite another one unseen."),
            Self::PreconditionUndocumented => ("IL011", "precondition-undocumented", Note, None, High,
                "The route checks a precondition that the document does not mention."),
            Self::SecurityUndocumented => ("IL012", "security-undocumented", Note, None, High,
                "A policy is enforced, and the document says that the operation is public."),
            Self::UndocumentedRoute => ("IL013", "undocumented-route", Warning, Some(4.0), High,
                "The service has a route that the document does not have."),
            Self::DenialUndocumented => ("IL014", "denial-undocumented", Note, None, Medium,
                "A policy can deny the request, and the document has no such response."),
            Self::UncoveredOperation => ("IL015", "uncovered-operation", Warning, None, VeryHigh,
                "Nothing protects an operation, or no request of the trace has exercised it."),
            Self::BrokenDocument => ("IL016", "broken-document", Warning, None, VeryHigh,
                "A reference leads nowhere, a path is a duplicate or ambiguous, or the document is malformed."),
            Self::OpaqueStatement => ("IL017", "opaque-statement", Note, None, VeryHigh,
                "A statement may write unseen: it is not understood, calls a function, or is on a raw connection."),
            Self::RecorderBlind => ("IL018", "recorder-blind", Warning, None, VeryHigh,
                "The recorder may have missed statements, so the trace proves nothing."),
            Self::StaleSuppression => ("IL019", "stale-suppression", Error, None, VeryHigh,
                "A suppression is expired, has no reason or no date, or suppresses nothing."),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id(), self.name())
    }
}

/// By number or by name.
impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|rule| rule.id().eq_ignore_ascii_case(text) || rule.name() == text);
        found.ok_or_else(|| format!("there is no rule `{text}`; the rules are IL001 to IL019"))
    }
}

impl Level {
    /// The name, as SARIF has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Precision {
    /// The name, as SARIF has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::VeryHigh => "very-high",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rule;

    #[test]
    fn every_rule_has_its_number_and_an_explanation_with_all_parts() {
        for (at, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule.id(), format!("IL{:03}", at + 1));
            assert_eq!(rule.id().parse(), Ok(rule));
            assert_eq!(rule.name().parse(), Ok(rule));
            for part in ["## Found", "## Not found", "## Mend", "## Suppress"] {
                assert!(rule.explanation().contains(part), "{rule}: {part}");
            }
        }
    }
}
