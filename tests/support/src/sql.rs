use std::iter;

/// The statements of a script, without the semicolons between them.
///
/// Semicolons inside literals, quoted names, dollar quotes and comments belong to the statement.
pub(crate) fn statements(script: &'static str) -> impl Iterator<Item = &'static str> {
    let mut rest = Some(script);
    iter::from_fn(move || {
        let (statement, after) = rest?.split_at(first_statement(rest?));
        rest = after.strip_prefix(';');
        Some(statement.trim())
    })
    .filter(|statement| !statement.is_empty())
}

/// The length of the first statement.
fn first_statement(script: &str) -> usize {
    let mut rest = script;
    while !rest.is_empty() && !rest.starts_with(';') {
        rest = rest.get(token(rest)..).unwrap_or_default();
    }
    script.len() - rest.len()
}

/// The length of the literal, quoted name, comment or character that `rest` starts with.
fn token(rest: &str) -> usize {
    let (open, close) = match rest.as_bytes() {
        [b'\'', ..] => (1, "'"),
        [b'"', ..] => (1, "\""),
        [b'-', b'-', ..] => (2, "\n"),
        [b'/', b'*', ..] => (2, "*/"),
        _ => match dollar_quote(rest) {
            Some(quote) => (quote.len(), quote),
            None => return rest.chars().next().map_or(0, char::len_utf8),
        },
    };
    let inside = rest.get(open..).unwrap_or_default();
    inside
        .find(close)
        .map_or(rest.len(), |at| open + at + close.len())
}

/// The `$$` or `$name$` that `rest` starts with.
fn dollar_quote(rest: &str) -> Option<&str> {
    let name = rest.strip_prefix('$')?.split('$').next()?;
    let quote = rest.get(..name.len() + 2)?;
    name.chars()
        .all(|c| c == '_' || c.is_alphanumeric())
        .then_some(quote)
}

#[cfg(test)]
mod tests {
    use super::statements;

    #[test]
    fn script_is_split_only_between_statements() {
        let split = |script| statements(script).collect::<Vec<_>>();
        assert_eq!(split("SELECT 1; SELECT 2 ;\n"), ["SELECT 1", "SELECT 2"]);
        assert_eq!(split(" ;; "), [""; 0]);
        for one in [
            "SELECT 'a;b'';', \";\"",
            "SELECT 1 -- ;\n, 2",
            "SELECT /* ; */ 'ä'",
            "SELECT $$;$;$$",
            "SELECT $x$;$$;$x$",
            "SELECT $1 + 'unclosed;",
        ] {
            assert_eq!(split(one), [one]);
        }
    }
}
