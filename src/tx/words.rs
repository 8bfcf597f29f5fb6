//! The words of a text, for as much as its beginning says.

use std::borrow::Cow;

/// The words that a text begins with, in upper case, without white space, comments and
/// punctuation.
pub(crate) fn sql_words(sql: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        rest = skip_to_word(rest);
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail;
        (!word.is_empty()).then(|| upper_case(word))
    })
}

/// The word that a text begins with.
pub(crate) fn first_word(sql: &str) -> &str {
    let rest = skip_to_word(sql);
    rest.split(|c| !is_word(c)).next().unwrap_or_default()
}

fn upper_case(word: &str) -> Cow<'_, str> {
    if word.contains(|c: char| c.is_ascii_lowercase()) {
        Cow::Owned(word.to_ascii_uppercase())
    } else {
        Cow::Borrowed(word)
    }
}

fn skip_to_word(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start_matches(|c: char| !is_word(c) && c != '-' && c != '/');
        if let Some(comment) = sql.strip_prefix("--") {
            sql = comment
                .split_once(['\n', '\r'])
                .map_or("", |(_, tail)| tail);
        } else if let Some(comment) = sql.strip_prefix("/*") {
            sql = after_comment(comment);
        } else if let Some(tail) = sql.strip_prefix(['-', '/']) {
            sql = tail;
        } else {
            return sql;
        }
    }
}

/// The text after a block comment. Comments nest.
fn after_comment(mut sql: &str) -> &str {
    let mut depth = 1;
    while depth > 0 {
        let Some(at) = sql.find(['/', '*']) else {
            return "";
        };
        sql = sql.split_at(at).1;
        if let Some(tail) = sql.strip_prefix("*/") {
            depth -= 1;
            sql = tail;
        } else if let Some(tail) = sql.strip_prefix("/*") {
            depth += 1;
            sql = tail;
        } else {
            sql = sql.split_at(1).1;
        }
    }
    sql
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
