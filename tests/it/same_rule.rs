//! One SQL rule decides the same as the policy of a layer and as a condition of a write.

use std::collections::BTreeMap;

use axum::extract::Path;
use http::StatusCode;
use sqlx::{AssertSqlSafe, PgExecutor};
use tower_interlock::{Condition, ConditionalWrite, Denied, Error, Tx};

use crate::kit::{Kit, guarded, put, test};

/// The owner may edit, and users with a share for editing. $1 is the user, $2 the file.
const MAY_EDIT: &str = "SELECT owner = $1 OR EXISTS (SELECT 1 FROM shares WHERE user_id = $1 AND file_id = $2 AND can_edit)
     FROM files WHERE id = $2";

/// The file has the version $3 that the user has seen.
const UNCHANGED: &str = "SELECT version = $3 AND $1 IS NOT NULL FROM files WHERE id = $2";

static EDIT: ConditionalWrite = ConditionalWrite::new(
    "UPDATE files SET edits = edits + 1 WHERE id = $2 AND {conditions}",
    &[
        Condition::permitted(MAY_EDIT),
        Condition::current(UNCHANGED),
    ],
);

/// The state of the file, and the request. `None` is NULL.
#[derive(Debug, Clone, Copy)]
struct Case {
    exists: bool,
    owner: Option<i64>,
    share: Option<Option<bool>>,
    version: Option<i64>,
    user: Option<i64>,
    seen: Option<i64>,
}

impl Case {
    fn random(random: &mut fastrand::Rng) -> Self {
        let maybe =
            |random: &mut fastrand::Rng| random.choice([None, Some(1), Some(1), Some(2)]).flatten();
        Self {
            exists: random.u8(..8) > 0,
            owner: maybe(random),
            share: random
                .choice([None, Some(None), Some(Some(true)), Some(Some(false))])
                .flatten(),
            version: maybe(random),
            user: maybe(random),
            seen: maybe(random),
        }
    }

    /// The expected decision.
    fn expected(self) -> StatusCode {
        let same = |a: Option<i64>, b| a.is_some() && a == b;
        let shared = self.user == Some(1) && self.share == Some(Some(true));
        if !self.exists || !(same(self.owner, self.user) || shared) {
            StatusCode::FORBIDDEN
        } else if same(self.version, self.seen) {
            StatusCode::OK
        } else {
            StatusCode::PRECONDITION_FAILED
        }
    }

    async fn store(self, kit: &Kit) {
        let (owner, version) = (text(self.owner), text(self.version));
        let mut sql = "DELETE FROM shares; DELETE FROM files;".to_owned();
        if self.exists {
            sql += &format!("INSERT INTO files VALUES (1, {owner}, {version}, 0);");
        }
        if let Some(can_edit) = self.share {
            sql += &format!("INSERT INTO shares VALUES (1, 1, {});", text(can_edit));
        }
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&kit.outside)
            .await
            .unwrap();
    }
}

fn text(value: Option<impl ToString>) -> String {
    value.map_or("NULL".to_owned(), |value| value.to_string())
}

async fn holds(
    rule: &'static str,
    case: Case,
    on: impl PgExecutor<'_>,
) -> Result<Option<bool>, Error> {
    let mut query = sqlx::query_scalar(rule).bind(case.user).bind(1_i64);
    if rule == UNCHANGED {
        query = query.bind(case.seen);
    }
    let decision: Option<Option<bool>> = query.fetch_optional(on).await?;
    Ok(decision.flatten())
}

/// The status of the layer's response.
async fn by_layer(kit: &Kit, case: Case) -> StatusCode {
    let policy = async move |mut tx: Tx| {
        Denied::unless(holds(MAY_EDIT, case, &mut tx).await?, "may not edit")?;
        Ok::<_, Error>(())
    };
    let handler = async move |_: Path<i64>, mut tx: Tx| {
        if holds(UNCHANGED, case, &mut tx).await? != Some(true) {
            return Err(Error::precondition_failed());
        }
        sqlx::query("UPDATE files SET edits = edits + 1 WHERE id = 1")
            .execute(&mut tx)
            .await?;
        Ok(())
    };
    let app = guarded(kit.interlock.require(policy), handler);
    put(&app, "/1", "").await.status
}

/// The status of the conditional write's response.
async fn by_write(kit: &Kit, case: Case) -> StatusCode {
    let edit = EDIT.bind(case.user).bind(1_i64).bind(case.seen);
    match edit.execute(&kit.interlock).await {
        Ok(_) => StatusCode::OK,
        Err(error) => error.status(),
    }
}

#[test]
fn layer_and_write_decide_alike() {
    const CASES: usize = 400;
    test(async |kit: Kit| {
        kit.database
            .run(
                "CREATE TABLE files (id INT8 PRIMARY KEY, owner INT8, version INT8, edits INT8 NOT NULL);
                 CREATE TABLE shares (user_id INT8, file_id INT8, can_edit BOOL, PRIMARY KEY (user_id, file_id))",
            )
            .await;
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut decisions = BTreeMap::new();
        for _ in 0..CASES {
            let case = Case::random(&mut random);
            let expected = case.expected();
            case.store(&kit).await;
            assert_eq!(by_layer(&kit, case).await, expected, "layer: {case:?}");
            assert_eq!(by_write(&kit, case).await, expected, "write: {case:?}");
            let edits: i64 = sqlx::query_scalar("SELECT coalesce(sum(edits), 0)::INT8 FROM files")
                .fetch_one(&kit.outside)
                .await
                .unwrap();
            let written = expected == StatusCode::OK;
            assert_eq!(edits, 2 * i64::from(written), "{case:?}");
            *decisions.entry(expected.as_u16()).or_insert(0) += 1;
        }
        println!("{decisions:?}");
        assert_eq!(decisions.len(), 3);
    });
}
