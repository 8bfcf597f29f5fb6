//! The parts of standards that rules are relevant to.
//!
//! `docs/findings.md` has the sources.

use super::rule::Rule;

/// The parts of standards that a rule is relevant to. It says nothing about compliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mapping {
    /// Numbers of CWE.
    pub cwe: &'static [u16],
    /// Categories of the OWASP API Security Top 10 2023.
    pub owasp: &'static [&'static str],
    /// Requirements of OWASP ASVS 5.0.0.
    pub asvs: &'static [&'static str],
    /// Criteria of SOC 2: the Trust Services Criteria of 2017, with the points of focus of 2022.
    pub soc2: &'static [&'static str],
    /// Requirements of PCI DSS 4.0.1, if card data is in scope.
    pub pci: &'static [&'static str],
}

impl Rule {
    /// The parts of standards that it is relevant to.
    #[must_use]
    #[rustfmt::skip]
    pub const fn mapping(self) -> Mapping {
        match self {
            Self::UncheckedMutation => mapping(&[862], &["API1:2023", "API5:2023"], &["8.2.1", "8.2.2", "8.3.1"], &["CC6.1", "CC6.3"], &["6.2.4", "7.3.3"]),
            Self::SplitCheckAndWrite => mapping(&[367], &["API1:2023", "API5:2023"], &["15.4.2", "2.3.3", "8.3.2"], &["CC6.1", "CC6.3", "PI1.3"], &["6.2.4"]),
            Self::WriteOutsideTransaction => mapping(&[367], &["API1:2023", "API5:2023"], &["15.4.2", "2.3.3"], &["CC6.1", "PI1.3"], &["6.2.4"]),
            Self::CheckOutsideTransaction => mapping(&[367], &["API1:2023", "API5:2023"], &["15.4.2", "8.3.2"], &["CC6.1", "CC6.3"], &["6.2.4"]),
            Self::PermissionTableUnguarded => mapping(&[367], &["API1:2023", "API5:2023"], &["15.4.2", "8.3.2"], &["CC6.1", "CC6.3", "CC8.1"], &["6.2.4"]),
            Self::ObjectIdNotChecked => mapping(&[639], &["API1:2023"], &["8.2.2", "8.4.1"], &["CC6.1", "CC6.3"], &["6.2.4", "7.2.6"]),
            Self::StaleClaims => mapping(&[863], &["API5:2023"], &["8.3.2"], &["CC6.3"], &["6.2.4"]),
            Self::DeclaredNotEnforced => mapping(&[862], &["API5:2023", "API2:2023"], &["8.3.1", "8.1.1"], &["CC6.1"], &["6.2.4", "7.3.3"]),
            Self::SafeMethodWrites => mapping(&[650], &["API8:2023"], &["3.5.3"], &["CC6.1"], &["6.2.4"]),
            Self::NoPrecondition => mapping(&[362], &[], &["15.4.2"], &["PI1.3"], &[]),
            Self::PreconditionUndocumented => mapping(&[1059], &["API9:2023"], &[], &["CC8.1"], &[]),
            Self::SecurityUndocumented => mapping(&[1059], &["API9:2023"], &["8.1.1"], &["CC8.1"], &[]),
            Self::UndocumentedRoute => mapping(&[1059], &["API9:2023"], &["8.1.1"], &["CC7.1", "CC8.1"], &["6.2.4"]),
            Self::DenialUndocumented => mapping(&[1059], &["API9:2023"], &["8.1.1"], &["CC8.1"], &[]),
            Self::UncoveredOperation => mapping(&[], &["API9:2023"], &["8.1.1"], &["CC7.1", "CC8.1"], &[]),
            Self::BrokenDocument => mapping(&[], &["API9:2023"], &[], &["CC8.1"], &[]),
            Self::OpaqueStatement => mapping(&[], &[], &[], &[], &[]),
            Self::RecorderBlind => mapping(&[], &[], &[], &[], &[]),
            Self::StaleSuppression => mapping(&[], &[], &[], &["CC8.1"], &[]),
        }
    }
}

const fn mapping(
    cwe: &'static [u16],
    owasp: &'static [&'static str],
    asvs: &'static [&'static str],
    soc2: &'static [&'static str],
    pci: &'static [&'static str],
) -> Mapping {
    Mapping {
        cwe,
        owasp,
        asvs,
        soc2,
        pci,
    }
}
