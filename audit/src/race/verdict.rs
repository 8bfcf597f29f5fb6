//! The verdict on a race.

use std::{error, fmt};

use http::StatusCode;

/// What has become of a request at each point where the permission was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    /// The points, in the order of the request.
    pub points: Vec<Point>,
}

/// A point at which the request was held and the permission revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Point {
    /// The statement before which the request was held, or `the request`.
    pub held_before: String,
    /// What the rows tell.
    pub finding: Finding,
    /// Whether the revocation had to wait for the request.
    pub waited: bool,
    /// The status of the response.
    pub status: StatusCode,
}

/// What the rows tell of a request and a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finding {
    /// The request has written nothing.
    Denied,
    /// The request wrote before the revocation, which saw it.
    WroteBefore,
    /// The request wrote after the revocation, without the permission.
    Overtaken,
}

impl Verdict {
    /// Whether the request never wrote without the permission.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.overtaken().next().is_none()
    }

    /// The points at which the request wrote without the permission.
    pub fn overtaken(&self) -> impl Iterator<Item = &Point> {
        let overtaken = |point: &&Point| point.finding == Finding::Overtaken;
        self.points.iter().filter(overtaken)
    }

    /// Asserts that the request never wrote without the permission.
    ///
    /// # Panics
    ///
    /// Panics with the points if it did.
    #[track_caller]
    pub fn assert_safe(&self) {
        assert!(
            self.is_safe(),
            "a revoked permission was used to write:\n{self}"
        );
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for point in &self.points {
            let finding = match point.finding {
                Finding::Denied => "denied",
                Finding::WroteBefore => "wrote before",
                Finding::Overtaken => "OVERTAKEN",
            };
            let waited = if point.waited { ", waited" } else { "" };
            let (status, before) = (point.status.as_u16(), &point.held_before);
            writeln!(f, "{finding:<13}{status}  revoked before {before}{waited}")?;
        }
        Ok(())
    }
}

/// Why a race proves nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum RaceError {
    /// The request writes nothing although it has the permission. It responded with this status.
    WritesNothing(StatusCode),
    /// The request does not end.
    RequestHangs,
    /// The revocation does not end, also after the request has.
    RevocationHangs,
    /// The request has more statements than this.
    TooManyPoints(usize),
    /// The app panicked.
    Panicked(String),
    /// The script of this name failed.
    Script(&'static str, sqlx::Error),
    /// The database failed otherwise.
    Database(sqlx::Error),
}

impl fmt::Display for RaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WritesNothing(status) => write!(
                f,
                "the request responded with {status} and did not change the rows of the effect, \
                 although it had the permission: the race proves nothing"
            ),
            Self::RequestHangs => f.write_str("the request does not end"),
            Self::RevocationHangs => f.write_str("the revocation does not end"),
            Self::TooManyPoints(limit) => write!(f, "the request has over {limit} statements"),
            Self::Panicked(panic) => write!(f, "the app panicked: {panic}"),
            Self::Script(script, error) => write!(f, "{script} failed: {error}"),
            Self::Database(error) => write!(f, "the database failed: {error}"),
        }
    }
}

impl error::Error for RaceError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Script(_, error) | Self::Database(error) => Some(error),
            _ => None,
        }
    }
}

impl From<sqlx::Error> for RaceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}
