use std::{io, os::unix::process::CommandExt, process::Command};

/// The account for a server that refuses to run as root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    user: u32,
    group: u32,
}

impl Account {
    /// For root `postgres` or else `nobody`. `None` if the current user can run the server.
    pub(crate) fn to_switch_to() -> io::Result<Option<Self>> {
        if id(&["-u"])? != Some(0) {
            return Ok(None);
        }

        for name in ["postgres", "nobody"] {
            if let (Some(user), Some(group)) = (id(&["-u", name])?, id(&["-g", name])?) {
                return Ok(Some(Self { user, group }));
            }
        }
        Err(io::Error::other(
            "PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as",
        ))
    }

    /// Makes `command` run as this account, without the groups of root.
    pub(crate) fn apply(self, command: &mut Command) {
        command.uid(self.user).gid(self.group);
    }
}

/// The output of the `id` program. The standard library does not know the user.
fn id(arguments: &[&str]) -> io::Result<Option<u32>> {
    let output = Command::new("id").args(arguments).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}
