//! Connection URLs as text. sqlx can parse them but adds parameters of its own when it writes them.

/// The URL of the database `name` on the same server.
pub(crate) fn with_database(url: &str, name: &str) -> String {
    let (base, query) = parts(url);
    let end = authority(base).1;
    let base = base.get(..end).unwrap_or(base);
    format!("{base}/{name}{query}")
}

/// The URL without its password, for output.
pub(crate) fn without_password(url: &str) -> String {
    let (base, query) = parts(url);
    let query = query.trim_start_matches('?').split('&');
    let query: Vec<_> = query.filter(|it| !it.contains("password=")).collect();
    let query = query.join("&");
    let mark = if query.is_empty() { "" } else { "?" };

    let (start, end) = authority(base);
    let credentials = base.get(start..end).and_then(|it| it.rsplit_once('@'));
    let password = credentials.and_then(|(it, _)| it.split_once(':'));
    let base = match password {
        Some((_, password)) => base.replacen(&format!(":{password}@"), "@", 1),
        None => base.to_owned(),
    };
    format!("{base}{mark}{query}")
}

/// A URL without its parameters, and the parameters with their question mark.
fn parts(url: &str) -> (&str, &str) {
    url.split_at(url.find('?').unwrap_or(url.len()))
}

/// The range of user, host and port.
fn authority(base: &str) -> (usize, usize) {
    let start = base.find("://").map_or(0, |scheme| scheme + 3);
    let rest = base.get(start..).unwrap_or_default();
    (start, start + rest.find('/').unwrap_or(rest.len()))
}

#[cfg(test)]
mod tests {
    use super::{with_database, without_password};

    #[test]
    fn with_database_replaces_only_the_database() {
        for (url, expected) in [
            (
                "postgres://u:p@h:1/a?sslmode=disable",
                "postgres://u:p@h:1/b?sslmode=disable",
            ),
            ("postgres://u@h", "postgres://u@h/b"),
            ("postgres://u@h?x=/y", "postgres://u@h/b?x=/y"),
            ("postgres:///a?host=/run", "postgres:///b?host=/run"),
        ] {
            assert_eq!(with_database(url, "b"), expected);
        }
    }

    #[test]
    fn redacted_url_hides_the_password() {
        for (url, expected) in [
            ("postgres://u:p@h:1/a?x=y", "postgres://u@h:1/a?x=y"),
            ("postgres://u:p%40:x@h/a?password=p", "postgres://u@h/a"),
            (
                "postgres:///a?password=p&host=/run",
                "postgres:///a?host=/run",
            ),
            ("postgres://h:1/a", "postgres://h:1/a"),
        ] {
            assert_eq!(without_password(url), expected);
        }
    }
}
