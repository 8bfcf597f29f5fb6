//! The tables that the requests read and write.

use sqlx::{AssertSqlSafe, PgPool};
use support::Database;
use tower_interlock::schema::RECEIPTS;

use crate::scenario::{DOCUMENTS, GRANTEE};

/// Creates tables.
pub(crate) struct Tables {
    pool: PgPool,
}

impl Tables {
    pub(crate) async fn of(database: &Database) -> Self {
        Self {
            pool: database.pool(1).await,
        }
    }

    /// Creates the tables in a new schema, and returns the connection option that selects it.
    ///
    /// Every scenario has the same number of rows: the planner scans a small table, and then all
    /// transactions conflict with each other.
    pub(crate) async fn create(&self, name: &str) -> [(&'static str, String); 1] {
        let schema = format!("\"{name}\"");
        for statement in [
            format!("DROP SCHEMA IF EXISTS {schema} CASCADE"),
            format!("CREATE SCHEMA {schema}"),
            format!(
                "CREATE TABLE {schema}.grants
                 (user_id INT8 NOT NULL, document_id INT8 NOT NULL,
                  PRIMARY KEY (user_id, document_id))"
            ),
            format!(
                "CREATE TABLE {schema}.documents
                 (id INT8 PRIMARY KEY, body TEXT NOT NULL, version INT8 NOT NULL DEFAULT 0)"
            ),
            format!(
                "INSERT INTO {schema}.documents (id, body)
                 SELECT id, repeat('x', 100) FROM generate_series(1, {DOCUMENTS}) AS series (id)"
            ),
            format!("INSERT INTO {schema}.grants SELECT {GRANTEE}, id FROM {schema}.documents"),
            // The table of receipts is in the schema, too.
            format!("SET search_path = {schema}; {RECEIPTS}; RESET search_path"),
            format!("ANALYZE {schema}.documents"),
            format!("ANALYZE {schema}.grants"),
        ] {
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            statement.execute(&self.pool).await.unwrap();
        }
        // Unquoted: in a startup option, CockroachDB takes quotes for a part of the name.
        [("search_path", name.to_owned())]
    }
}
