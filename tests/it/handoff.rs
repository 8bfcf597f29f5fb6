//! Connections that are passed from request to request, bypassing the pool.

mod next_begin;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    routing::put,
};
use futures::future::join_all;
use sqlx::PgPool;
use support::{Database, Fault, Moment, Proxy};
use tokio::{
    runtime,
    time::{sleep, timeout},
};
use tower_interlock::{Authorized, Condition, ConditionalWrite, Error, ErrorKind, Interlock, Tx};

use crate::kit::{self, CanEdit, Kit, can_edit, test, test_with_pool};

/// `PUT /1` goes through the layer, `PUT /conditional/1` is a conditional write.
fn app(interlock: &Interlock) -> Router {
    let update = async |can: Authorized<CanEdit>, mut tx: Tx| {
        let update = sqlx::query("UPDATE documents SET body = 'new' WHERE id = $1");
        update.bind(can.document).execute(&mut tx).await?;
        Ok::<_, Error>(())
    };
    Router::new()
        .route(
            "/{id}",
            put(update).route_layer(interlock.require(can_edit)),
        )
        .route("/conditional/{id}", put(conditional))
        .with_state(interlock.clone())
}

async fn conditional(
    Path(document): Path<i64>,
    State(interlock): State<Interlock>,
) -> Result<(), Error> {
    static UPDATE: ConditionalWrite = ConditionalWrite::new(
        "UPDATE documents SET body = 'new' WHERE id = $1 AND {conditions}",
        &[Condition::permitted(
            "EXISTS (SELECT 1 FROM grants WHERE user_id = 1 AND document_id = $1)",
        )],
    );
    UPDATE.bind(document).execute(&interlock).await?;
    Ok(())
}

/// A proxy, and a pool of one connection through it.
fn behind_a_proxy(database: &Database) -> (Proxy, PgPool) {
    let proxy = Proxy::start(database);
    let options = Interlock::pool_options().max_connections(1);
    let pool = options.connect_lazy_with(proxy.options());
    (proxy, pool)
}

/// The number of pings of the connection while many requests waited for it.
async fn pings(app: &Router, proxy: &Proxy, path: &str) -> usize {
    assert_eq!(kit::put(app, path, "").await.status, StatusCode::OK);
    sleep(Duration::from_millis(50)).await;
    let before = proxy.counts().pings;
    for response in join_all((0..WAITING).map(|_| kit::put(app, path, ""))).await {
        assert_eq!(response.status, StatusCode::OK);
    }
    sleep(Duration::from_millis(50)).await;
    proxy.counts().pings - before
}

const WAITING: usize = 24;

#[test]
fn connection_goes_to_waiting_request_without_ping() {
    test(async |kit: Kit| {
        for path in ["/1", "/conditional/1"] {
            let (proxy, pool) = behind_a_proxy(&kit.database);
            let through_the_pool = pings(&app(&Interlock::new(pool)), &proxy, path).await;
            assert_eq!(through_the_pool, WAITING);

            let (proxy, pool) = behind_a_proxy(&kit.database);
            let interlock = Interlock::builder(pool).handoff(true).build();
            let handed_off = pings(&app(&interlock), &proxy, path).await;
            println!("{path}: {handed_off} pings instead of {through_the_pool}");
            assert!(handed_off <= WAITING / 2);
        }
    });
}

/// Sends requests without a break, as long as they succeed, until `meanwhile` has ended.
async fn while_busy<T>(app: &Router, meanwhile: impl Future<Output = T>) -> (T, usize) {
    let done = Arc::new(AtomicBool::new(false));
    let clients = [(); 4].map(|()| {
        let (app, done) = (app.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut succeeded = 0;
            while !done.load(Ordering::Relaxed)
                && kit::put(&app, "/1", "").await.status == StatusCode::OK
            {
                succeeded += 1;
            }
            succeeded
        })
    });
    sleep(Duration::from_millis(200)).await;
    let result = meanwhile.await;
    done.store(true, Ordering::Relaxed);
    let succeeded = join_all(clients).await.into_iter().map(Result::unwrap);
    (result, succeeded.sum())
}

