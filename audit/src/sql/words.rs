//! The reading of a statement by its words alone, where the parser does not understand it.

use sqlparser::tokenizer::Token;

use crate::sql::{
    effect::{Effect, Part},
    tokens::{first_word, keyword},
};

/// Reads by words. Without a word that writes, the effect is unknown.
pub(super) fn read(tokens: &[Token]) -> Part {
    let words: Vec<Option<String>> = tokens.iter().map(keyword).collect();
    let word = |at: usize| words.get(at).and_then(Option::as_deref);
    let writes = (0..words.len()).any(|at| {
        let before = at.checked_sub(1).and_then(word);
        word(at).is_some_and(|word| WRITES.contains(&word)) && !matches!(before, Some("FOR" | "DO"))
    });
    let copies = first_word(tokens).as_deref() == Some("COPY")
        && words.iter().flatten().any(|word| word == "FROM");
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for at in 0..tokens.len() {
        let Some(before) = at.checked_sub(1).and_then(word) else {
            continue;
        };
        let Some(name) = name(tokens.get(at..).unwrap_or_default()) else {
            continue;
        };
        let deletes = at >= 2 && word(at - 2) == Some("DELETE");
        match before {
            "INTO" | "UPDATE" | "TRUNCATE" | "TABLE" if writes => written.push(name),
            "COPY" if copies => written.push(name),
            "FROM" if deletes => written.push(name),
            "FROM" | "JOIN" | "USING" if !copies => read.push(name),
            _ => {}
        }
    }
    Part {
        effect: if writes || copies {
            Effect::Write
        } else {
            Effect::Unknown
        },
        reads: read,
        writes: written,
        calls: Vec::new(),
    }
}

/// The name of a table at the beginning of `tokens`, unless it is a keyword.
fn name(tokens: &[Token]) -> Option<String> {
    let mut parts = Vec::new();
    let mut rest = tokens;
    while let [Token::Word(word), following @ ..] = rest {
        let is_keyword = NO_TABLES.contains(&word.value.to_ascii_uppercase().as_str());
        if word.quote_style.is_none() && is_keyword {
            return None;
        }
        parts.push(match word.quote_style {
            Some(_) => word.value.clone(),
            None => word.value.to_lowercase(),
        });
        match following {
            [Token::Period, after @ ..] => rest = after,
            _ => break,
        }
    }
    (!parts.is_empty()).then(|| parts.join("."))
}

const WRITES: [&str; 13] = [
    "ALTER", "CALL", "CREATE", "DELETE", "DO", "DROP", "GRANT", "INSERT", "MERGE", "REVOKE",
    "TRUNCATE", "UPDATE", "UPSERT",
];

/// Words that follow `FROM`, `TABLE` and the like without being a table.
const NO_TABLES: [&str; 10] = [
    "EXISTS", "IF", "LATERAL", "NOT", "ONLY", "SELECT", "SET", "STDIN", "STDOUT", "TABLE",
];
