//! `{conditions}` in a place where it does not apply to every row.

use tower_interlock::{Condition, ConditionalWrite};

const ONE: &[Condition] = &[Condition::exists(
    "EXISTS (SELECT 1 FROM documents WHERE id = $1)",
)];

static MISSING: ConditionalWrite =
    ConditionalWrite::new("UPDATE documents SET body = '' WHERE id = $1", ONE);

static TWICE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE {conditions} AND {conditions}",
    ONE,
);

static NESTED: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE (id = $1 AND {conditions})",
    ONE,
);

static SET: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET public = true AND {conditions} WHERE id = $1",
    ONE,
);

static JOIN: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' FROM notes LEFT JOIN grants ON true AND {conditions} WHERE id = $1",
    ONE,
);

static RETURNING: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE id = $1 RETURNING true AND {conditions}",
    ONE,
);

static CONFLICT: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT $1 WHERE true ON CONFLICT (id) DO UPDATE SET body = '' WHERE {conditions}",
    ONE,
);

static LABEL: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id, public) SELECT $1 AS where, true AND {conditions}",
    ONE,
);

static COLUMN: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET public = notes.where AND {conditions}",
    ONE,
);

static NOT: ConditionalWrite =
    ConditionalWrite::new("UPDATE documents SET body = '' WHERE NOT {conditions}", ONE);

static IS: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE {conditions} IS NOT TRUE",
    ONE,
);

static LITERAL: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '{conditions}' WHERE id = $1",
    ONE,
);

fn main() {}
