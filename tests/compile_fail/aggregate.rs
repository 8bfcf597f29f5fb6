//! Aggregates, which return a row for no input row.

use tower_interlock::{Condition, ConditionalWrite};

const ONE: &[Condition] = &[Condition::exists(
    "EXISTS (SELECT 1 FROM documents WHERE id = $1)",
)];

static COUNT: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT count(*) FROM notes WHERE {conditions}",
    ONE,
);

static OUTER: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT (SELECT count(notes.id)) FROM notes WHERE {conditions}",
    ONE,
);

static OF_A_USER: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT public.total(id) FROM notes WHERE {conditions}",
    ONE,
);

static QUOTED: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT \"count\"(*) FROM notes WHERE {conditions}",
    ONE,
);

static AS_COLUMN: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT notes.count FROM notes WHERE {conditions}",
    ONE,
);

static IN_ORDER: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT $1 FROM notes WHERE {conditions} ORDER BY max(id)",
    ONE,
);

fn main() {}
