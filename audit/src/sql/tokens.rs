//! The tokens of a text, and what is cut out of them.

use sqlparser::{
    dialect::PostgreSqlDialect,
    tokenizer::{Token, Tokenizer, Whitespace, Word},
};

/// The statements of a text.
pub(super) struct Statements(Vec<Token>);

impl Statements {
    /// Reads the text. `None` if it has an open quote or comment.
    pub(super) fn read(text: &str) -> Option<Self> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize();
        Some(Self(tokens.ok()?))
    }

    /// The tokens of each statement, without whitespace and comments.
    pub(super) fn each(&self) -> impl Iterator<Item = Vec<Token>> {
        let statements = self.0.split(|token| *token == Token::SemiColon);
        let significant = statements.map(|tokens| {
            let kept = tokens.iter().filter(|token| !is_whitespace(token));
            kept.cloned().collect::<Vec<_>>()
        });
        significant.filter(|tokens| !tokens.is_empty())
    }

    /// The text without values and comments, and with single spaces.
    pub(super) fn normalized(&self) -> String {
        let mut text = String::new();
        let mut spaced = false;
        for token in &self.0 {
            if is_whitespace(token) {
                spaced = !text.is_empty();
                continue;
            }
            if std::mem::take(&mut spaced) {
                text.push(' ');
            }
            if is_value(token) {
                text.push('?');
            } else {
                text += &token.to_string();
            }
        }
        text
    }
}

/// The first word, in capitals, behind parentheses.
pub(super) fn first_word(tokens: &[Token]) -> Option<String> {
    let first = tokens.iter().find(|token| **token != Token::LParen)?;
    keyword(first)
}

/// A word without quotes, in capitals.
pub(super) fn keyword(token: &Token) -> Option<String> {
    match token {
        Token::Word(Word {
            value,
            quote_style: None,
            ..
        }) => Some(value.to_ascii_uppercase()),
        _ => None,
    }
}

/// Rewrites what only CockroachDB understands, and what the parser does not: `UPSERT`, `t@index`,
/// `AS OF SYSTEM TIME …`, `FOR NO KEY UPDATE` and `FOR KEY SHARE`.
pub(super) fn without_cockroach(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut rest = tokens;
    while let [token, following @ ..] = rest {
        rest = following;
        if starts_with(token, following, &["AS", "OF", "SYSTEM", "TIME"]) {
            rest = after_expression(following.get(3..).unwrap_or_default());
        } else if starts_with(token, following, &["FOR", "NO", "KEY"]) {
            kept.push(token.clone());
            rest = following.get(2..).unwrap_or_default();
        } else if starts_with(token, following, &["FOR", "KEY"]) {
            kept.push(token.clone());
            rest = following.get(1..).unwrap_or_default();
        } else if *token == Token::AtSign {
            rest = after_index(following);
        } else if keyword(token).as_deref() == Some("UPSERT") {
            kept.push(Token::make_keyword("INSERT"));
        } else {
            kept.push(token.clone());
        }
    }
    kept
}

fn starts_with(token: &Token, following: &[Token], words: &[&str]) -> bool {
    let tokens = std::iter::once(token).chain(following);
    let mut pairs = tokens.map(keyword).zip(words);
    let matched = pairs
        .by_ref()
        .take_while(|(token, word)| token.as_deref() == Some(**word));
    matched.count() == words.len()
}

/// What follows one value or call: `'-10s'` or `follower_read_timestamp()`.
fn after_expression(tokens: &[Token]) -> &[Token] {
    let rest = tokens.get(1..).unwrap_or_default();
    let negative = matches!(tokens.first(), Some(Token::Minus));
    let rest = if negative {
        rest.get(1..).unwrap_or_default()
    } else {
        rest
    };
    match rest.first() {
        Some(Token::LParen) => after_closing(rest, &Token::LParen, &Token::RParen),
        _ => rest,
    }
}

/// What follows the name of an index, or a list of hints.
fn after_index(tokens: &[Token]) -> &[Token] {
    match tokens.first() {
        Some(Token::LBrace) => after_closing(tokens, &Token::LBrace, &Token::RBrace),
        _ => tokens.get(1..).unwrap_or_default(),
    }
}

fn after_closing<'t>(tokens: &'t [Token], open: &Token, close: &Token) -> &'t [Token] {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        if token == open {
            depth += 1;
        } else if token == close {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return tokens.get(at + 1..).unwrap_or_default();
            }
        }
    }
    &[]
}

fn is_whitespace(token: &Token) -> bool {
    matches!(
        token,
        Token::Whitespace(
            Whitespace::Space
                | Whitespace::Newline
                | Whitespace::Tab
                | Whitespace::SingleLineComment { .. }
                | Whitespace::MultiLineComment(_)
        )
    )
}

/// Whether it is a value: everything that is neither a word, a placeholder nor a symbol.
fn is_value(token: &Token) -> bool {
    match token {
        Token::Number(..) | Token::Char(_) => true,
        Token::Word(_) | Token::Placeholder(_) | Token::DoubleQuotedString(_) => false,
        other => other.to_string().contains(['\'', '"']) || is_quoted(other),
    }
}

fn is_quoted(token: &Token) -> bool {
    matches!(
        token,
        Token::DollarQuotedString(_)
            | Token::HexStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::NationalStringLiteral(_)
    )
}
