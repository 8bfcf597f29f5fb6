use std::{error::Error, fmt, io};

/// The reason why there is no server, as a message for the person who runs the tests.
///
/// `Debug` prints the same as `Display`, so that `unwrap` and `main` print it readably.
pub struct StartError(String);

impl StartError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// There is no server, and `reason` tells why none could be fetched.
    pub(crate) fn not_found(reason: &str) -> Self {
        Self::new(format!(
            "{NOT_FOUND}\nPostgreSQL could not be fetched for this run: {reason}"
        ))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

const NOT_FOUND: &str = "\
no database to run on; any one of these is enough:
  PostgreSQL on Debian or Ubuntu   apt-get install postgresql
  PostgreSQL on macOS              brew install postgresql
  CockroachDB                      put `cockroach` on PATH, from https://www.cockroachlabs.com/docs/releases/
  a server that runs already       export DATABASE_URL=postgres://user@host:5432/postgres";

#[cfg(test)]
mod tests {
    use super::StartError;

    #[test]
    fn not_found_lists_every_remedy_and_the_reason() {
        let message = format!("{:?}", StartError::not_found("no network"));
        for way in [
            "apt-get install postgresql",
            "brew install postgresql",
            "`cockroach` on PATH",
            "DATABASE_URL=",
            "could not be fetched for this run: no network",
        ] {
            assert!(message.contains(way), "{way} is missing in: {message}");
        }
    }
}
