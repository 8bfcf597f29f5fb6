//! The lease of the request's transaction: extractor and executor.

use std::{fmt, sync::Arc};

use axum_core::extract::FromRequestParts;
use futures_core::{future::BoxFuture, stream::BoxStream};
use futures_util::TryStreamExt as _;
use http::request::Parts;
use sqlx::{
    Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use sqlx_core::try_stream;

use crate::{
    error::{Error, ErrorKind},
    lease::{InUse, Lease, Progress},
    savepoint::Savepoint,
    slot::Slot,
    statement::{self, Statement},
};

/// The request's transaction, in a policy or a handler.
///
/// `&mut Tx` is a [`sqlx::Executor`]; a function that is handed one writes `&mut *tx` for each
/// statement but the last. The transaction begins at the first statement of the
/// request, so it does not matter where among the arguments `Tx` stands, and a request that is
/// refused before costs no BEGIN. It is SERIALIZABLE, it is the same for every policy and for the
/// handler, and the [layer](crate::AuthorizeLayer) alone ends it.
///
/// One `Tx` of a request is used at a time: the first statement takes the lease, dropping the `Tx`
/// gives it back. A statement on a second one meanwhile fails with
/// [`AlreadyLeased`](crate::ErrorKind::AlreadyLeased).
///
/// Every error of a statement is noted, also one that the handler swallows: it aborted the
/// transaction, and an answer that claims success becomes a 500. To go on after an error that is
/// expected, use a [`savepoint`](Self::savepoint).
///
/// A text that begins with transaction control (`COMMIT`, `SET TRANSACTION`, …) is refused, and so
/// are `RESET ALL`, `DISCARD` and `LISTEN`. Any other `SET` outlives the request on the pooled
/// connection: PostgreSQL's `SET LOCAL` does not.
///
/// # Cancellation
///
/// A row stream may be dropped after any row. A statement that is dropped while the server is at
/// it (a timeout in the handler, a lost `select!`) may have taken effect or not: the request can
/// then no longer succeed.
///
/// A `Tx` must not outlive the answer: in a spawned task or a streaming body it makes the answer a
/// 500 [`Escaped`](crate::ErrorKind::Escaped), and nothing is kept.
pub struct Tx {
    lease: Lease,
}

impl Tx {
    /// Opens a savepoint: what is done on it can be undone, and its errors healed, without
    /// giving up the transaction.
    ///
    /// # Errors
    ///
    /// As any statement.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        Savepoint::open(self).await
    }

    /// The raw connection, for what an [`Executor`] cannot do.
    ///
    /// What happens on it is not seen. One round trip before it is handed out and one before
    /// COMMIT make sure that it is still the same healthy transaction.
    ///
    /// # Errors
    ///
    /// As any statement.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.lease.lend().await
    }

    /// Rolls back in the end although the answer is a success.
    pub fn rollback_only(&mut self) {
        self.lease.slot().rollback_only();
    }

    /// Commits although the answer is a 4xx: for the counter of failed logins, for an audit row.
    ///
    /// It does not help against a denial of a policy, an error of a statement or a 5xx.
    pub fn commit_on_error(self) {
        self.lease.slot().commit_on_error();
    }

    /// Runs `hook` once the COMMIT is acknowledged, in the background and after the hooks
    /// registered before it.
    ///
    /// It runs at most once: not after a rollback, not for an attempt that is replayed, not when
    /// COMMIT is never acknowledged, and not when the process ends before. The client's disconnect
    /// does not stop it, and [`drain`](crate::Interlock::drain) waits for it. The answer does not.
    pub fn after_commit(&mut self, hook: impl Future<Output = ()> + Send + 'static) {
        self.lease.slot().after_commit(0, Box::pin(hook));
    }

    /// Which attempt at the request this is, counted from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.lease.slot().attempt()
    }

    pub(crate) fn lease(&mut self) -> &mut Lease {
        &mut self.lease
    }

    async fn take_for(&mut self, statement: &Statement) -> Result<InUse<'_>, sqlx::Error> {
        let mut lease = self.lease.take().await?;
        if statement.controls_transaction() {
            return Err(lease.refuse(transaction_control()));
        }
        if statement.may_be_several() {
            lease.seal().await?;
        }
        Ok(lease)
    }
}

impl<S: Sync> FromRequestParts<S> for Tx {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        match parts.extensions.get::<Arc<Slot>>() {
            Some(slot) => Ok(Self {
                lease: Lease::new(Arc::clone(slot)),
            }),
            None => Err(Error::because(
                ErrorKind::Misconfigured,
                "a Tx on a route without an AuthorizeLayer",
            )),
        }
    }
}

impl<'c> Executor<'c> for &'c mut Tx {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query);
        Box::pin(try_stream! {
            let mut lease = self.take_for(&statement).await?;
            let answer = {
                let (transaction, progress) = lease.parts()?;
                let mut rows = transaction.connection()?.fetch_many(statement);
                loop {
                    *progress = Progress::Waiting;
                    match rows.try_next().await {
                        Ok(Some(row)) => {
                            // The caller may drop the stream here.
                            *progress = Progress::Resting;
                            r#yield!(row);
                        }
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            };
            lease.done(answer)
        })
    }

    // As by default, without a stream around the connection's own.
    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query);
        Box::pin(async move {
            let mut lease = self.take_for(&statement).await?;
            let done = lease.start()?.connection()?.execute(statement).await;
            lease.done(done)
        })
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query);
        Box::pin(async move {
            let mut lease = self.take_for(&statement).await?;
            let row = lease.start()?.connection()?.fetch_optional(statement).await;
            lease.done(row)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut lease = self.lease.take().await?;
            if statement::controls_transaction(sql.as_str()) {
                return Err(lease.refuse(transaction_control()));
            }
            let prepared = lease
                .start()?
                .connection()?
                .prepare_with(sql, parameters)
                .await;
            lease.done(prepared)
        })
    }

    // Required when sqlx's `offline` feature is on, which its `macros` feature does for everyone
    // in the build. So this crate always turns it on, and this method always exists.
    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut lease = self.lease.take().await?;
            let described = lease.start()?.connection()?.describe(sql).await;
            lease.done(described)
        })
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx")
            .field("attempt", &self.attempt())
            .field("leased", &self.lease.is_granted())
            .finish_non_exhaustive()
    }
}

fn transaction_control() -> Error {
    Error::because(
        ErrorKind::Misconfigured,
        "a statement that controls the transaction or its session: the layer begins and ends it, Tx::savepoint() nests in it",
    )
}
