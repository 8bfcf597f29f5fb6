//! `sqlx::Executor` for `TxExecutor`, and for what dereferences to it.

use futures_core::{future::BoxFuture, stream::BoxStream};
use futures_util::TryStreamExt as _;
use sqlx::{
    Describe, Either, Execute, Executor, Postgres, SqlStr,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use sqlx_core::try_stream;

use crate::{
    database::Doubt,
    error::{Error, ErrorKind},
    tx::{
        executor::TxExecutor,
        lease::{Lease, LeaseGuard, Progress},
        statement::{self, Statement},
    },
};

impl Lease {
    async fn checkout_for(&mut self, statement: &Statement) -> Result<LeaseGuard<'_>, sqlx::Error> {
        let mut lease = self.checkout().await?;
        if statement.controls_transaction() {
            return Err(lease.reject(transaction_control()));
        }
        if statement.may_be_several() {
            lease.set_sentinel().await?;
            if statement.may_end_transaction() {
                lease.mark_doubtful(Doubt::Text)?;
            }
        }
        if statement.alters_session() {
            lease.alter_session()?;
        }
        lease.observe_next(statement.text());
        lease.slot().keep_text(statement.text());
        Ok(lease)
    }
}

impl<'c> Executor<'c> for &'c mut TxExecutor {
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
            let mut lease = self.lease().checkout_for(&statement).await?;
            let (may_skip, mut rows_returned) = (statement.may_skip_rows(), false);
            let reply = {
                let (transaction, progress) = lease.parts()?;
                let mut rows = transaction.sql()?.fetch_many(statement);
                loop {
                    *progress = Progress::Waiting;
                    match rows.try_next().await {
                        Ok(Some(row)) => {
                            // The caller may drop the stream here.
                            *progress = Progress::Idle;
                            rows_returned |= row.is_right();
                            r#yield!(row);
                        }
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            };
            lease.note_skipped(may_skip && !rows_returned && reply.is_ok());
            lease.done(reply)
        })
    }

    // As the default, without a stream around that of the connection.
    fn execute<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<PgQueryResult, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let statement = Statement::new(query);
        Box::pin(async move {
            let mut lease = self.lease().checkout_for(&statement).await?;
            let done = lease.start()?.sql()?.execute(statement).await;
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
            let mut lease = self.lease().checkout_for(&statement).await?;
            let may_skip = statement.may_skip_rows();
            let row = lease.start()?.sql()?.fetch_optional(statement).await;
            lease.note_skipped(may_skip && matches!(row, Ok(None)));
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
            let mut lease = self.lease().checkout().await?;
            if statement::controls_transaction(sql.as_str()) {
                return Err(lease.reject(transaction_control()));
            }
            let prepared = lease.start()?.sql()?.prepare_with(sql, parameters).await;
            lease.done(prepared)
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut lease = self.lease().checkout().await?;
            let described = lease.start()?.sql()?.describe(sql).await;
            lease.done(described)
        })
    }
}

/// Implements `Executor` for `&mut` of a type by that of what it dereferences to.
///
/// A generic implementation in sqlx does not compile for want of lazy normalization; see
/// `sqlx-core/src/transaction.rs`.
macro_rules! delegate_executor {
    ($holder:ty) => {
        impl<'c> sqlx::Executor<'c> for &'c mut $holder {
            type Database = sqlx::Postgres;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> futures_core::stream::BoxStream<
                'e,
                Result<
                    sqlx::Either<sqlx::postgres::PgQueryResult, sqlx::postgres::PgRow>,
                    sqlx::Error,
                >,
            >
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, sqlx::Postgres>,
            {
                (**self).fetch_many(query)
            }

            fn execute<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> futures_core::future::BoxFuture<
                'e,
                Result<sqlx::postgres::PgQueryResult, sqlx::Error>,
            >
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, sqlx::Postgres>,
            {
                (**self).execute(query)
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> futures_core::future::BoxFuture<
                'e,
                Result<Option<sqlx::postgres::PgRow>, sqlx::Error>,
            >
            where
                'c: 'e,
                E: 'q + sqlx::Execute<'q, sqlx::Postgres>,
            {
                (**self).fetch_optional(query)
            }

            fn prepare_with<'e>(
                self,
                sql: sqlx::SqlStr,
                parameters: &'e [sqlx::postgres::PgTypeInfo],
            ) -> futures_core::future::BoxFuture<
                'e,
                Result<sqlx::postgres::PgStatement, sqlx::Error>,
            >
            where
                'c: 'e,
            {
                (**self).prepare_with(sql, parameters)
            }

            // sqlx requires it with its `offline` feature, which its `macros` feature turns on for
            // the whole build. This crate turns `macros` on, so that the method always exists.
            #[doc(hidden)]
            fn describe<'e>(
                self,
                sql: sqlx::SqlStr,
            ) -> futures_core::future::BoxFuture<
                'e,
                Result<sqlx::Describe<sqlx::Postgres>, sqlx::Error>,
            >
            where
                'c: 'e,
            {
                (**self).describe(sql)
            }
        }
    };
}

pub(crate) use delegate_executor;

fn transaction_control() -> Error {
    Error::because(
        ErrorKind::Misconfigured,
        "a statement that controls the transaction or its session: the layer begins and ends it, \
         Tx::savepoint() nests in it",
    )
}
