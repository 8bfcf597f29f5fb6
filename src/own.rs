//! The statements that the crate runs by itself.

use crate::{jobs, receipts};

/// Returns whether a text is a statement that this crate runs by itself on its tables of receipts
/// and jobs.
///
/// It is for observers of other things than this crate, such as the events of sqlx: an
/// [`Observer`](crate::observe::Observer) is not told of these statements. A statement of the
/// service on the same tables has another text.
#[must_use]
pub fn is_own_statement(sql: &str) -> bool {
    OWN.iter().any(|(table, statements)| {
        let mut statements = statements.iter();
        statements.any(|statement| is_text_of(statement, table, sql))
    })
}

const OWN: [(&str, &[&str]); 4] = [
    (receipts::TABLE, receipts::STATEMENTS),
    (jobs::TABLE, jobs::STATEMENTS),
    (jobs::TABLE, jobs::CLAIM_STATEMENTS),
    (jobs::TABLE, jobs::QUEUE_STATEMENTS),
];

/// Whether `sql` is the statement, with the table in whatever schema.
fn is_text_of(statement: &str, table: &str, sql: &str) -> bool {
    let Some((before, _)) = statement.split_once("{table}") else {
        return sql == statement;
    };
    let rest = sql.strip_prefix(before);
    let Some((schema, _)) = rest.and_then(|rest| rest.split_once(table)) else {
        return false;
    };
    let is_schema = schema.is_empty() || schema.starts_with('"') && schema.ends_with("\".");
    is_schema && statement.replace("{table}", &format!("{schema}{table}")) == sql
}

#[cfg(test)]
mod tests {
    use super::{OWN, is_own_statement};

    #[test]
    fn own_statement_is_known_in_every_schema() {
        for (table, statements) in OWN {
            for statement in statements {
                for name in [table.to_owned(), format!("\"my \"\"app\".{table}")] {
                    let sql = statement.replace("{table}", &name);
                    assert!(is_own_statement(&sql), "{sql}");
                }
            }
        }
    }

    #[test]
    fn statement_of_service_on_the_same_table_is_not_own() {
        for sql in [
            "DELETE FROM interlock_jobs",
            "DELETE FROM interlock_jobs WHERE id = $1::UUID",
            "DELETE FROM interlock_jobs WHERE id = $1::UUID AND runs = $2 AND live OR true",
            "SELECT 1 FROM documents, interlock_jobs WHERE id = $1::UUID",
            "SELECT 1 FROM documents WHERE id = $1::UUID",
            "",
        ] {
            assert!(!is_own_statement(sql), "{sql}");
        }
    }

    #[test]
    fn every_statement_of_the_sources_is_listed() {
        let sources = [
            include_str!("receipts/statements.rs"),
            include_str!("jobs/claims.rs"),
            include_str!("jobs/statements.rs"),
            include_str!("jobs/queue.rs"),
        ];
        let constants = sources.iter().flat_map(|source| source.split("\nconst "));
        let written = constants.filter(|constant| {
            constant
                .split(';')
                .next()
                .is_some_and(|text| text.contains("{table}"))
        });
        let listed = OWN.iter().flat_map(|(_, statements)| *statements);
        let listed = listed.filter(|statement| statement.contains("{table}"));
        assert_eq!(written.count(), listed.count());
    }
}
