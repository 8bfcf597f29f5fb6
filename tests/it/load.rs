//! Five hundred concurrent requests on five connections. Clients disconnect, policies, handlers and
//! hooks panic, and work takes longer than its deadline.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use axum::{Router, extract::Path, http::StatusCode, routing::put};
use sqlx::PgPool;
use support::traffic::{self, End, Fate, Hooks, Sent};
use tokio::time::timeout;
use tower_interlock::{Error, ErrorKind};

use crate::kit::{Kit, test_with_pool};

const CONNECTIONS: u32 = 5;
/// How much later than its deadline a request may end on a busy machine.
const SLACK: Duration = Duration::from_secs(2);

fn wave(number: i64) -> Range<i64> {
    const REQUESTS: i64 = 500;
    number * REQUESTS..(number + 1) * REQUESTS
}

/// The hand-written service loses writes with these two fates alone.
fn is_left_or_alone(request: &i64) -> bool {
    matches!(Fate::of(*request), Fate::Left | Fate::Alone)
}

fn response_of(sent: &Sent) -> Option<(StatusCode, Option<ErrorKind>)> {
    let End::Responded(response) = &sent.end else {
        return None;
    };
    let error = response.extensions().get::<Error>();
    Some((response.status(), error.map(Error::kind)))
}

fn has_succeeded(sent: &Sent) -> bool {
    response_of(sent) == Some((StatusCode::OK, None))
}

/// Asserts that the request ended by its fate, or because there was no connection.
fn assert_fate(sent: &Sent) {
    let fits = match (sent.fate, &sent.end) {
        (Fate::Panics, End::Panicked) | (Fate::Left, End::Left) => true,
        (_, End::Panicked | End::Left) => false,
        (fate, End::Responded(_)) => match response_of(sent) {
            Some((StatusCode::SERVICE_UNAVAILABLE, Some(ErrorKind::Unavailable))) => true,
            Some((StatusCode::SERVICE_UNAVAILABLE, Some(ErrorKind::DeadlineExceeded))) => {
                fate == Fate::Outlasted
            }
            Some((StatusCode::FORBIDDEN, Some(ErrorKind::Denied))) => fate == Fate::Denied,
            Some((StatusCode::OK, None)) => {
                !matches!(fate, Fate::Denied | Fate::Panics | Fate::Outlasted)
            }
            _ => false,
        },
    };
    assert!(fits, "{:?}: {:?}", sent.fate, response_of(sent));
    assert!(
        sent.took <= sent.fate.deadline() + SLACK,
        "{:?} has taken {:?}",
        sent.fate,
        sent.took
    );
}

fn print(sent: &[Sent]) {
    let mut ends = BTreeMap::<_, usize>::new();
    for sent in sent {
        let end = match &sent.end {
            End::Responded(response) => response.status().to_string(),
            End::Panicked => "a panic".to_owned(),
            End::Left => "no response".to_owned(),
        };
        *ends.entry((sent.fate, end)).or_default() += 1;
    }
    for ((fate, end), times) in ends {
        println!("{fate:?}: {times} x {end}");
    }
    let longest = sent.iter().map(|sent| sent.took).max();
    println!("the longest took {:?}", longest.unwrap_or_default());
}

/// The stored requests. Fails if half of a request is stored, or one is stored twice.
async fn stored(kit: &Kit) -> BTreeSet<i64> {
    let halves = sqlx::query_as("SELECT request, count(*) FROM written GROUP BY request");
    let halves: Vec<(i64, i64)> = halves.fetch_all(&kit.outside).await.unwrap();
    assert!(halves.iter().all(|(_, halves)| *halves == 2));
    halves.into_iter().map(|(request, _)| request).collect()
}

