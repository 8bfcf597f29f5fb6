//! A lexer for SQL that runs at compile time.
//!
//! It reads what CockroachDB and every version and setting of PostgreSQL read alike, and rejects
//! the rest: what is checked here and what the server runs must be the same thing.

/// A piece of a text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Token<'a> {
    /// `{conditions}`
    Conditions,
    /// A keyword, or a name without quotes.
    Word(&'a [u8]),
    /// A name that cannot be a keyword: in quotes, after a dot, or after AS.
    Name(&'a [u8]),
    /// A string, or the half of one that has a doubled quote in it.
    Literal,
    Number,
    /// `$1`
    Parameter(u32),
    /// `(` or `[`
    Open(u8),
    /// `)` or `]`
    Close,
    Symbol(u8),
    End,
}

/// The tokens of a text, up to the first violation.
pub(crate) struct Lexer<'a> {
    /// What is not read yet.
    pub(crate) rest: &'a [u8],
    /// The last token, and the one before it.
    pub(crate) token: Token<'a>,
    pub(crate) previous: Token<'a>,
    /// How many parentheses and brackets are open after the token.
    pub(crate) depth: u32,
    /// The parameters that were seen, as bits.
    pub(crate) parameters: u128,
    /// The first violation.
    pub(crate) rejection: Option<&'static str>,
}

impl<'a> Lexer<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self {
            rest: text.as_bytes(),
            token: Token::End,
            previous: Token::End,
            depth: 0,
            parameters: 0,
            rejection: None,
        }
    }

    /// Reads the next token. At the end, and after a rejection, that is [`Token::End`].
    pub(crate) const fn advance(&mut self) {
        let token = self.read();
        if let (Token::Word(_) | Token::Name(_), Token::Symbol(b'@'), Token::Word(_)) =
            (self.previous, self.token, token)
        {
            self.reject(INDEX_HINT);
        }
        self.previous = self.token;
        self.token = match (self.previous, token) {
            (Token::Symbol(b'.'), Token::Word(word)) => Token::Name(word),
            (previous, Token::Word(word)) if previous.is("AS") => Token::Name(word),
            (_, token) => token,
        };
        match self.token {
            Token::Open(_) => self.depth += 1,
            Token::Close if self.depth == 0 => self.reject(CLOSES_TOO_MUCH),
            Token::Close => self.depth -= 1,
            Token::End if self.depth > 0 => self.reject(STAYS_OPEN),
            Token::Parameter(number) => match 1_u128.checked_shl(number) {
                Some(bit) if number > 0 => self.parameters |= bit,
                _ => self.reject(PARAMETER_NUMBER),
            },
            _ => {}
        }
    }

    pub(crate) const fn is_at_end(&self) -> bool {
        matches!(self.token, Token::End)
    }

    /// Rejects the text. Only the first reason counts.
    pub(crate) const fn reject(&mut self, reason: &'static str) {
        if self.rejection.is_none() {
            self.rejection = Some(reason);
        }
        self.token = Token::End;
        self.rest = &[];
    }

    const fn read(&mut self) -> Token<'a> {
        self.skip_space();
        let here = self.rest;
        if let Some(rest) = strip(here, MARKER) {
            self.rest = rest;
            return Token::Conditions;
        }
        let [first, rest @ ..] = here else {
            return Token::End;
        };
        self.rest = rest;
        match (*first, rest) {
            (b'\'', _) => {
                self.quoted(b'\'');
                Token::Literal
            }
            (b'"', _) => Token::Name(self.quoted(b'"')),
            (open @ (b'(' | b'['), _) => Token::Open(open),
            (b')' | b']', _) => Token::Close,
            (b'$', _) => self.parameter(),
            (b'0'..=b'9', _) => self.number(),
            (b'A'..=b'Z' | b'a'..=b'z' | b'_', _) => self.word(here),
            (b'-', [b'-', ..]) | (b'/', [b'*', ..]) => self.rejected(COMMENT),
            (b';', _) => self.rejected(SEMICOLON),
            (b'{' | b'}', _) => self.rejected(BRACE),
            (b'\\' | b'`' | 0..=31 | 127..=255, _) => self.rejected(CHARACTER),
            (symbol, _) => Token::Symbol(symbol),
        }
    }

    const fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// The content of a literal or a name. A doubled quote ends one and begins the next, which has
    /// the same effect.
    const fn quoted(&mut self, quote: u8) -> &'a [u8] {
        let inside = self.rest;
        while let [byte, rest @ ..] = self.rest {
            if *byte == quote {
                let (inside, _) = inside.split_at(inside.len() - self.rest.len());
                self.rest = rest;
                return inside;
            }
            if strip(self.rest, MARKER).is_some() {
                self.reject(MARKER_IN_QUOTES);
            } else if let [b'\\', next, ..] = self.rest
                && *next == quote
            {
                self.reject(BACKSLASH);
            } else if *byte == 0 {
                self.reject(NUL);
            } else {
                self.rest = rest;
            }
        }
        self.reject(UNCLOSED_QUOTE);
        &[]
    }

    const fn parameter(&mut self) -> Token<'a> {
        let mut number: u32 = 0;
        let start = self.rest.len();
        while let [digit @ b'0'..=b'9', rest @ ..] = self.rest {
            number = number
                .saturating_mul(10)
                .saturating_add((*digit - b'0') as u32);
            self.rest = rest;
        }
        if self.rest.len() == start || self.is_glued() {
            return self.rejected(DOLLAR);
        }
        Token::Parameter(number)
    }

    const fn number(&mut self) -> Token<'a> {
        while let [b'0'..=b'9' | b'.', rest @ ..] = self.rest {
            self.rest = rest;
        }
        if self.is_glued() {
            return self.rejected(GLUED);
        }
        Token::Number
    }

    const fn word(&mut self, here: &'a [u8]) -> Token<'a> {
        while let [b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_', rest @ ..] = self.rest {
            self.rest = rest;
        }
        match (here, self.rest) {
            (_, [b'$', ..]) => return self.rejected(DOLLAR),
            ([b'U' | b'u', b'&', b'\'' | b'"', ..], _) => return self.rejected(UNICODE),
            _ => {}
        }
        Token::Word(here.split_at(here.len() - self.rest.len()).0)
    }

    /// Whether a letter follows without a space: servers differ in where the token ends.
    const fn is_glued(&self) -> bool {
        matches!(self.rest, [b'A'..=b'Z' | b'a'..=b'z' | b'_' | b'$', ..])
    }

    const fn rejected(&mut self, reason: &'static str) -> Token<'a> {
        self.reject(reason);
        Token::End
    }
}

impl Token<'_> {
    /// Whether it is this keyword, in upper case.
    pub(crate) const fn is(self, keyword: &str) -> bool {
        match self {
            Token::Word(word) => word.eq_ignore_ascii_case(keyword.as_bytes()),
            _ => false,
        }
    }

    pub(crate) const fn is_one_of(self, mut keywords: &[&str]) -> bool {
        while let [keyword, rest @ ..] = keywords {
            if self.is(keyword) {
                return true;
            }
            keywords = rest;
        }
        false
    }
}

