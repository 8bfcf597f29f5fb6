//! The two queues, that of this crate and one by hand, and the tables that the jobs read and write.

use sqlx::{AssertSqlSafe, PgPool};
use support::Database;
use tower_interlock::schema::JOBS;

/// The tables of one way, in a schema of their own.
pub(crate) struct Queue {
    pool: PgPool,
    schema: String,
}

impl Queue {
    pub(crate) async fn create(pool: &PgPool, schema: &str) -> Self {
        let queue = Self {
            pool: pool.clone(),
            schema: schema.to_owned(),
        };
        queue
            .run(format!("DROP SCHEMA IF EXISTS {schema} CASCADE"))
            .await;
        queue.run(format!("CREATE SCHEMA {schema}")).await;
        queue
            .run(format!(
                "SET search_path = {schema}; {JOBS}; RESET search_path"
            ))
            .await;
        for statement in TABLES.split(';').filter(|it| !it.trim().is_empty()) {
            queue.run(statement.replace("SCHEMA", schema)).await;
        }
        queue
    }

    /// The connection option that selects the tables.
    pub(crate) fn option(&self) -> [(&'static str, String); 1] {
        [("search_path", self.schema.clone())]
    }

    /// Fills both queues up to the backlog.
    pub(crate) async fn fill(&self) {
        for statement in FILL.split(';').filter(|it| !it.trim().is_empty()) {
            let statement = statement.replace("SCHEMA", &self.schema);
            self.run(statement.replace("BACKLOG", BACKLOG)).await;
        }
    }

    /// How many jobs are done.
    pub(crate) async fn done(&self) -> i64 {
        let count = format!("SELECT count(*) FROM {}.exports", self.schema);
        let count = sqlx::query_scalar(AssertSqlSafe(count));
        count.fetch_one(&self.pool).await.unwrap()
    }

    async fn run(&self, statement: String) {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement));
        statement.execute(&self.pool).await.unwrap();
    }
}

/// Whether the server has SKIP LOCKED.
pub(crate) async fn has_skip_locked(database: &Database) -> bool {
    database
        .run("CREATE TABLE skipped (id INT8 PRIMARY KEY)")
        .await;
    let pool = database.pool(1).await;
    let skipping = sqlx::query("SELECT id FROM skipped FOR UPDATE SKIP LOCKED");
    let skipping = skipping.execute(&pool).await;
    skipping.is_ok()
}

/// `exports` proves that no job is done twice: the id of the job is its key.
const TABLES: &str = "
    CREATE TABLE SCHEMA.documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE SCHEMA.grants
        (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    CREATE TABLE SCHEMA.exports (id UUID PRIMARY KEY, document_id INT8 NOT NULL, body TEXT NOT NULL);
    CREATE TABLE SCHEMA.queue
        (id UUID PRIMARY KEY, kind TEXT NOT NULL, principal TEXT NOT NULL, payload JSONB NOT NULL,
         run_at TIMESTAMPTZ NOT NULL DEFAULT now());
    CREATE INDEX queue_due ON SCHEMA.queue (kind, run_at);
    INSERT INTO SCHEMA.documents
        SELECT id, repeat('x', 100) FROM generate_series(1, 10000) AS series (id);
    INSERT INTO SCHEMA.grants SELECT 'ada', id FROM SCHEMA.documents;
    ANALYZE SCHEMA.documents;
    ANALYZE SCHEMA.grants";

const FILL: &str = "
    INSERT INTO SCHEMA.queue (id, kind, principal, payload)
        SELECT gen_random_uuid(), 'export', 'ada', to_json((random() * 9999)::INT8 + 1)::JSONB
        FROM generate_series(1, BACKLOG - (SELECT count(*)::INT8 FROM SCHEMA.queue));
    INSERT INTO SCHEMA.interlock_jobs (id, kind, principal, payload, run_at)
        SELECT gen_random_uuid(), 'export', 'ada', to_json((random() * 9999)::INT8 + 1)::JSONB, now()
        FROM generate_series(1, BACKLOG - (SELECT count(*)::INT8 FROM SCHEMA.interlock_jobs))";

const BACKLOG: &str = "5000";