#[test]
fn every_request_ends_in_time_and_is_stored_iff_committed() {
    test_with_pool(CONNECTIONS, async |kit: Kit| {
        kit.database.run(traffic::SCHEMA).await;
        let hooks = Hooks::default();
        let app = traffic::app(&kit.interlock, &hooks);
        let mut sent = Vec::new();
        for number in 0..4 {
            sent.extend(traffic::send(&app, wave(number)).await);
        }
        // The same with handoff.
        let with_handoff = kit.builder().handoff(true).build();
        let app = traffic::app(&with_handoff, &hooks);
        for number in 4..8 {
            sent.extend(traffic::send(&app, wave(number)).await);
        }
        for number in 8..34 {
            sent.extend(traffic::send(&app, wave(number).filter(is_left_or_alone)).await);
        }
        kit.interlock.drain().await;
        with_handoff.drain().await;
        sent.iter().for_each(assert_fate);
        print(&sent);

        let committed = hooks.lock().unwrap().clone();
        let once: BTreeSet<_> = committed.iter().copied().collect();
        assert_eq!(committed.len(), once.len(), "a hook has run twice");
        let succeeded = |alone: bool| {
            let sent = sent.iter().filter(|sent| has_succeeded(sent));
            let sent = sent.filter(move |sent| (sent.fate == Fate::Alone) == alone);
            sent.map(|sent| sent.request).collect::<BTreeSet<_>>()
        };
        let reported = succeeded(false);
        assert!(reported.is_subset(&once));
        let unreported = once.difference(&reported);
        assert!(
            unreported
                .copied()
                .map(Fate::of)
                .all(|fate| fate == Fate::Left),
            "an error was reported for a committed request"
        );
        assert_eq!(stored(&kit).await, &once | &succeeded(true));
    });
}

/// A service that times out its own work and commits its own transactions.
fn by_hand(pool: &PgPool) -> Router {
    async fn work(pool: &PgPool, request: i64) -> Result<StatusCode, sqlx::Error> {
        let serializable = "BEGIN ISOLATION LEVEL SERIALIZABLE";
        let mut tx = pool.begin_with(serializable).await?;
        if !traffic::check(&mut *tx, request).await? {
            return Ok(StatusCode::FORBIDDEN);
        }
        traffic::write(&mut *tx, request).await?;
        tx.commit().await?;
        Ok(StatusCode::OK)
    }
    async fn work_alone(pool: &PgPool, request: i64) -> Result<StatusCode, sqlx::Error> {
        let write = sqlx::query("INSERT INTO written VALUES ($1, 0), ($1, 1)");
        write.bind(request).execute(pool).await?;
        Ok(StatusCode::OK)
    }
    let pool = pool.clone();
    let handler = async move |Path(request): Path<i64>| {
        let fate = Fate::of(request);
        let work = async {
            match fate {
                Fate::Alone => work_alone(&pool, request).await,
                _ => work(&pool, request).await,
            }
        };
        match timeout(fate.deadline(), work).await {
            Ok(Ok(status)) => status,
            Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    };
    let handler = put(handler);
    Router::new()
        .route("/{request}", handler.clone())
        .route("/alone/{request}", handler.clone())
        .route("/hurried/{request}", handler)
}

/// A client disconnects during BEGIN, and its connection goes back to the pool. The write of
/// another request then becomes part of that transaction, which is never committed.
#[test]
fn hand_written_transactions_lose_acknowledged_writes() {
    const WAVES: i64 = 40;
    test_with_pool(1, async |kit: Kit| {
        kit.database.run(traffic::SCHEMA).await;
        let mut acknowledged = 0;
        for number in 0..WAVES {
            let pool = kit.database.pool(CONNECTIONS).await;
            let sent = wave(number).filter(is_left_or_alone);
            let sent = traffic::send(&by_hand(&pool), sent).await;
            pool.close().await;

            let succeeded = sent.iter().filter(|sent| has_succeeded(sent));
            let succeeded: BTreeSet<_> = succeeded.map(|sent| sent.request).collect();
            acknowledged += succeeded.len();
            let lost = succeeded.difference(&stored(&kit).await).count();
            if lost > 0 {
                println!("{lost} of {acknowledged} acknowledged writes are lost");
                return;
            }
        }
        panic!("no write was lost in {WAVES} waves: has sqlx fixed it?");
    });
}