const fn strip<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    match (text, prefix) {
        (_, []) => Some(text),
        ([a, text @ ..], [b, prefix @ ..]) if *a == *b => strip(text, prefix),
        _ => None,
    }
}

const MARKER: &[u8] = b"{conditions}";

pub(crate) const INDEX_HINT: &str = "there is a name behind `@`, of which it cannot be told whether it is a keyword: put an index hint's name in quotes";
const CLOSES_TOO_MUCH: &str = "a `)` or `]` closes what was not opened: the text must be balanced";
const STAYS_OPEN: &str = "a `(` or `[` is never closed: the text must be balanced";
const PARAMETER_NUMBER: &str = "parameters are numbered from $1 to at most $127";
const COMMENT: &str = "a comment: move it out of the SQL, where it could hide a part of it";
const SEMICOLON: &str = "a `;`: write one statement, without a semicolon";
const BRACE: &str = "a brace outside of a literal: the one placeholder is `{conditions}`";
const NUL: &str = "a NUL character ends the text for the server";
const CHARACTER: &str =
    "a character that SQL reads differently elsewhere: put it into a literal or a quoted name";
const MARKER_IN_QUOTES: &str =
    "`{conditions}` is in quotes: put it into the WHERE of the statement";
const BACKSLASH: &str = "a backslash before a quote, which servers read differently: double the quote, or bind the text";
const UNICODE: &str = "Unicode escapes, which can spell anything: write the characters themselves";
const UNCLOSED_QUOTE: &str = "a quote is never closed";
const DOLLAR: &str =
    "a `$` that is no parameter like $1: write literals with ' and put a space after parameters";
const GLUED: &str = "a number with letters behind it: put a space between them";
