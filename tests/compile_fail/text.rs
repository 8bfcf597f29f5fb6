//! Texts that a reader or another server parses differently.

use tower_interlock::{Condition, ConditionalWrite};

const ONE: &[Condition] = &[Condition::exists(
    "EXISTS (SELECT 1 FROM documents WHERE id = $1)",
)];

static LINE_COMMENT: ConditionalWrite =
    ConditionalWrite::new("UPDATE documents SET body = '' -- WHERE {conditions}", ONE);

static BLOCK_COMMENT: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' /* WHERE {conditions} */",
    ONE,
);

static DOLLAR: ConditionalWrite =
    ConditionalWrite::new("UPDATE documents SET body = $$ WHERE {conditions} $$", ONE);

static BACKSLASH: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = 'a\\' WHERE {conditions} AND body = '",
    ONE,
);

static OPEN_QUOTE: ConditionalWrite =
    ConditionalWrite::new("UPDATE documents SET body = ' WHERE {conditions}", ONE);

static OPEN_PARENTHESIS: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE {conditions} AND (true",
    ONE,
);

static CLOSED_PARENTHESIS: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE true) AND {conditions}",
    ONE,
);

static GLUED: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = '' WHERE id = 1OR true AND {conditions}",
    ONE,
);

static BRACE: ConditionalWrite =
    ConditionalWrite::new("UPDATE documents SET body = '' WHERE {condition}", ONE);

static LETTER: ConditionalWrite =
    ConditionalWrite::new("UPDATE documents SET größe = 1 WHERE {conditions}", ONE);

fn main() {}
