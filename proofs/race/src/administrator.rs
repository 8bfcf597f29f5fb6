//! The administrator, who grants and revokes.

use std::{fmt, time::Instant};

use sqlx::{Connection as _, Executor as _, PgConnection};
use support::Database;

/// The isolation level of revocations. Grants are always SERIALIZABLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// SERIALIZABLE.
    Serializable,
    /// READ COMMITTED, which the guard rejects, then SERIALIZABLE. Only for PostgreSQL.
    Guarded,
    /// READ COMMITTED.
    ReadCommitted,
}

/// A transaction that deleted a grant and stored how many writes it saw.
#[derive(Debug, Clone, Copy)]
pub struct Revocation {
    /// The number of writes to the document that the transaction saw.
    pub seen: i64,
    /// Whether the guard rejected it under READ COMMITTED first.
    pub rejected: bool,
    /// When BEGIN was sent.
    pub begin_sent: Instant,
    /// When the DELETE was acknowledged.
    pub deleted: Instant,
    /// When COMMIT was sent.
    pub commit_sent: Instant,
    /// When COMMIT was acknowledged.
    pub acknowledged: Instant,
}

/// An administrator with its own connection.
pub(crate) struct Administrator {
    connection: PgConnection,
    isolation: Isolation,
}

/// `seen` counts the writes inside the revoking transaction, `acknowledged` those after its COMMIT.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE revocations (document INT8 PRIMARY KEY, seen INT8 NOT NULL, acknowledged INT8);
";

const SERIALIZABLE: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";
const READ_COMMITTED: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl Administrator {
    pub(crate) async fn connect(
        database: &Database,
        isolation: Isolation,
    ) -> Result<Self, sqlx::Error> {
        let connection = PgConnection::connect_with(&database.options()).await?;
        Ok(Self {
            connection,
            isolation,
        })
    }

    pub(crate) async fn grant(&mut self, document: i64) -> Result<(), sqlx::Error> {
        loop {
            match self.try_grant(document).await {
                Err(error) if has_code(&error, SERIALIZATION_FAILURE) => self.roll_back().await?,
                granted => return granted,
            }
        }
    }

    /// Revokes, and counts the writes again after the revocation was acknowledged.
    pub(crate) async fn revoke(&mut self, document: i64) -> Result<Revocation, sqlx::Error> {
        let mut begin = match self.isolation {
            Isolation::Serializable => SERIALIZABLE,
            Isolation::Guarded | Isolation::ReadCommitted => READ_COMMITTED,
        };
        let mut rejected = false;
        let revocation = loop {
            match self.try_revoke(begin, document).await {
                Err(error) if has_code(&error, SERIALIZATION_FAILURE) => self.roll_back().await?,
                Err(error) if self.isolation == Isolation::Guarded && has_code(&error, GUARD) => {
                    rejected = true;
                    begin = SERIALIZABLE;
                    self.roll_back().await?;
                }
                revoked => break revoked?,
            }
        };
        while let Err(error) = self.try_count(document).await {
            if !has_code(&error, SERIALIZATION_FAILURE) {
                return Err(error);
            }
        }
        Ok(Revocation {
            rejected,
            ..revocation
        })
    }

    async fn try_grant(&mut self, document: i64) -> Result<(), sqlx::Error> {
        self.connection.execute(SERIALIZABLE).await?;
        sqlx::query("INSERT INTO grants (document) VALUES ($1)")
            .bind(document)
            .execute(&mut self.connection)
            .await?;
        self.connection.execute("COMMIT").await?;
        Ok(())
    }

    /// Rolls back, also after a failed COMMIT.
    ///
    /// After a failed COMMIT no transaction is open, and CockroachDB before v25.1 rejects ROLLBACK.
    /// sqlx's own transaction would leave that error to the next BEGIN.
    async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        match self.connection.execute("ROLLBACK").await {
            Ok(_) | Err(sqlx::Error::Database(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn try_revoke(
        &mut self,
        begin: &'static str,
        document: i64,
    ) -> Result<Revocation, sqlx::Error> {
        let begin_sent = Instant::now();
        self.connection.execute(begin).await?;
        sqlx::query("DELETE FROM grants WHERE document = $1")
            .bind(document)
            .execute(&mut self.connection)
            .await?;
        let deleted = Instant::now();
        let seen = sqlx::query_scalar(
            "INSERT INTO revocations (document, seen)
             SELECT $1, count(*) FROM writes WHERE document = $1 RETURNING seen",
        )
        .bind(document)
        .fetch_one(&mut self.connection)
        .await?;
        let commit_sent = Instant::now();
        self.connection.execute("COMMIT").await?;
        Ok(Revocation {
            seen,
            rejected: false,
            begin_sent,
            deleted,
            commit_sent,
            acknowledged: Instant::now(),
        })
    }

    async fn try_count(&mut self, document: i64) -> Result<(), sqlx::Error> {
        sqlx::query(
            "UPDATE revocations
             SET acknowledged = (SELECT count(*) FROM writes WHERE document = $1)
             WHERE document = $1",
        )
        .bind(document)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serializable => "SERIALIZABLE",
            Self::Guarded => "READ COMMITTED with the guard",
            Self::ReadCommitted => "READ COMMITTED",
        })
    }
}

const SERIALIZATION_FAILURE: &str = "40001";
/// The SQLSTATE that the guard raises.
const GUARD: &str = "25000";

fn has_code(error: &sqlx::Error, code: &str) -> bool {
    let found = error.as_database_error().and_then(|error| error.code());
    found.as_deref() == Some(code)
}
