//! The requests of a race, each held at another point.

use std::{fmt, time::Duration};

use axum::{Router, extract::Request};
use http::StatusCode;
use sqlx::{PgConnection, SqlSafeStr, SqlStr};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tower::ServiceExt as _;

use crate::race::{
    administrator::{Administrator, Script, script},
    gate::Held,
    verdict::{Finding, Point, RaceError, Verdict},
    wire::Wire,
};

/// Proves or refutes, for one request of an app, that a revoked permission cannot be used to write.
///
/// The request is sent once for each of its statements, and held before that statement. While it is
/// held, the permission is revoked, and the revocation commits. Then the request goes on, and the
/// rows tell what it has written. Nothing depends on timing.
///
/// ```no_run
/// use axum::{body::Body, extract::Request};
/// use sqlx::Executor as _;
/// use tower_interlock::Interlock;
/// use tower_interlock_audit::{Race, Wire};
///
/// # fn app(interlock: Interlock) -> axum::Router { axum::Router::new() }
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let wire = Wire::to_url("postgres://root@localhost:26257/app").await?;
/// let app = app(Interlock::connect_with(wire.options(), 4).build());
/// Race::of(app, &wire)
///     .request(|| Request::put("/documents/1").body(Body::from("new")).unwrap())
///     .prepare(async |tx| {
///         tx.execute("UPDATE documents SET body = 'old'").await?;
///         tx.execute("INSERT INTO grants VALUES (1, 1) ON CONFLICT DO NOTHING").await
///     })
///     .revoke(async |tx| tx.execute("DELETE FROM grants").await)
///     .effect("SELECT body FROM documents")
///     .run()
///     .await?
///     .assert_safe();
/// # Ok(()) }
/// ```
///
/// # The verdict
///
/// The revocation and the [`effect`](Self::effect) are one SERIALIZABLE transaction. So it is
/// ordered before the request or after it, and its rows tell which:
///
/// * Nothing was written: the request came after the revocation, and was denied.
/// * The revocation saw the write: the request came before it, with the permission.
/// * A write is stored that the revocation did not see: the request has used a permission that was
///   gone. That is [`Overtaken`](Finding::Overtaken).
///
/// It does not matter how the app checks: in a layer, on the pool, in a cache or not at all. It
/// does not matter either which client sends the statements, as long as they go over the wire.
///
/// # Limits
///
/// It tests the interleavings of one revocation with one request, before each of its statements. It
/// does not test two requests, or a revocation that takes effect in several transactions. A
/// revocation that has to wait for the request is let wait for two seconds, and then counts as
/// waiting: see [`patience`](Self::patience).
#[must_use]
pub struct Race<'w> {
    app: Router,
    wire: &'w Wire,
    request: Box<dyn Fn() -> Request>,
    prepare: Script,
    revoke: Script,
    effect: SqlStr,
    patience: Duration,
}

impl<'w> Race<'w> {
    /// Returns a race of requests to `app`, whose connections all go over `wire`.
    pub fn of(app: Router, wire: &'w Wire) -> Self {
        Self {
            app,
            wire,
            request: Box::new(Request::default),
            prepare: script(async |_| Ok(())),
            revoke: script(async |_| Ok(())),
            effect: "SELECT NULL".into_sql_str(),
            patience: Duration::from_secs(2),
        }
    }

    /// Sets the request. It is made anew for each point.
    pub fn request(mut self, request: impl Fn() -> Request + 'static) -> Self {
        self.request = Box::new(request);
        self
    }

    /// Sets what prepares the rows for each request: the permission is there, and the write is not.
    ///
    /// It is a transaction of its own, and may run again after a serialization failure.
    pub fn prepare<T>(
        mut self,
        prepare: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error> + 'static,
    ) -> Self {
        self.prepare = script(prepare);
        self
    }

    /// Sets what revokes the permission, in a SERIALIZABLE transaction. It may run again after a
    /// serialization failure.
    pub fn revoke<T>(
        mut self,
        revoke: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error> + 'static,
    ) -> Self {
        self.revoke = script(revoke);
        self
    }

    /// Sets the query whose rows the request must not change without the permission.
    pub fn effect(mut self, query: impl SqlSafeStr) -> Self {
        self.effect = query.into_sql_str();
        self
    }

