//! Texts that are not a condition.

use http::StatusCode;
use tower_interlock::{Condition, ConditionalWrite};

static NONE: ConditionalWrite =
    ConditionalWrite::new("DELETE FROM documents WHERE {conditions}", &[]);

static EMPTY: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::exists(" ")],
);

static BREAKS_OUT: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted("true) OR (true")],
);

static COMMENT: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted("true) OR true --")],
);

static QUOTE: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted("owner = '")],
);

static OPEN: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted("(true")],
);

static WRITES: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM [DELETE FROM documents RETURNING id])",
    )],
);

static MARKER: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::permitted("{conditions}")],
);

static STATUS: ConditionalWrite = ConditionalWrite::new(
    "DELETE FROM documents WHERE {conditions}",
    &[Condition::other(StatusCode::OK, "true")],
);

fn main() {}
