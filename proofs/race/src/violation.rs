//! One violation of a race, for the picture.

use sqlx::{Connection as _, PgConnection};
use support::Database;

use crate::{
    administrator::Revocation,
    run::{Exchange, Race},
    way::Steps,
};

/// A write that was sent after the revocation of its permission was acknowledged.
#[derive(Debug)]
pub struct Violation {
    /// The check and the write.
    pub steps: Steps,
    /// The revocation between them.
    pub revocation: Revocation,
    /// How many writes to the document are stored.
    pub stored: i64,
}

impl Violation {
    /// Returns the clearest violation of a race. Only [`Way::OnThePool`](crate::Way::OnThePool)
    /// records what is needed to find one.
    ///
    /// # Errors
    ///
    /// Returns an error if the database cannot be read.
    pub async fn find(race: &Race, database: &Database) -> Result<Option<Self>, sqlx::Error> {
        let overtaken = race
            .exchanges
            .iter()
            .filter_map(|exchange| overtaken(exchange, race));
        let clearest =
            overtaken.max_by(|(_, a, b), (_, c, d)| clarity(a, b).total_cmp(&clarity(c, d)));
        let Some((document, steps, revocation)) = clearest else {
            return Ok(None);
        };
        let mut connection = PgConnection::connect_with(&database.options()).await?;
        let stored = sqlx::query_scalar("SELECT count(*) FROM writes WHERE document = $1")
            .bind(document)
            .fetch_one(&mut connection)
            .await?;
        connection.close().await?;
        Ok(Some(Self {
            steps,
            revocation,
            stored,
        }))
    }
}

fn overtaken(exchange: &Exchange, race: &Race) -> Option<(i64, Steps, Revocation)> {
    let steps = exchange.steps?;
    let document = exchange.write.document;
    let revocation = *race.revocations.get(&document)?;
    (revocation.acknowledged < steps.write_sent).then_some((document, steps, revocation))
}

/// Returns the shortest part as a fraction of the whole. It is 0 if the revocation began before the
/// check was done.
fn clarity(steps: &Steps, revocation: &Revocation) -> f64 {
    let parts = [
        steps.check_done - steps.check_sent,
        revocation
            .begin_sent
            .saturating_duration_since(steps.check_done),
        steps.write_sent - revocation.acknowledged,
        steps.write_done - steps.write_sent,
    ];
    let shortest = parts.into_iter().min().unwrap_or_default();
    shortest.div_duration_f64(steps.write_done - steps.check_sent)
}