    /// Sets how long a revocation may take while the request is held. Default: 2 seconds.
    ///
    /// After that it is taken to wait for a lock of the request, which then goes on first.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Runs the race.
    ///
    /// # Errors
    ///
    /// Returns an error if the race proves nothing: the request writes nothing with the permission,
    /// or does not end, or a script fails.
    pub async fn run(self) -> Result<Verdict, RaceError> {
        let mut administrator = Administrator::connect(self.wire.direct(), &self.effect).await?;
        self.rehearse(&mut administrator).await?;
        let mut points = vec![self.revoke_first(&mut administrator).await?];
        for number in 1..=MOST_POINTS {
            match self.revoke_at(number, &mut administrator).await? {
                Some(point) => points.push(point),
                None => return Ok(Verdict { points }),
            }
        }
        Err(RaceError::TooManyPoints(MOST_POINTS))
    }

    /// The request has the permission, which is not revoked.
    async fn rehearse(&self, administrator: &mut Administrator) -> Result<(), RaceError> {
        let before = administrator.prepare(&self.prepare).await?;
        let status = finish(self.send()).await?;
        if administrator.look().await? == before {
            return Err(RaceError::WritesNothing(status));
        }
        Ok(())
    }

    /// The permission is revoked before the request is sent.
    async fn revoke_first(&self, administrator: &mut Administrator) -> Result<Point, RaceError> {
        administrator.prepare(&self.prepare).await?;
        let seen = administrator.revoke(&self.revoke).await?;
        let status = finish(self.send()).await?;
        let finding = if administrator.look().await? == seen {
            Finding::Denied
        } else {
            Finding::Overtaken
        };
        Ok(Point {
            held_before: "the request".to_owned(),
            finding,
            waited: false,
            status,
        })
    }

    /// The permission is revoked before the statement with this number. `None` if the request has
    /// no such statement.
    async fn revoke_at(
        &self,
        number: usize,
        administrator: &mut Administrator,
    ) -> Result<Option<Point>, RaceError> {
        let before = administrator.prepare(&self.prepare).await?;
        let hold = self.wire.gate().arm(number);
        let mut request = self.send();
        let held = tokio::select! {
            biased;
            held = hold.reached() => held,
            status = finish_mut(&mut request) => {
                status?;
                return Ok(None);
            }
        };
        let Held { sql, release } = held;
        let deadline = Instant::now() + self.patience;
        let mut revoking = Box::pin(administrator.revoke(&self.revoke));
        let in_time = timeout_at(deadline, &mut revoking).await;
        let waited = in_time.is_err();
        drop(release);
        let (seen, status) = match in_time {
            Ok(seen) => (seen?, finish(request).await?),
            Err(_) => {
                let (seen, status) = tokio::join!(timeout(LONGEST, &mut revoking), finish(request));
                (seen.map_err(|_| RaceError::RevocationHangs)??, status?)
            }
        };
        drop(revoking);
        let after = administrator.look().await?;
        let finding = if after == before {
            Finding::Denied
        } else if after == seen {
            Finding::WroteBefore
        } else {
            Finding::Overtaken
        };
        Ok(Some(Point {
            held_before: sql,
            finding,
            waited,
            status,
        }))
    }

    fn send(&self) -> JoinHandle<StatusCode> {
        let (app, request) = (self.app.clone(), (self.request)());
        tokio::spawn(async move {
            match app.oneshot(request).await {
                Ok(response) => response.status(),
                Err(never) => match never {},
            }
        })
    }
}

impl fmt::Debug for Race<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Race")
            .field("wire", &self.wire)
            .field("effect", &self.effect.as_str())
            .finish_non_exhaustive()
    }
}

async fn finish(mut request: JoinHandle<StatusCode>) -> Result<StatusCode, RaceError> {
    finish_mut(&mut request).await
}

async fn finish_mut(request: &mut JoinHandle<StatusCode>) -> Result<StatusCode, RaceError> {
    match timeout(LONGEST, request).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(panic)) => Err(RaceError::Panicked(panic.to_string())),
        Err(_) => Err(RaceError::RequestHangs),
    }
}

/// How long a request, or a revocation that waits for it, may take.
const LONGEST: Duration = Duration::from_secs(60);

/// How many statements a request may have.
const MOST_POINTS: usize = 100;
