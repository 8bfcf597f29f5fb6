//! The guards of permission tables, from the catalog of PostgreSQL.

use sqlx::{PgConnection, Row as _};

/// A permission table that is not guarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unguarded {
    pub(super) table: String,
    pub(super) reason: &'static str,
}

/// Looks for tables without the guard. CockroachDB needs none.
pub(super) async fn unguarded(
    connection: &mut PgConnection,
    tables: &[String],
) -> Result<Vec<Unguarded>, sqlx::Error> {
    let version: String = sqlx::query_scalar("SELECT version()")
        .fetch_one(&mut *connection)
        .await?;
    if version.contains("CockroachDB") {
        return Ok(Vec::new());
    }
    let rows = sqlx::query(GUARDS)
        .bind(tables)
        .fetch_all(connection)
        .await?;
    let mut unguarded = Vec::new();
    for row in rows {
        let table: String = row.try_get("name")?;
        let events: Option<i32> = row.try_get("events")?;
        let always: Option<bool> = row.try_get("always")?;
        let exists: bool = row.try_get("found")?;
        let reason = match (exists, events, always) {
            (false, ..) => "is not found, so its guard is unknown",
            (_, None, _) => "has no guard",
            (_, Some(events), _) if events & EVENTS != EVENTS => {
                "has a guard for some changes only, not for all of INSERT, UPDATE, DELETE and TRUNCATE"
            }
            (.., Some(true)) => continue,
            _ => "has a guard without ENABLE ALWAYS",
        };
        unguarded.push(Unguarded { table, reason });
    }
    Ok(unguarded)
}

/// INSERT, DELETE, UPDATE and TRUNCATE, as `pg_trigger.tgtype` has them.
const EVENTS: i32 = 4 | 8 | 16 | 32;

/// The tables, the tables behind views, and partitions, each with its guards that are enabled.
const GUARDS: &str = "
WITH RECURSIVE named AS (
    SELECT name, to_regclass(name)::oid AS oid FROM unnest($1::text[]) AS name
), behind(oid) AS (
    SELECT oid FROM named WHERE oid IS NOT NULL
    UNION
    SELECT next.oid FROM behind, LATERAL (
        SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = behind.oid
        UNION ALL
        SELECT refobjid FROM pg_rewrite
        JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE ev_class = behind.oid AND refclassid = 'pg_class'::regclass
    ) AS next
)
SELECT pg_class.oid::regclass::text AS name, true AS found, guard.events, guard.always
FROM behind
JOIN pg_class ON pg_class.oid = behind.oid AND relkind IN ('r', 'p')
LEFT JOIN LATERAL (
    SELECT bit_or(tgtype::int) AS events, bool_and(tgenabled = 'A') AS always
    FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
    WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgenabled <> 'D'
    AND proname = 'interlock_guard'
) AS guard ON true
UNION ALL
SELECT name, false, NULL, NULL FROM named WHERE oid IS NULL
ORDER BY name
";
