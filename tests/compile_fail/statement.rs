//! Texts that are not a single write with a WHERE clause of its own.

use tower_interlock::{Condition, ConditionalWrite};

const ONE: &[Condition] = &[Condition::exists(
    "EXISTS (SELECT 1 FROM documents WHERE id = $1)",
)];

static WITH: ConditionalWrite = ConditionalWrite::new(
    "WITH gone AS (DELETE FROM documents RETURNING id) DELETE FROM notes WHERE {conditions}",
    ONE,
);

static UPSERT: ConditionalWrite = ConditionalWrite::new(
    "UPSERT INTO documents (id) SELECT $1 WHERE {conditions}",
    ONE,
);

static MERGE: ConditionalWrite = ConditionalWrite::new(
    "MERGE INTO documents USING notes ON {conditions} WHEN MATCHED THEN DELETE",
    ONE,
);

static VALUES: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET body = '' WHERE {conditions}",
    ONE,
);

static SECOND: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE id IN (SELECT id FROM [DELETE FROM notes RETURNING id]) AND {conditions}",
    ONE,
);

static SEVERAL: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE {conditions}; DELETE FROM notes",
    ONE,
);

fn main() {}
