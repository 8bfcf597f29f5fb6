//! The row that a conditional write changes, and whether others are writing it.

use std::{
    cell::Cell,
    hash::{DefaultHasher, Hasher as _},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
};

use crate::write::lexer::{Lexer, Token};

/// The query of the rows that an UPDATE changes if all of its conditions are true.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowQuery {
    pub(crate) text: String,
    /// Its parameters, as bits. Their values tell its rows from others.
    pub(crate) parameters: u128,
}

impl RowQuery {
    /// That of an accepted statement. `None` unless the rows are those of one table, by a WHERE that
    /// has a parameter and calls nothing.
    pub(crate) fn of(statement: &str) -> Option<Self> {
        let mut lexer = Lexer::new(statement);
        lexer.advance();
        if !lexer.token.is("UPDATE") {
            return None;
        }
        let table = clause(&mut lexer, statement, &["SET"])?;
        clause(&mut lexer, statement, &["FROM", "WHERE"])?;
        if !lexer.token.is("WHERE") {
            return None;
        }
        lexer.parameters = 0;
        let rows = clause(&mut lexer, statement, &["RETURNING", "ORDER", "LIMIT"])?;
        let is_last = lexer.is_at_end() || lexer.token.is("RETURNING");
        let is_plain = !table.contains('*') && !rows.contains(['(', '[']);
        if !is_last || !is_plain || table.trim().is_empty() || lexer.parameters == 0 {
            return None;
        }
        // In parentheses as the conditions are: the words beside them may touch them.
        let rows = rows.replacen("{conditions}", "(TRUE)", 1);
        Some(Self {
            text: format!("SELECT 1 FROM{table}WHERE{rows}"),
            parameters: lexer.parameters,
        })
    }
}

/// The text behind the token, up to one of the keywords that follow at its level, or to the end.
fn clause<'s>(lexer: &mut Lexer<'_>, statement: &'s str, keywords: &[&str]) -> Option<&'s str> {
    let start = statement.len() - lexer.rest.len();
    let mut end = statement.len();
    loop {
        lexer.advance();
        match lexer.token {
            Token::End => break,
            Token::Word(word) if lexer.depth == 0 && lexer.token.is_one_of(keywords) => {
                end -= lexer.rest.len() + word.len();
                break;
            }
            _ => {}
        }
    }
    statement.get(start..end)
}

/// A value that adds itself to a hash when it is encoded.
pub(crate) struct Hashed<'h, T> {
    pub(crate) value: T,
    pub(crate) hash: &'h Cell<u64>,
}

impl<'q, T: Encode<'q, Postgres>> Encode<'q, Postgres> for Hashed<'_, T> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let start = buffer.len();
        let is_null = self.value.encode_by_ref(buffer)?;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.hash.get());
        hasher.write(buffer.get(start..).unwrap_or_default());
        self.hash.set(hasher.finish());
        Ok(is_null)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        self.value.produces()
    }

    fn size_hint(&self) -> usize {
        self.value.size_hint()
    }
}

impl<T: Type<Postgres>> Type<Postgres> for Hashed<'_, T> {
    fn type_info() -> PgTypeInfo {
        T::type_info()
    }
}

/// How many writes of each row are under way in this process.
///
/// A row is known by the hash of its key. Two rows with one counter are taken for one row.
#[derive(Debug)]
pub(crate) struct Writers {
    counters: [AtomicU32; COUNTERS],
}

impl Writers {
    /// Counts a write of the row until the guard is dropped.
    #[allow(
        clippy::indexing_slicing,
        reason = "a remainder is less than the length"
    )]
    pub(crate) fn enter(&self, row: u64) -> Writer<'_> {
        let counter = &self.counters[row as usize % COUNTERS];
        let others = counter.fetch_add(1, Relaxed);
        Writer { counter, others }
    }
}

impl Default for Writers {
    fn default() -> Self {
        Self {
            counters: [const { AtomicU32::new(0) }; COUNTERS],
        }
    }
}

/// A write that is under way.
pub(crate) struct Writer<'w> {
    counter: &'w AtomicU32,
    others: u32,
}

impl Writer<'_> {
    /// Whether it found others under way.
    pub(crate) fn is_contended(&self) -> bool {
        self.others > 0
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Relaxed);
    }
}

const COUNTERS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_update_are_those_of_its_where() {
        for (statement, text, parameters) in [
            (
                "UPDATE documents SET body = $3 WHERE id = $2 AND {conditions} RETURNING version",
                "SELECT 1 FROM documents WHERE id = $2 AND (TRUE) ",
                0b100,
            ),
            (
                "update \"set\" as d set a = (SELECT b FROM c WHERE d = $1)\nwhere {conditions} AND d.id = $2::uuid",
                "SELECT 1 FROM \"set\" as d WHERE (TRUE) AND d.id = $2::uuid",
                0b100,
            ),
            (
                "UPDATE a SET b = 1 WHERE{conditions}AND c = $1 AND d = $3",
                "SELECT 1 FROM a WHERE(TRUE)AND c = $1 AND d = $3",
                0b1010,
            ),
        ] {
            let expected = RowQuery {
                text: text.to_owned(),
                parameters,
            };
            assert_eq!(RowQuery::of(statement), Some(expected), "{statement}");
        }
    }

    #[test]
    fn other_statements_have_no_such_query() {
        for statement in [
            "DELETE FROM documents WHERE id = $1 AND {conditions}",
            "INSERT INTO documents SELECT $1 WHERE {conditions}",
            "UPDATE documents SET a = 1 WHERE {conditions}",
            "UPDATE documents SET a = $1 WHERE {conditions}",
            "UPDATE documents SET a = 1 WHERE id = next($1) AND {conditions}",
            "UPDATE documents SET a = 1 WHERE id = ANY ($1) AND {conditions}",
            "UPDATE documents SET a = x.a FROM x WHERE x.id = $1 AND {conditions}",
            "UPDATE documents SET a = 1 WHERE a = $1 AND {conditions} ORDER BY id LIMIT 1",
            "UPDATE ONLY documents * SET a = 1 WHERE a = $1 AND {conditions}",
            "UPDATE set SET a = 1 WHERE a = $1 AND {conditions}",
        ] {
            assert_eq!(RowQuery::of(statement), None, "{statement}");
        }
    }

    #[test]
    fn second_writer_of_a_row_is_contended() {
        let writers = Writers::default();
        let first = writers.enter(7);
        assert!(!first.is_contended() && !writers.enter(8).is_contended());
        assert!(writers.enter(7).is_contended());
        drop(first);
        assert!(!writers.enter(7).is_contended());
    }
}
