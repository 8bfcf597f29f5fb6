//! The administrator, who grants and revokes.

use std::{fmt, time::Instant};

use sqlx::{Connection as _, Executor, PgConnection, Postgres};
use support::Database;
use tower_interlock::{Error, Interlock, Tx};

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

/// An administrator with its own connections: SERIALIZABLE transactions run in `transact`.
pub(crate) struct Administrator {
    interlock: Interlock,
    connection: PgConnection,
    isolation: Isolation,
}

/// `seen` counts the writes inside the revoking transaction, `acknowledged` those after its COMMIT.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE revocations (document INT8 PRIMARY KEY, seen INT8 NOT NULL, acknowledged INT8);
";

const READ_COMMITTED: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl Administrator {
    pub(crate) async fn connect(
        database: &Database,
        isolation: Isolation,
    ) -> Result<Self, sqlx::Error> {
        let connection = PgConnection::connect_with(&database.options()).await?;
        Ok(Self {
            interlock: Interlock::connect_with(database.options(), 1).build(),
            connection,
            isolation,
        })
    }

    pub(crate) async fn grant(&mut self, document: i64) -> Result<(), Error> {
        self.interlock
            .transact(async |mut tx: Tx| {
                sqlx::query("INSERT INTO grants (document) VALUES ($1)")
                    .bind(document)
                    .execute(&mut tx)
                    .await?;
                Ok::<_, Error>(())
            })
            .await
    }

    /// Revokes, and counts the writes again after the revocation was acknowledged.
    pub(crate) async fn revoke(&mut self, document: i64) -> Result<Revocation, Error> {
        let revocation = match self.isolation {
            Isolation::Serializable => self.revoke_serializable(document).await?,
            Isolation::ReadCommitted => self.revoke_read_committed(document).await?,
            Isolation::Guarded => match self.revoke_read_committed(document).await {
                Err(error) if error.sqlstate() == Some(GUARD) => Revocation {
                    rejected: true,
                    ..self.revoke_serializable(document).await?
                },
                revoked => revoked?,
            },
        };
        self.count(document).await?;
        Ok(revocation)
    }

    async fn revoke_serializable(&self, document: i64) -> Result<Revocation, Error> {
        let revoked = self.interlock.transact(async |mut tx: Tx| {
            let mut revocation = Revocation::begin();
            revocation.delete(&mut tx, document).await?;
            Ok::<_, Error>(revocation)
        });
        let mut revocation = revoked.await?;
        revocation.acknowledged = Instant::now();
        Ok(revocation)
    }

    /// Without SERIALIZABLE there is no `transact`. After a serialization failure it starts again.
    async fn revoke_read_committed(&mut self, document: i64) -> Result<Revocation, Error> {
        loop {
            match self.try_revoke_read_committed(document).await {
                Err(error) => {
                    self.roll_back().await?;
                    let error = Error::from(error);
                    if error.sqlstate() != Some(SERIALIZATION_FAILURE) {
                        return Err(error);
                    }
                }
                Ok(revocation) => return Ok(revocation),
            }
        }
    }

    async fn try_revoke_read_committed(
        &mut self,
        document: i64,
    ) -> Result<Revocation, sqlx::Error> {
        let mut revocation = Revocation::begin();
        self.connection.execute(READ_COMMITTED).await?;
        revocation.delete(&mut self.connection, document).await?;
        self.connection.execute("COMMIT").await?;
        revocation.acknowledged = Instant::now();
        Ok(revocation)
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

    async fn count(&self, document: i64) -> Result<(), Error> {
        self.interlock
            .transact(async |mut tx: Tx| {
                sqlx::query(
                    "UPDATE revocations
                     SET acknowledged = (SELECT count(*) FROM writes WHERE document = $1)
                     WHERE document = $1",
                )
                .bind(document)
                .execute(&mut tx)
                .await?;
                Ok::<_, Error>(())
            })
            .await
    }
}

impl Revocation {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            seen: 0,
            rejected: false,
            begin_sent: now,
            deleted: now,
            commit_sent: now,
            acknowledged: now,
        }
    }

    /// Deletes the grant, and stores how many writes the transaction sees. COMMIT comes next.
    async fn delete<C>(&mut self, on: &mut C, document: i64) -> Result<(), sqlx::Error>
    where
        for<'c> &'c mut C: Executor<'c, Database = Postgres>,
    {
        sqlx::query("DELETE FROM grants WHERE document = $1")
            .bind(document)
            .execute(&mut *on)
            .await?;
        self.deleted = Instant::now();
        self.seen = sqlx::query_scalar(
            "INSERT INTO revocations (document, seen)
             SELECT $1, count(*) FROM writes WHERE document = $1 RETURNING seen",
        )
        .bind(document)
        .fetch_one(on)
        .await?;
        self.commit_sent = Instant::now();
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
