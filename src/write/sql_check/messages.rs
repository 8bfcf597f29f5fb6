//! The compile errors of texts that are rejected.

pub(crate) const VERB: &str = "a conditional write begins with UPDATE, DELETE or INSERT: \
     the WHERE does not apply to what WITH, MERGE or UPSERT write";
pub(crate) const NO_SELECT: &str = "an INSERT has a WHERE only if it selects: \
     write `INSERT INTO t (a, b) SELECT $1, $2 WHERE {conditions}`";
pub(crate) const MISSING: &str = "`{conditions}` is missing: \
     put it into the WHERE of the statement, as in `WHERE id = $1 AND {conditions}`";
pub(crate) const TWICE: &str = "`{conditions}` appears twice: use it once";
pub(crate) const INSIDE: &str = "`{conditions}` is inside of parentheses: \
     move it out, into the WHERE of the statement itself";
pub(crate) const NOT_IN_WHERE: &str = "`{conditions}` is not in the WHERE of the statement itself: \
     move it there, before ON CONFLICT, RETURNING, ORDER BY and the like";
pub(crate) const NOT_AFTER_AND: &str = "`{conditions}` must follow WHERE or AND directly, \
     as in `WHERE id = $1 AND {conditions}`";
pub(crate) const FOLLOWED: &str = "what follows `{conditions}` could change its meaning: \
     use AND, or the next clause";
pub(crate) const LOOSE: &str = "OR, CASE or BETWEEN beside `{conditions}` could let a row pass without them: \
     put it into parentheses";
pub(crate) const SET_OPERATION: &str = "`{conditions}` does not apply to the rows of UNION, INTERSECT or EXCEPT: \
     put it into a subquery in FROM";
pub(crate) const GROUPING: &str = "GROUP BY, HAVING or WINDOW can return a row although there is none: \
     put it into a subquery in FROM";
pub(crate) const AGGREGATE: &str = "this function could be an aggregate, which returns a row although there is none: call it \
     in FROM, as in `INSERT INTO t (n) SELECT x.n FROM (SELECT f($1) AS n) AS x WHERE {conditions}`";
pub(crate) const SECOND_WRITE: &str = "a second write inside of the text: \
     make it a statement of its own (if it is a name, quote it)";
pub(crate) const EMPTY: &str = "a condition is empty";
pub(crate) const MARKER_IN_PART: &str = "`{conditions}` belongs in the statement only";
pub(crate) const LOCK: &str = "a lock is a query like `SELECT id FROM documents WHERE id = $1`; \
     FOR UPDATE is added to it";
