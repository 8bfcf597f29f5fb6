//! Texts that are not a lock.

use tower_interlock::{Condition, ConditionalWrite};

const WRITE: &str = "DELETE FROM documents WHERE id = $1 AND {conditions}";
const ONE: &[Condition] = &[Condition::permitted("$1 > 0")];

static NOT_A_QUERY: ConditionalWrite = ConditionalWrite::new(WRITE, ONE).lock("id = $1");

static BREAKS_OUT: ConditionalWrite =
    ConditionalWrite::new(WRITE, ONE).lock("SELECT 1) DELETE FROM documents --");

static PARAMETER: ConditionalWrite =
    ConditionalWrite::new(WRITE, ONE).lock("SELECT id FROM documents WHERE id = $2");

fn main() {}
