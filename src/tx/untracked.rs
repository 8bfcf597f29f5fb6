//! Reads of a policy that the database does not track: by the locks, and by the texts.

use std::sync::Arc;

use crate::{
    database::UntrackedRead,
    tx::{lease::Lease, slot::Slot, words::sql_words},
};

/// Returns the relations that the transaction of `slot` has read without predicate locks, if it has
/// begun and no `Tx` has the lease. An error is recorded.
pub(crate) async fn untracked_reads(slot: &Arc<Slot>) -> Vec<UntrackedRead> {
    if !slot.is_idle() {
        return Vec::new();
    }
    let mut lease = Lease::new(Arc::clone(slot));
    let Ok(mut lease) = lease.checkout().await else {
        return Vec::new();
    };
    let reads = match lease.start() {
        Ok(transaction) => transaction.untracked_reads().await,
        Err(error) => Err(error),
    };
    lease.done(reads).unwrap_or_default()
}

/// Returns the words of `sql` that read what no transaction isolates. They leave no lock behind.
pub(crate) fn untracked_words(sql: &str) -> Vec<String> {
    let mut words = sql_words(sql).peekable();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let is_own_setting = word == "CURRENT_SETTING"
            && (words.peek()).is_some_and(|setting| setting == "TRANSACTION_ISOLATION");
        if is_untracked(&word) && !is_own_setting {
            found.push(word.to_ascii_lowercase());
        }
    }
    found
}

fn is_untracked(word: &str) -> bool {
    WORDS.contains(&word)
        || word.starts_with("HAS_") && word.ends_with("_PRIVILEGE")
        || word.starts_with("DBLINK")
}

const WORDS: [&str; 14] = [
    // Roles, privileges and settings: read through caches of the server.
    "PG_HAS_ROLE",
    "ROW_SECURITY_ACTIVE",
    "CURRENT_SETTING",
    // Large objects and files.
    "LO_GET",
    "LOREAD",
    "PG_READ_FILE",
    "PG_READ_BINARY_FILE",
    // Sequences.
    "NEXTVAL",
    "CURRVAL",
    "LASTVAL",
    "PG_SEQUENCE_LAST_VALUE",
    // A range of row addresses.
    "CTID",
    // Catalogs of CockroachDB.
    "CRDB_INTERNAL",
    "INFORMATION_SCHEMA",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untracked_words_are_found_anywhere_but_in_comments() {
        for (sql, found) in [
            ("SELECT pg_has_role('a', 'b', 'member')", "pg_has_role"),
            (
                "select x from t where Has_Table_Privilege('t', 'SELECT')",
                "has_table_privilege",
            ),
            ("SELECT current_setting('app.user')", "current_setting"),
            ("SELECT * FROM dblink('x', 'SELECT 1')", "dblink"),
            ("SELECT EXISTS (SELECT FROM t WHERE ctid < '(0,2)')", "ctid"),
            ("SELECT current_setting('transaction_isolation')", ""),
            ("SELECT 1 -- pg_has_role\n FROM grants", ""),
            ("SELECT has_paid FROM users", ""),
        ] {
            assert_eq!(untracked_words(sql).join(" "), found, "{sql}");
        }
    }
}
