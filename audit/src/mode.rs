//! Whether committed files are compared or written.

use std::env;

/// What to do with a committed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Check,
    Update,
}

/// CI must not update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpdateInCi;

impl Mode {
    /// The mode that the variables `INTERLOCK_LOCK` and `CI` ask for.
    pub(crate) fn of_environment() -> Result<Self, UpdateInCi> {
        let variable = |name| env::var(name).ok();
        Self::of(
            variable("INTERLOCK_LOCK").as_deref(),
            variable("CI").as_deref(),
        )
    }

    fn of(lock: Option<&str>, ci: Option<&str>) -> Result<Self, UpdateInCi> {
        let in_ci = ci.is_some_and(|ci| !matches!(ci, "" | "0" | "false"));
        match lock {
            Some("update") if in_ci => Err(UpdateInCi),
            Some("update") => Ok(Self::Update),
            _ => Ok(Self::Check),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Mode, UpdateInCi};

    #[test]
    fn ci_cannot_update() {
        assert_eq!(Mode::of(Some("update"), None), Ok(Mode::Update));
        assert_eq!(Mode::of(Some("update"), Some("false")), Ok(Mode::Update));
        assert_eq!(Mode::of(None, Some("true")), Ok(Mode::Check));
        assert_eq!(Mode::of(Some("check"), None), Ok(Mode::Check));
        assert_eq!(Mode::of(Some("update"), Some("true")), Err(UpdateInCi));
    }
}
