//! The guards of permission tables, from the catalog of PostgreSQL.

use sqlx::{PgConnection, Row as _, postgres::PgRow};

/// A permission table that is not guarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unguarded {
    pub(super) table: String,
    /// The name by which policies read it: its own, or that of a view or a partitioned table.
    pub(super) read_as: String,
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
        if let Some(reason) = reason(&row)? {
            unguarded.push(Unguarded {
                table: row.try_get("name")?,
                read_as: row.try_get("read_as")?,
                reason,
            });
        }
    }
    Ok(unguarded)
}

/// Why the relation of a row is not guarded.
fn reason(row: &PgRow) -> Result<Option<&'static str>, sqlx::Error> {
    let kind: Option<&str> = row.try_get("kind")?;
    let events: Option<i32> = row.try_get("events")?;
    let always: Option<bool> = row.try_get("always")?;
    Ok(match (kind, events) {
        (None, _) => Some("is not found, so its guard is unknown"),
        (Some("catalog"), _) => {
            Some("is a system catalog, whose changes PostgreSQL does not track")
        }
        (Some("f"), _) => Some("is a foreign table, whose rows PostgreSQL does not track"),
        (Some("m"), _) => {
            Some("is a materialized view, which is refreshed later than a revocation, if at all")
        }
        (_, None) => Some("has no guard"),
        (_, Some(events)) if events & EVENTS != EVENTS => Some(
            "has a guard for some changes only, not for all of INSERT, UPDATE, DELETE and TRUNCATE",
        ),
        _ if always == Some(true) => None,
        _ => Some("has a guard without ENABLE ALWAYS"),
    })
}

/// INSERT, DELETE, UPDATE and TRUNCATE, as `pg_trigger.tgtype` has them.
const EVENTS: i32 = 4 | 8 | 16 | 32;

/// The relations that policies read, each with its guards that are enabled.
///
/// A trigger of a statement is that of the table which the statement names. So the partitions of a
/// table that is read need it, and so do the tables that it is a partition of. Of a view, the tables
/// behind it do. The catalog does not tell which system catalogs and functions a view uses.
const GUARDS: &str = "
WITH RECURSIVE named AS (
    SELECT name, to_regclass((
        SELECT string_agg(quote_ident(part), '.' ORDER BY at)
        FROM unnest(string_to_array(name, '.')) WITH ORDINALITY AS parts (part, at)
    ))::oid AS oid
    FROM unnest($1::text[]) AS name
), below(oid, read_as) AS (
    SELECT oid, name FROM named WHERE oid IS NOT NULL
    UNION
    SELECT next.oid, read_as FROM below, LATERAL (
        SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = below.oid
        UNION ALL
        SELECT refobjid FROM pg_class AS view
        JOIN pg_rewrite ON ev_class = view.oid
        JOIN pg_depend ON classid = 'pg_rewrite'::regclass AND objid = pg_rewrite.oid
        WHERE view.oid = below.oid AND view.relkind = 'v' AND refclassid = 'pg_class'::regclass
    ) AS next
), above(oid, read_as) AS (
    SELECT oid, read_as FROM below
    UNION
    SELECT inhparent, read_as FROM above JOIN pg_inherits ON inhrelid = above.oid
), relations AS (
    SELECT oid, min(read_as) AS read_as FROM above GROUP BY oid
)
SELECT relations.oid::regclass::text AS name, read_as, relkind::text AS kind,
    guard.events, guard.always
FROM relations
JOIN pg_class ON pg_class.oid = relations.oid AND relkind IN ('f', 'm', 'p', 'r')
LEFT JOIN LATERAL (
    SELECT bit_or(tgtype::int) AS events, bool_and(tgenabled = 'A') AS always
    FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
    WHERE tgrelid = pg_class.oid AND NOT tgisinternal AND tgenabled <> 'D'
    AND proname = 'interlock_guard'
) AS guard ON true
UNION ALL
SELECT name, name, NULL, NULL, NULL FROM named WHERE oid IS NULL
ORDER BY name
";
