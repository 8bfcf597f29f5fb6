//! The relations that a transaction has read, and that PostgreSQL does not track.

use sqlx::{Executor as _, PgConnection, Row as _, postgres::PgRow};

use crate::error::{Error, ErrorClass, describe};

/// A relation that a transaction has read without predicate locks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UntrackedRead {
    /// Its kind and its name.
    pub(crate) relation: String,
    pub(crate) severity: Severity,
}

/// Whether the read can be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// It can: the data may never change, or a version row was read as well.
    Warn,
    /// It cannot: permissions are read there, and nothing else that is tracked.
    Reject,
}

/// Looks at the locks of the transaction that is open on `connection`, in one round trip.
///
/// A look that fails, such as that of a role without the privileges for it, leaves the transaction
/// as it was.
pub(crate) async fn look(connection: &mut PgConnection) -> Result<Vec<UntrackedRead>, sqlx::Error> {
    match connection.fetch_all(LOOK).await {
        Ok(rows) => rows.iter().map(untracked_read).collect(),
        Err(error) if Error::classify(&error) == Some(ErrorClass::Other) => {
            connection.execute(UNDO_LOOK).await?;
            tracing::warn!(
                error = describe(&error),
                "cannot look at pg_locks for what a policy reads"
            );
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

fn untracked_read(row: &PgRow) -> Result<UntrackedRead, sqlx::Error> {
    let (name, kind): (&str, &str) = (row.try_get("name")?, row.try_get("kind")?);
    let is_alone = matches!(kind, "materialized view" | "foreign table")
        && !row.try_get::<bool, _>("beside_tracked")?;
    Ok(UntrackedRead {
        relation: format!("{kind} {name}"),
        severity: if is_alone {
            Severity::Reject
        } else {
            Severity::Warn
        },
    })
}

/// A relation stays locked until the end of the transaction that has read it, also inside of a
/// function. The virtual transaction tells its predicate locks from those of earlier transactions
/// of the session, which outlive them.
///
/// A table without a predicate lock proves nothing: the executor may have skipped its part of the
/// query. The look's own catalogs are left out.
const LOOK: &str = "
SAVEPOINT interlock_look;
WITH held AS MATERIALIZED (
    SELECT relation, mode, virtualtransaction FROM pg_catalog.pg_locks
    WHERE pid = pg_catalog.pg_backend_pid() AND relation IS NOT NULL
)
SELECT DISTINCT c.oid::pg_catalog.regclass::pg_catalog.text AS name,
    CASE WHEN c.relpersistence = 't' THEN 'temporary table'
        WHEN c.relkind = 'f' THEN 'foreign table'
        WHEN c.relkind = 'm' THEN 'materialized view'
        WHEN c.relkind = 'S' THEN 'sequence'
        ELSE 'system catalog' END AS kind,
    EXISTS (
        SELECT FROM held AS s
            LEFT JOIN pg_catalog.pg_index AS i ON i.indexrelid = s.relation
            JOIN pg_catalog.pg_class AS t ON t.oid = COALESCE(i.indrelid, s.relation)
        WHERE s.mode = 'SIReadLock' AND s.virtualtransaction = h.virtualtransaction
            AND t.relkind = 'r'
    ) AS beside_tracked
FROM held AS h JOIN pg_catalog.pg_class AS c ON c.oid = h.relation
WHERE h.mode <> 'SIReadLock' AND (
    c.relkind IN ('f', 'S')
    OR c.relkind = 'm' AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4 < 160000
    OR c.relkind = 'r' AND c.relpersistence = 't'
    OR c.relkind IN ('r', 'v') AND c.relname NOT IN ('pg_locks', 'pg_class', 'pg_index')
        AND c.relnamespace IN (
            pg_catalog.to_regnamespace('pg_catalog'), pg_catalog.to_regnamespace('information_schema')
        )
);
RELEASE SAVEPOINT interlock_look";

const UNDO_LOOK: &str = "ROLLBACK TO SAVEPOINT interlock_look; RELEASE SAVEPOINT interlock_look";
