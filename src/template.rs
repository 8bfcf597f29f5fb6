//! The rules for the texts of a conditional write, checked at compile time.
//!
//! A text that passes never writes where a condition is false or NULL. Each rule is here because
//! a text was seen that did.

use crate::lexer::{Lexer, Token};

/// What a statement was seen to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The parameters that it mentions, as bits.
    pub(crate) parameters: u128,
    /// Whether it returns rows.
    pub(crate) returning: bool,
}

/// Checks the statement around `{conditions}`.
pub(crate) const fn statement(text: &str) -> Result<Facts, &'static str> {
    let mut lexer = Lexer::new(text);
    lexer.advance();
    let inserts = lexer.token.is("INSERT");
    if !lexer.token.is_one_of(&["UPDATE", "DELETE", "INSERT"]) {
        lexer.refuse(VERB);
    }
    let mut clause = Clause::Head;
    let mut placed = false;
    let mut returning = false;
    lexer.advance();
    while !lexer.is_at_end() {
        if lexer.depth == 0 {
            clause = clause.next(&lexer, inserts);
        }
        if let Some(reason) = fault(&lexer, clause, inserts) {
            lexer.refuse(reason);
        }
        if let Token::Conditions = lexer.token {
            if placed {
                lexer.refuse(TWICE);
            }
            placed = true;
        }
        if lexer.depth == 0 && lexer.token.is("RETURNING") {
            returning = true;
        } else if lexer.previous.is("RETURNING") && lexer.token.is("NOTHING") {
            returning = false;
        }
        lexer.advance();
    }
    match lexer.wrong {
        Some(reason) => Err(reason),
        None if !placed => Err(MISSING),
        None => Ok(Facts {
            parameters: lexer.parameters,
            returning,
        }),
    }
}

/// Checks a condition, and returns the parameters that it mentions.
pub(crate) const fn condition(text: &str) -> Result<u128, &'static str> {
    let mut lexer = Lexer::new(text);
    lexer.advance();
    if lexer.is_at_end() {
        lexer.refuse(EMPTY);
    }
    part(lexer)
}

/// Checks a query that locks, and returns the parameters that it mentions.
pub(crate) const fn lock(text: &str) -> Result<u128, &'static str> {
    let mut lexer = Lexer::new(text);
    lexer.advance();
    if !lexer.token.is("SELECT") {
        lexer.refuse(LOCK);
    }
    part(lexer)
}

