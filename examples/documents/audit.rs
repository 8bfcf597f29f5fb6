//! The audit: who did what to a document, from the receipts.

use std::error::Error;

use sqlx::PgPool;
use uuid::Uuid;

#[derive(sqlx::FromRow)]
struct Row {
    user: Option<String>,
    policies: String,
    method: String,
    status: i32,
}

/// Prints who has changed a document, and who was not allowed to.
pub(crate) async fn print(pool: &PgPool, document: &str) -> Result<(), Box<dyn Error>> {
    let rows: Vec<Row> = sqlx::query_as(AUDIT)
        .bind(Uuid::parse_str(document)?.to_string())
        .fetch_all(pool)
        .await?;
    println!("\nwho changed document {document}, and who was denied, by its receipts:");
    for row in &rows {
        let user = row.user.as_deref().unwrap_or("-");
        let Row {
            policies,
            method,
            status,
            ..
        } = row;
        println!("    {user:<8}{method:<8}{status:<6}{policies}");
    }
    if rows.is_empty() {
        return Err("the document has no receipt".into());
    }
    Ok(())
}

/// A conditional write on the `Interlock` stores no receipt: its version is its trace.
const AUDIT: &str = "
    SELECT users.name AS user, policies, method, status
    FROM interlock_receipts
    LEFT JOIN tokens ON encode(tokens.hash, 'hex') = interlock_receipts.principal
    LEFT JOIN users ON users.name = tokens.user_name
    WHERE (detail->>'document' = $1 OR path LIKE '/documents/' || $1 || '%') AND status <> 0
    ORDER BY at";
