//! The tables. A real service would use migrations.

use sqlx::{AssertSqlSafe, PgPool};
use tower_interlock::schema::{RECEIPTS, SERIALIZABLE_GUARD};

/// The SQL schema of the example; connections have it as their `search_path`.
pub(crate) const NAME: &str = "documents_example";

const TABLES: &[&str] = &[
    "CREATE SCHEMA IF NOT EXISTS documents_example",
    "CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY)",
    "CREATE TABLE IF NOT EXISTS tokens (
        hash BYTEA PRIMARY KEY,
        user_name TEXT NOT NULL REFERENCES users ON DELETE CASCADE
    )",
    "CREATE TABLE IF NOT EXISTS documents (
        id UUID PRIMARY KEY,
        owner TEXT NOT NULL REFERENCES users,
        body TEXT NOT NULL,
        version INT8 NOT NULL DEFAULT 1
    )",
    "CREATE TABLE IF NOT EXISTS grants (
        document_id UUID REFERENCES documents ON DELETE CASCADE,
        user_name TEXT REFERENCES users ON DELETE CASCADE,
        PRIMARY KEY (document_id, user_name)
    )",
    "INSERT INTO users VALUES ('alice'), ('bob') ON CONFLICT DO NOTHING",
    RECEIPTS,
];

/// The tables that a policy or a condition reads.
const GUARDED: &[&str] = &["tokens", "documents", "grants"];

pub(crate) async fn apply(pool: &PgPool) -> Result<(), sqlx::Error> {
    for statement in TABLES {
        sqlx::raw_sql(*statement).execute(pool).await?;
    }
    // Only PostgreSQL needs the guard.
    let version = sqlx::query_scalar("SELECT version()");
    let version: String = version.fetch_one(pool).await?;
    if version.starts_with("PostgreSQL") {
        sqlx::raw_sql(SERIALIZABLE_GUARD).execute(pool).await?;
        for table in GUARDED {
            let attach = format!(
                "DROP TRIGGER IF EXISTS interlock_guard ON {table};
                 CREATE TRIGGER interlock_guard
                     BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}
                     FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
                 ALTER TABLE {table} ENABLE ALWAYS TRIGGER interlock_guard"
            );
            sqlx::raw_sql(AssertSqlSafe(attach)).execute(pool).await?;
        }
    }
    Ok(())
}