/// What is put into parentheses, and must not get out of them.
const fn part(mut lexer: Lexer<'_>) -> Result<u128, &'static str> {
    while !lexer.is_at_end() {
        if let Token::Conditions = lexer.token {
            lexer.refuse(MARKER_IN_PART);
        } else if writes(&lexer) {
            lexer.refuse(SECOND_WRITE);
        }
        lexer.advance();
    }
    match lexer.wrong {
        Some(reason) => Err(reason),
        None => Ok(lexer.parameters),
    }
}

/// What is wrong with the token where it stands in the statement.
const fn fault(lexer: &Lexer<'_>, clause: Clause, inserts: bool) -> Option<&'static str> {
    let token = lexer.token;
    if writes(lexer) {
        return Some(SECOND_WRITE);
    }
    if inserts && clause.makes_rows() && may_aggregate(lexer) {
        return Some(AGGREGATE);
    }
    if lexer.depth == 0 {
        if inserts && clause.is_head() && token.is("VALUES") {
            return Some(NO_SELECT);
        }
        if token.is_one_of(&["UNION", "INTERSECT", "EXCEPT"]) {
            return Some(SET_OPERATION);
        }
        if token.is_one_of(&["GROUP", "HAVING", "WINDOW"]) {
            return Some(GROUPING);
        }
        if clause.is_where() && token.is_one_of(&["OR", "CASE", "BETWEEN"]) {
            return Some(LOOSE);
        }
    }
    if matches!(lexer.previous, Token::Conditions) && !token.is_one_of(BEHIND) {
        return Some(FOLLOWED);
    }
    match token {
        Token::Conditions if lexer.depth > 0 => Some(INSIDE),
        Token::Conditions if inserts && clause.is_head() => Some(NO_SELECT),
        Token::Conditions if !clause.is_where() => Some(NOT_IN_WHERE),
        Token::Conditions if !lexer.previous.is_one_of(&["WHERE", "AND"]) => Some(NOT_AFTER_AND),
        _ => None,
    }
}

/// Whether a second write begins here: CockroachDB takes one, in brackets, where a table can stand.
const fn writes(lexer: &Lexer<'_>) -> bool {
    const WRITES: &[&str] = &["INSERT", "UPDATE", "DELETE", "UPSERT", "MERGE", "TRUNCATE"];
    lexer.token.is_one_of(WRITES) && !lexer.previous.is_one_of(&["FOR", "KEY", "DO"])
}

/// Whether the token may be the call of an aggregate, which makes a row out of none.
///
/// Of a call only the name is known, and it may be an aggregate of the user's own. So what is not
/// known to be none counts as one.
const fn may_aggregate(lexer: &Lexer<'_>) -> bool {
    match (lexer.previous, lexer.token) {
        (Token::Word(_), Token::Open(b'(')) => {
            !lexer.previous.is_one_of(KEYWORDS) && !lexer.previous.is_one_of(SCALARS)
        }
        (Token::Name(_), Token::Open(b'(')) => true,
        // PostgreSQL takes `row.count` for `count(row)`.
        (Token::Symbol(b'.'), Token::Name(name)) => Token::Word(name).is_one_of(ROW_AGGREGATES),
        _ => false,
    }
}

/// Which part of the statement is being read, at its own level.
#[derive(Debug, Clone, Copy)]
enum Clause {
    /// Up to WHERE; in an INSERT up to SELECT.
    Head,
    /// What an INSERT selects.
    List,
    /// Where an INSERT selects it from.
    From,
    Where,
    /// ORDER BY and what comes after it.
    Tail,
    Conflict,
    Returning,
}

impl Clause {
    /// The clause that the token belongs to.
    const fn next(self, lexer: &Lexer<'_>, inserts: bool) -> Self {
        let token = lexer.token;
        match self {
            Self::Returning => self,
            _ if token.is("RETURNING") => Self::Returning,
            _ if token.is("CONFLICT") && lexer.previous.is("ON") => Self::Conflict,
            Self::Head if inserts && token.is("SELECT") => Self::List,
            Self::Head if !inserts && token.is("WHERE") => Self::Where,
            Self::List if token.is("FROM") && !lexer.previous.is("DISTINCT") => Self::From,
            Self::List | Self::From if token.is("WHERE") => Self::Where,
            Self::Where if token.is("ON") => Self::Conflict,
            Self::Where if token.is_one_of(TAIL) => Self::Tail,
            _ => self,
        }
    }

    const fn is_head(self) -> bool {
        matches!(self, Self::Head)
    }

    const fn is_where(self) -> bool {
        matches!(self, Self::Where)
    }

    /// Whether an aggregate is possible here. The server refuses it elsewhere.
    const fn makes_rows(self) -> bool {
        matches!(self, Self::List | Self::Tail)
    }
}

const TAIL: &[&str] = &["ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"];

/// What may follow `{conditions}`, besides the end. Anything else could turn what they say.
const BEHIND: &[&str] = &[
    "AND",
    "RETURNING",
    "ON",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "FOR",
];

/// What can stand before a parenthesis without being a function.
const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "ANY",
    "ARRAY",
    "AS",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "CHAR",
    "DECIMAL",
    "DISTINCT",
    "ELSE",
    "EXCEPT",
    "EXISTS",
    "EXTRACT",
    "FROM",
    "ILIKE",
    "IN",
    "INTERSECT",
    "IS",
    "JOIN",
    "LATERAL",
    "LIKE",
    "LIMIT",
    "NOT",
    "NUMERIC",
    "OFFSET",
    "ON",
    "OR",
    "OVERLAY",
    "POSITION",
    "ROW",
    "SELECT",
    "SOME",
    "SUBSTRING",
    "THEN",
    "TIMESTAMP",
    "TRIM",
    "UNION",
    "USING",
    "VALUES",
    "VARCHAR",
    "WHEN",
    "WHERE",
];

/// Functions that are no aggregates.
const SCALARS: &[&str] = &[
    "ABS",
    "CEIL",
    "CHAR_LENGTH",
    "CLOCK_TIMESTAMP",
    "COALESCE",
    "CONCAT",
    "CURRENT_SETTING",
    "DATE_TRUNC",
    "DECODE",
    "ENCODE",
    "FLOOR",
    "FORMAT",
    "GEN_RANDOM_UUID",
    "GENERATE_SERIES",
    "GREATEST",
    "JSON_BUILD_ARRAY",
    "JSON_BUILD_OBJECT",
    "JSONB_BUILD_ARRAY",
    "JSONB_BUILD_OBJECT",
    "LEAST",
    "LEFT",
    "LENGTH",
    "LOWER",
    "MD5",
    "NEXTVAL",
    "NOW",
    "NULLIF",
    "RANDOM",
    "REPLACE",
    "RIGHT",
    "ROUND",
    "SHA256",
    "STATEMENT_TIMESTAMP",
    "SUBSTR",
    "TO_CHAR",
    "TO_JSONB",
    "TO_TIMESTAMP",
    "TRANSACTION_TIMESTAMP",
    "UNIQUE_ROWID",
    "UNNEST",
    "UPPER",
    "UUIDV7",
];

/// Aggregates that can be called on a whole row.
const ROW_AGGREGATES: &[&str] = &[
    "ANY_VALUE",
    "ARRAY_AGG",
    "COUNT",
    "JSON_AGG",
    "JSON_AGG_STRICT",
    "JSONB_AGG",
    "JSONB_AGG_STRICT",
    "MAX",
    "MIN",
];

const VERB: &str = "a conditional write begins with UPDATE, DELETE or INSERT: \
     what WITH, MERGE or UPSERT write is not held back by the WHERE";
const NO_SELECT: &str = "an INSERT has a WHERE only if it selects: \
     write `INSERT INTO t (a, b) SELECT $1, $2 WHERE {conditions}`";
const MISSING: &str = "`{conditions}` is missing: \
     put it into the WHERE of the statement, as in `WHERE id = $1 AND {conditions}`";
const TWICE: &str = "`{conditions}` stands there twice: once is enough";
const INSIDE: &str = "`{conditions}` stands inside parentheses: \
     move it out, into the WHERE of the statement itself";
const NOT_IN_WHERE: &str = "`{conditions}` does not stand in the WHERE of the statement itself: \
     move it there, before ON CONFLICT, RETURNING, ORDER BY and the like";
const NOT_AFTER_AND: &str = "`{conditions}` must follow WHERE or AND directly, \
     as in `WHERE id = $1 AND {conditions}`";
const FOLLOWED: &str = "`{conditions}` is followed by what could turn its meaning: \
     put AND behind it, or the next clause";
const LOOSE: &str = "OR, CASE or BETWEEN beside `{conditions}` could let a row pass without them: \
     put it into parentheses";
const SET_OPERATION: &str = "UNION, INTERSECT or EXCEPT brings rows that `{conditions}` \
     does not hold back: put it into a subquery in FROM";
const GROUPING: &str = "GROUP BY, HAVING or WINDOW can make a row out of none: \
     put it into a subquery in FROM";
const AGGREGATE: &str = "this function could be an aggregate, which makes a row out of none: call it \
     in FROM, as in `INSERT INTO t (n) SELECT x.n FROM (SELECT f($1) AS n) AS x WHERE {conditions}`";
const SECOND_WRITE: &str = "a second write inside the text: \
     make it a statement of its own (if it is a name, quote it)";
const EMPTY: &str = "a condition is empty";
const MARKER_IN_PART: &str = "`{conditions}` belongs into the statement only";
const LOCK: &str = "a lock is a query like `SELECT id FROM documents WHERE id = $1`; \
     FOR UPDATE is added to it";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::INDEX_HINT;

    const WHERE: &str = "UPDATE t SET a = $2 WHERE id = $1 AND {conditions}";

    #[test]
    fn what_is_harmless_passes() {
        for text in [
            WHERE,
            "update t set a = 'it''s {}; -- $$' where{conditions}",
            "UPDATE t SET a = b OR c FROM x JOIN y ON x.id = y.id OR true WHERE (a OR b) AND {conditions} AND NOT c",
            "UPDATE t SET a = (SELECT max(n) FROM x GROUP BY m) WHERE {conditions} RETURNING a OR b, count(*)",
            "DELETE FROM \"or\" AS x USING y WHERE x.or = y.case AND {conditions}",
            "INSERT INTO t (a, b) SELECT $1, coalesce(lower($2), 'x')::varchar(10) WHERE {conditions}",
            "INSERT INTO t SELECT x.n AS group FROM (SELECT count(*) AS n FROM y GROUP BY m) AS x WHERE {conditions} LIMIT 1",
            "INSERT INTO t SELECT 1 WHERE {conditions} ON CONFLICT (id) DO UPDATE SET a = 1 WHERE t.a OR t.b",
            "UPDATE t SET a = x[1] FROM (SELECT id FROM x FOR UPDATE) AS y WHERE {conditions}",
        ] {
            assert!(statement(text).is_ok(), "{:?}: {text}", statement(text));
        }
    }

    #[test]
    fn only_a_keyword_is_a_keyword() {
        for (text, reason) in [
            ("UPDATE t SET a = x.where AND {conditions}", NOT_IN_WHERE),
            ("UPDATE t@where SET a = b AND {conditions}", INDEX_HINT),
            (
                "UPDATE t SET a = 1 WHERE b <@ CASE WHEN true AND {conditions} AND true THEN b ELSE b END",
                LOOSE,
            ),
            ("UPDATE t SET a = 1 WHERE x.as OR b AND {conditions}", LOOSE),
            (
                "INSERT INTO t SELECT a IS DISTINCT FROM b, sum(c) FROM x WHERE {conditions}",
                AGGREGATE,
            ),
            (
                "INSERT INTO t SELECT 1 AS from, sum(c) FROM x WHERE {conditions}",
                AGGREGATE,
            ),
            (
                "INSERT INTO t SELECT x.\"count\" FROM x WHERE {conditions}",
                AGGREGATE,
            ),
        ] {
            assert_eq!(statement(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn rows_are_returned_by_returning() {
        let returning = |clause| statement(&format!("{WHERE} {clause}")).unwrap().returning;
        assert!(returning("RETURNING (a)") && returning("RETURNING *"));
        assert!(!returning("RETURNING NOTHING") && !returning("AND a IN (SELECT returning.b)"));
    }

    #[test]
    fn parameters_are_found_outside_of_literals() {
        assert_eq!(statement(WHERE).unwrap().parameters, 0b110);
        assert_eq!(condition("'$1' = $3::text"), Ok(0b1000));
        assert_eq!(lock("SELECT id FROM t WHERE id = $1"), Ok(0b10));
    }
}
