//! Parameters that CockroachDB or PostgreSQL would reject.

use tower_interlock::{Condition, ConditionalWrite};

static LEFT_OUT: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE id = $1 AND {conditions}",
    &[Condition::permitted("$3 = 1")],
);

static ZERO: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted("$0 = 1")],
);

static TOO_MANY: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted("$128 = 1")],
);

fn main() {}
