//! The tables that the requests are about.

use sqlx::{AssertSqlSafe, PgPool};
use support::Database;

use crate::scenario::{DOCUMENTS, OWNER};

/// Makes tables.
pub(crate) struct Tables {
    pool: PgPool,
}

impl Tables {
    pub(crate) async fn of(database: &Database) -> Self {
        Self {
            pool: database.pool(1).await,
        }
    }

    /// Makes tables anew in a schema of that name, and returns the option that leads there.
    ///
    /// The owner has a grant for every document, the stranger has none. There are as many rows in
    /// each scenario: on a small table the planner prefers to read all of it, which makes everyone
    /// conflict with everyone.
    pub(crate) async fn make(&self, name: &str) -> [(&'static str, String); 1] {
        let schema = format!("\"{name}\"");
        for statement in [
            format!("DROP SCHEMA IF EXISTS {schema} CASCADE"),
            format!("CREATE SCHEMA {schema}"),
            format!(
                "CREATE TABLE {schema}.grants
                 (user_id INT8 NOT NULL, document_id INT8 NOT NULL, PRIMARY KEY (user_id, document_id))"
            ),
            format!(
                "CREATE TABLE {schema}.documents
                 (id INT8 PRIMARY KEY, body TEXT NOT NULL, version INT8 NOT NULL DEFAULT 0)"
            ),
            format!(
                "INSERT INTO {schema}.documents (id, body)
                 SELECT id, repeat('x', 100) FROM generate_series(1, {DOCUMENTS}) AS series (id)"
            ),
            format!("INSERT INTO {schema}.grants SELECT {OWNER}, id FROM {schema}.documents"),
            format!("ANALYZE {schema}.documents"),
            format!("ANALYZE {schema}.grants"),
        ] {
            let statement = sqlx::raw_sql(AssertSqlSafe(statement));
            statement.execute(&self.pool).await.unwrap();
        }
        // Without quotes: CockroachDB would take those of a startup option for a part of the name.
        [("search_path", name.to_owned())]
    }
}