#[test]
fn waiter_at_pool_is_not_starved() {
    test_with_pool(1, async |kit: Kit| {
        let app = app(&kit.builder().handoff(true).build());
        let outsider = async {
            for _ in 0..5 {
                let acquired = timeout(Duration::from_secs(3), kit.pool.acquire()).await;
                drop(acquired.expect("starved").unwrap());
            }
        };
        let ((), succeeded) = while_busy(&app, outsider).await;
        assert!(succeeded > 20, "only {succeeded} requests ran meanwhile");
    });
}

#[test]
fn closed_pool_gets_its_connections_back() {
    test_with_pool(1, async |kit: Kit| {
        let app = app(&kit.builder().handoff(true).build());
        let closed = timeout(Duration::from_secs(3), kit.pool.close());
        let (closed, _) = while_busy(&app, closed).await;
        closed.expect("a connection was kept from it");
        kit::put(&app, "/1", "")
            .await
            .assert_problem(ErrorKind::Unavailable);
    });
}

#[test]
fn pool_hooks_run_when_connection_returns() {
    test(async |kit: Kit| {
        let released = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&released);
        let pool = Interlock::pool_options()
            .max_connections(1)
            .after_release(move |_, _| {
                count.fetch_add(1, Ordering::Relaxed);
                Box::pin(async { Ok(true) })
            })
            .connect_lazy_with(kit.database.options());
        let app = app(&Interlock::builder(pool.clone()).handoff(true).build());
        join_all((0..WAITING).map(|_| kit::put(&app, "/1", ""))).await;
        drop(pool.acquire().await.unwrap());
        let released = released.load(Ordering::Relaxed);
        assert!((1..=WAITING / 2).contains(&released), "{released}");
    });
}

#[test]
fn broken_connection_is_not_handed_off() {
    test(async |kit: Kit| {
        for (path, moment) in [
            ("/1", Moment::Commit),
            ("/conditional/1", Moment::Text("UPDATE documents")),
        ] {
            let (proxy, pool) = behind_a_proxy(&kit.database);
            let app = app(&Interlock::builder(pool).handoff(true).build());
            assert_eq!(kit::put(&app, path, "").await.status, StatusCode::OK);
            proxy.inject(moment, Fault::CutAfter);
            let responses = join_all((0..WAITING).map(|_| kit::put(&app, path, ""))).await;
            let (stored, unknown): (Vec<_>, Vec<_>) = responses
                .into_iter()
                .partition(|response| response.status == StatusCode::OK);
            assert_eq!(stored.len(), WAITING - 1);
            // One other connection is opened, although many requests wait.
            assert_eq!(proxy.counts().connections, 2);
            unknown
                .iter()
                .for_each(|response| response.assert_problem(ErrorKind::OutcomeUnknown));
        }
    });
}

/// A connection that is being opened is not dropped if another one becomes free first.
#[test]
fn connection_being_made_is_not_dropped() {
    const CONNECTIONS: u32 = 4;
    test(async |kit: Kit| {
        for _ in 0..10 {
            let proxy = Proxy::start(&kit.database);
            let options = Interlock::pool_options().max_connections(CONNECTIONS);
            let app = app(
                &Interlock::builder(options.connect_lazy_with(proxy.options()))
                    .handoff(true)
                    .build(),
            );
            join_all((0..4 * WAITING).map(|_| kit::put(&app, "/1", ""))).await;
            let made = proxy.counts().connections;
            assert!(made <= CONNECTIONS as usize, "{made} connections");
        }
    });
}

/// A connection that was being passed on when its runtime was shut down returns to the pool.
#[test]
fn interlock_outlives_its_runtime() {
    let runtime = || {
        let mut builder = runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    test(async move |kit: Kit| {
        let done = tokio::task::spawn_blocking(move || {
            let options = Interlock::pool_options().max_connections(1);
            let pool = options.connect_lazy_with(kit.database.options());
            let app = app(&Interlock::builder(pool.clone()).handoff(true).build());
            for _ in 0..3 {
                let response = runtime().block_on(kit::put(&app, "/1", ""));
                assert_eq!(response.status, StatusCode::OK, "{:?}", response.error());
                drop(runtime().block_on(pool.acquire()).unwrap());
            }
        });
        done.await.unwrap();
    });
}
