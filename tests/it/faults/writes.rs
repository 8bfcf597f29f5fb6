//! Every fault at every moment of a conditional write.

use std::time::Instant;

use sqlx::{AssertSqlSafe, Executor as _};
use support::{Fault, Kind, Moment, ServerError};
use tokio::time::timeout;
use tower_interlock::{Condition, ConditionalWrite, ErrorKind};

use super::{
    ATTEMPTS, GRACE, LONG, SHORT,
    catalogue::{ALWAYS, CUTS, FATAL, SILENT, TEXT, taken_for},
    cell::{POOL, SLACK, behind_a_proxy, compare, gives_up, prepare},
};
use crate::{
    kit::{self, Kit, test},
    model::write::{REASON, Scene, WRITE, Write, predict},
};

static GRANTED: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO effects SELECT $1, 0 WHERE {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $1)",
    )],
);

/// A write that finds no row.
static NOTHING: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO effects SELECT $1, 0 FROM documents WHERE id = -1 AND {conditions}",
    &[Condition::permitted(
        "EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $1)",
    )],
);

/// Its condition is false for the write and true for the diagnosis.
static LATER: ConditionalWrite = ConditionalWrite::new(
    "INSERT INTO effects SELECT $1, 0 WHERE {conditions}",
    &[Condition::permitted("nextval('sights_' || $1::TEXT) > 1")],
);

const ERRORS: [&str; 17] = [
    "40001", "40P01", "40003", "08006", "08P01", "23505", "25006", "42501", "53100", "53300",
    "55P03", "57014", "57P01", "58030", "58C00", "XX000", "XXUUU",
];

#[test]
fn conditional_write_with_unknown_outcome_is_not_retried() {
    test(async |kit| {
        prepare(&kit).await;
        compare(&kit, cells(kit.database.kind()), difference).await;
    });
}

fn cells(server: Kind) -> Vec<Write> {
    use Scene::{False, Nothing, True, TrueMeanwhile};
    let mut cells = Vec::new();
    let mut add = |server, scene, moment: &Moment, fault: &Fault, times, deadline| {
        cells.push(Write {
            scene,
            server,
            pool: POOL,
            max_attempts: ATTEMPTS,
            deadline,
            grace: GRACE,
            strike: (moment.clone(), fault.clone(), times),
        });
    };
    let rejected = ERRORS.map(|code| Fault::Reject(ServerError::error(code, TEXT)));
    let terminated = FATAL.map(|code| Fault::Terminate(ServerError::fatal(code, TEXT)));
    let heard: Vec<_> = CUTS.into_iter().chain(rejected).chain(terminated).collect();
    for (scene, moment) in [
        (True, WRITE),
        (False, WRITE),
        (False, REASON),
        (Nothing, Moment::Begin),
        (Nothing, Moment::Statement(1)),
        (Nothing, Moment::Statement(2)),
        (Nothing, Moment::Rollback),
        (TrueMeanwhile, Moment::Commit),
    ] {
        let commits = moment == Moment::Commit || (scene, &moment) == (True, &WRITE);
        let servers = if commits {
            taken_for(server)
        } else {
            vec![server]
        };
        for server in servers {
            for fault in &heard {
                let retried =
                    matches!(fault, Fault::Reject(error) if error.code().starts_with("40"));
                add(server, scene, &moment, fault, 1, LONG);
                if retried || moment == Moment::Begin {
                    add(server, scene, &moment, fault, ALWAYS, LONG);
                }
            }
            for fault in &SILENT {
                add(server, scene, &moment, fault, 1, SHORT);
            }
            if commits {
                let lies = FATAL.map(|code| ServerError::fatal(code, TEXT));
                for error in lies {
                    add(server, scene, &moment, &Fault::Misreport(error), 1, LONG);
                }
            }
        }
    }
    cells
}

/// How a write differs from its prediction.
async fn difference(cell: Write, kit: Kit, who: i64) -> Option<String> {
    let (kit, proxy) = behind_a_proxy(&kit, cell.server).await;
    let interlock = kit::builder(&kit.pool, who)
        .max_attempts(ATTEMPTS)
        .deadline(cell.deadline)
        .grace(GRACE)
        .build();
    let statement = match cell.scene {
        Scene::True | Scene::False => &GRANTED,
        Scene::Nothing => &NOTHING,
        Scene::TrueMeanwhile => &LATER,
    };
    if cell.scene != Scene::False {
        let grant = format!("INSERT INTO grants VALUES ({who}, {who})");
        kit.outside.execute(AssertSqlSafe(grant)).await.unwrap();
    }
    if cell.scene == Scene::TrueMeanwhile {
        let sights = format!("CREATE SEQUENCE sights_{who}");
        kit.outside.execute(AssertSqlSafe(sights)).await.unwrap();
    }
    let (moment, fault, times) = cell.strike.clone();
    proxy.inject_times(times as usize, moment, fault);
    let asked = Instant::now();
    let written = statement.bind(who).execute(&interlock).await;
    assert!(asked.elapsed() < cell.deadline + cell.grace + SLACK);
    let response = written.map(|rows| assert_eq!(rows, 1));
    let response = response.map_err(|error| error.kind());

    // A write without a reply is awaited as long as the connection exists.
    let late = matches!(cell.strike.1, Fault::Delay(_));
    if response == Err(ErrorKind::OutcomeUnknown) && !late {
        proxy.cut();
    }
    let drained = timeout(LONG, interlock.drain()).await;
    drained.expect("something hangs");
    proxy.relent();
    assert!(proxy.counts().faults > 0, "nothing went wrong");
    kit.assert_nothing_leaked().await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM effects WHERE request = $1")
        .bind(who)
        .fetch_one(&kit.outside)
        .await
        .unwrap();
    let (predicted, mut seen) = (predict(&cell), (response, rows as usize));
    if gives_up(&kit, &cell.strike) && seen.1 == 0 {
        seen.1 = predicted.1;
    }
    (seen != predicted).then(|| format!("  {predicted:?}\n  {seen:?}"))
}
