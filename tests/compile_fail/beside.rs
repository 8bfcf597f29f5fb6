//! Clauses that let a row bypass `{conditions}`.

use tower_interlock::{Condition, ConditionalWrite};

const ONE: &[Condition] = &[Condition::exists(
    "EXISTS (SELECT 1 FROM documents WHERE id = $1)",
)];

static OR: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE id = $1 AND {conditions} AND false OR true",
    ONE,
);

static BETWEEN: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE false BETWEEN false AND {conditions}",
    ONE,
);

static CASE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE CASE WHEN true THEN true ELSE id = $1 AND {conditions} AND true END",
    ONE,
);

static UNION: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT $1 WHERE {conditions} UNION SELECT $1",
    ONE,
);

static HAVING: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT $1 WHERE {conditions} HAVING true",
    ONE,
);

static GROUPING: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT $1 FROM notes WHERE {conditions} GROUP BY ()",
    ONE,
);

static WINDOW: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO documents (id) SELECT $1 WHERE {conditions} WINDOW w AS (ORDER BY count(*))",
    ONE,
);

fn main() {}
