//! Savepoints: a part of the transaction that can fail alone.

use std::fmt;

use futures_core::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use crate::tx::Tx;

/// A savepoint of the request's transaction, from [`Tx::savepoint`].
///
/// `&mut Savepoint` is a [`sqlx::Executor`]. Rolled back, it heals the errors of the statements
/// that ran on it, so that the request can go on and succeed. A serialization failure is never
/// healed: it belongs to the whole transaction, and makes the request run again.
///
/// Dropped, also by a cancelled future, it is rolled back before the next statement or COMMIT.
///
/// ```
/// # use tower_interlock::{Error, Tx};
/// async fn insert_or_update(tx: &mut Tx) -> Result<(), Error> {
///     let mut attempt = tx.savepoint().await?;
///     match sqlx::query("INSERT INTO names (name) VALUES ('a')").execute(&mut attempt).await {
///         Ok(_) => attempt.release().await?,
///         Err(_) => {
///             attempt.rollback().await?;
///             sqlx::query("UPDATE names SET seen = seen + 1 WHERE name = 'a'").execute(tx).await?;
///         }
///     }
///     Ok(())
/// }
/// ```
#[must_use = "a savepoint that is dropped is rolled back"]
pub struct Savepoint<'t> {
    tx: &'t mut Tx,
    depth: u32,
    open: bool,
}

impl<'t> Savepoint<'t> {
    pub(crate) async fn open(tx: &'t mut Tx) -> Result<Self, sqlx::Error> {
        let mut lease = tx.lease().take().await?;
        let opened = lease.start()?.savepoint().await;
        let depth = lease.done(opened)?;
        drop(lease);
        Ok(Self {
            tx,
            depth,
            open: true,
        })
    }

    /// Opens a savepoint inside this one.
    ///
    /// # Errors
    ///
    /// As any statement.
    pub async fn savepoint(&mut self) -> Result<Savepoint<'_>, sqlx::Error> {
        Savepoint::open(self.tx).await
    }

    pub(crate) fn tx(&mut self) -> &mut Tx {
        self.tx
    }

    /// Keeps what was done on it, as far as the transaction is kept.
    ///
    /// # Errors
    ///
    /// As any statement. It fails, and is rolled back, if a statement on it failed.
    pub async fn release(mut self) -> Result<(), sqlx::Error> {
        self.tx.lease().take().await?.release(self.depth).await?;
        self.open = false;
        Ok(())
    }

    /// Undoes what was done on it, and heals the errors.
    ///
    /// # Errors
    ///
    /// As any statement. After a serialization failure it may succeed, and the request is run again all the same.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        self.tx.lease().roll_back(self.depth).await?;
        self.open = false;
        Ok(())
    }

    /// As [`Tx::after_commit`]; forgotten when the savepoint is rolled back.
    pub fn after_commit(&mut self, hook: impl Future<Output = ()> + Send + 'static) {
        self.tx
            .lease()
            .slot()
            .after_commit(self.depth, Box::pin(hook));
    }
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if self.open {
            self.tx.lease().drop_savepoint(self.depth);
        }
    }
}

impl<'c> Executor<'c> for &'c mut Savepoint<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.tx.fetch_many(query)
    }

    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.tx.execute(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.tx.fetch_optional(query)
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.tx.prepare_with(sql, parameters)
    }

    #[doc(hidden)]
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.tx.describe(sql)
    }
}

impl fmt::Debug for Savepoint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Savepoint")
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
