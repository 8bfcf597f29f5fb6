//! The rules for the texts of a conditional write, checked at compile time.
//!
//! A text that is accepted never writes where a condition is false or NULL. Each rule rejects a
//! text that was seen to do so.

mod messages;
mod words;

use self::{
    messages::{
        AGGREGATE, EMPTY, FOLLOWED, GROUPING, INSIDE, LOCK, LOOSE, MARKER_IN_PART, MISSING,
        NO_SELECT, NOT_AFTER_AND, NOT_IN_WHERE, SECOND_WRITE, SET_OPERATION, TWICE, VERB,
    },
    words::{ALLOWED_AFTER, KEYWORDS, ROW_AGGREGATES, SCALARS, TAIL},
};
use crate::write::lexer::{Lexer, Token};

/// An accepted statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The parameters that it uses, as bits.
    pub(crate) parameters: u128,
    /// Whether it returns rows.
    pub(crate) returning: bool,
}

/// Checks the statement around `{conditions}`.
pub(crate) const fn statement(text: &str) -> Result<Facts, &'static str> {
    let mut lexer = Lexer::new(text);
    lexer.advance();
    if !lexer.token.is_one_of(&["UPDATE", "DELETE", "INSERT"]) {
        lexer.reject(VERB);
    }
    let verb = if lexer.token.is("INSERT") {
        Verb::Insert
    } else {
        Verb::Change
    };
    let mut clause = Clause::Head;
    let mut placed = false;
    let mut returning = false;
    lexer.advance();
    while !lexer.is_at_end() {
        if lexer.depth == 0 {
            clause = clause.next(&lexer, verb);
        }
        if let Some(reason) = violation(&lexer, clause, verb) {
            lexer.reject(reason);
        }
        if let Token::Conditions = lexer.token {
            if placed {
                lexer.reject(TWICE);
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
    match lexer.rejection {
        Some(reason) => Err(reason),
        None if !placed => Err(MISSING),
        None => Ok(Facts {
            parameters: lexer.parameters,
            returning,
        }),
    }
}

/// Checks a condition, and returns the parameters that it uses.
pub(crate) const fn condition(text: &str) -> Result<u128, &'static str> {
    let mut lexer = Lexer::new(text);
    lexer.advance();
    if lexer.is_at_end() {
        lexer.reject(EMPTY);
    }
    fragment(lexer)
}

/// Checks a query that locks, and returns the parameters that it uses.
pub(crate) const fn lock(text: &str) -> Result<u128, &'static str> {
    let mut lexer = Lexer::new(text);
    lexer.advance();
    if !lexer.token.is("SELECT") {
        lexer.reject(LOCK);
    }
    fragment(lexer)
}

/// Checks a text that is put into parentheses and must not leave them.
const fn fragment(mut lexer: Lexer<'_>) -> Result<u128, &'static str> {
    while !lexer.is_at_end() {
        if let Token::Conditions = lexer.token {
            lexer.reject(MARKER_IN_PART);
        } else if writes(&lexer) {
            lexer.reject(SECOND_WRITE);
        }
        lexer.advance();
    }
    match lexer.rejection {
        Some(reason) => Err(reason),
        None => Ok(lexer.parameters),
    }
}

/// The rule that the token violates at its place in the statement.
const fn violation(lexer: &Lexer<'_>, clause: Clause, verb: Verb) -> Option<&'static str> {
    let (token, inserts) = (lexer.token, matches!(verb, Verb::Insert));
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
    if matches!(lexer.previous, Token::Conditions) && !token.is_one_of(ALLOWED_AFTER) {
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

/// Whether a second write begins here. CockroachDB accepts one in brackets in place of a table.
const fn writes(lexer: &Lexer<'_>) -> bool {
    const WRITES: &[&str] = &["INSERT", "UPDATE", "DELETE", "UPSERT", "MERGE", "TRUNCATE"];
    lexer.token.is_one_of(WRITES) && !lexer.previous.is_one_of(&["FOR", "KEY", "DO"])
}

/// Whether the token may call an aggregate, which returns a row although there is none.
///
/// Only the name of a function is known, and it may be an aggregate that the user defined. So every
/// function counts as one unless it is known not to be.
const fn may_aggregate(lexer: &Lexer<'_>) -> bool {
    match (lexer.previous, lexer.token) {
        (Token::Word(_), Token::Open(b'(')) => {
            !lexer.previous.is_one_of(KEYWORDS) && !lexer.previous.is_one_of(SCALARS)
        }
        (Token::Name(_), Token::Open(b'(')) => true,
        // PostgreSQL reads `row.count` as `count(row)`.
        (Token::Symbol(b'.'), Token::Name(name)) => Token::Word(name).is_one_of(ROW_AGGREGATES),
        _ => false,
    }
}

/// The verb of the statement.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Insert,
    /// UPDATE or DELETE.
    Change,
}

/// Which part of the statement is being read, at its own level.
#[derive(Debug, Clone, Copy)]
enum Clause {
    /// Up to WHERE; in an INSERT up to SELECT.
    Head,
    /// The list of an INSERT … SELECT.
    List,
    /// The FROM of an INSERT … SELECT.
    From,
    Where,
    /// ORDER BY and the clauses after it.
    Tail,
    Conflict,
    Returning,
}

impl Clause {
    /// The clause that the token belongs to.
    const fn next(self, lexer: &Lexer<'_>, verb: Verb) -> Self {
        let (token, inserts) = (lexer.token, matches!(verb, Verb::Insert));
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

    /// Whether an aggregate is possible here. The server rejects it elsewhere.
    const fn makes_rows(self) -> bool {
        matches!(self, Self::List | Self::Tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::lexer::INDEX_HINT;

    const WHERE: &str = "UPDATE t SET a = $2 WHERE id = $1 AND {conditions}";

    #[test]
    fn harmless_texts_are_accepted() {
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
    fn names_are_not_taken_for_keywords() {
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
    fn rows_are_returned_by_returning_only() {
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
