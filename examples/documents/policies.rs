//! The rules, and the policies that check them.

use axum::extract::Path;
use serde::Deserialize;
use tower_interlock::{Denied, Error, Tx};
use uuid::Uuid;

use crate::auth::User;

/// The owner, and users whom the document is shared with, may read and update it.
///
/// $1 is the hash of the caller's token, $2 the document. The policy [`has_access`] and the
/// conditional write in `handlers.rs` use the same text, so they cannot disagree.
pub(crate) const HAS_ACCESS: &str = "SELECT EXISTS (
    SELECT 1 FROM tokens JOIN documents ON documents.id = $2
    WHERE tokens.hash = $1 AND (
        tokens.user_name = documents.owner
        OR tokens.user_name IN (SELECT user_name FROM grants WHERE document_id = $2)
    )
)";

/// The path parameter that policies read. The path may have others.
#[derive(Deserialize)]
pub(crate) struct DocumentPath {
    pub(crate) document: Uuid,
}

pub(crate) async fn signed_in(user: User) -> Result<User, Error> {
    Ok(user)
}

/// Proof that the caller has access to the document.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) document: Uuid,
}

pub(crate) async fn has_access(
    user: User,
    Path(DocumentPath { document }): Path<DocumentPath>,
    mut tx: Tx,
) -> Result<Access, Error> {
    let allowed: bool = sqlx::query_scalar(HAS_ACCESS)
        .bind(user.token_hash)
        .bind(document)
        .fetch_one(&mut tx)
        .await?;
    // Without access, the document looks as if it did not exist.
    Denied::unless(allowed, "not shared").map_err(Denied::hidden)?;
    Ok(Access { document })
}

/// Proof that the caller owns the document.
#[derive(Clone)]
pub(crate) struct Ownership {
    pub(crate) document: Uuid,
}

pub(crate) async fn is_owner(
    user: User,
    Path(DocumentPath { document }): Path<DocumentPath>,
    mut tx: Tx,
) -> Result<Ownership, Error> {
    let allowed: Option<bool> =
        sqlx::query_scalar("SELECT owner = $2 FROM documents WHERE id = $1")
            .bind(document)
            .bind(user.name)
            .fetch_optional(&mut tx)
            .await?;
    // The response is the same for a document that does not exist.
    Denied::unless(allowed, "not the owner")?;
    Ok(Ownership { document })
}
