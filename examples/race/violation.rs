//! One violation of a race, to look at closely.

use sqlx::{Connection as _, PgConnection};
use support::Database;

use super::{
    administrator::Revocation,
    run::{Answer, Race},
    ways::Steps,
};

/// A write that was not even sent before its revocation was acknowledged.
pub(crate) struct Violation {
    pub(crate) steps: Steps,
    pub(crate) revocation: Revocation,
    /// How many writes to the same document are stored.
    pub(crate) stored: i64,
}

impl Violation {
    /// The plainest of a race. Only [`OnThePool`](super::ways::Way::OnThePool) notes what it takes to
    /// find one.
    ///
    /// # Errors
    ///
    /// Those of the database.
    pub(crate) async fn find(
        race: &Race,
        database: &Database,
    ) -> Result<Option<Self>, sqlx::Error> {
        let overtaken = race
            .answers
            .iter()
            .filter_map(|answer| overtaken(answer, race));
        let plainest =
            overtaken.max_by(|(_, a, b), (_, c, d)| plainness(a, b).total_cmp(&plainness(c, d)));
        let Some((document, steps, revocation)) = plainest else {
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

fn overtaken(answer: &Answer, race: &Race) -> Option<(i64, Steps, Revocation)> {
    let steps = answer.steps?;
    let document = answer.write.document;
    let revocation = *race.revocations.get(&document)?;
    (revocation.acknowledged < steps.write_sent).then_some((document, steps, revocation))
}

/// How much of the whole its shortest part is. A revocation that began before the check was answered
/// is not plain at all.
fn plainness(steps: &Steps, revocation: &Revocation) -> f64 {
    let parts = [
        steps.check_answered - steps.check_sent,
        revocation
            .begin_sent
            .saturating_duration_since(steps.check_answered),
        steps.write_sent - revocation.acknowledged,
        steps.write_answered - steps.write_sent,
    ];
    let shortest = parts.into_iter().min().unwrap_or_default();
    shortest.div_duration_f64(steps.write_answered - steps.check_sent)
}
