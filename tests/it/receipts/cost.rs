//! The cost, counted on the wire.

use axum::Router;
use support::Proxy;
use tower_interlock::{Interlock, InterlockBuilder};

use super::{effects, keyed, make_tables, with_receipts};
use crate::kit::{Kit, anyone, send, test};

/// The round trips of requests whose connection has prepared everything.
async fn round_trips(
    kit: &Kit,
    app: impl Fn(InterlockBuilder) -> Router,
    keys: &[&str],
) -> Vec<usize> {
    let proxy = Proxy::start(&kit.database);
    let pool = Interlock::pool_options().max_connections(1);
    let builder = Interlock::builder(pool.connect_lazy_with(proxy.options())).handoff(true);
    let app = app(builder);
    let mut counted = Vec::new();
    for key in ["warm", "up"].iter().chain(keys) {
        let before = proxy.counts().round_trips;
        assert_eq!(send(&app, keyed(1, key)).await.status, 201);
        counted.push(proxy.counts().round_trips - before);
    }
    counted.split_off(2)
}

#[test]
fn receipt_costs_one_round_trip_and_a_key_one_more() {
    test(async |kit| {
        make_tables(&kit).await;
        let plain = |builder: InterlockBuilder| effects(builder.build().require(anyone));
        let receipts = |builder| effects(with_receipts(builder).build().require(anyone));
        let keys = |builder| effects(with_receipts(builder).build().require(anyone).idempotent());
        // BEGIN, INSERT, COMMIT.
        assert_eq!(round_trips(&kit, plain, &["a"]).await, [3]);
        assert_eq!(round_trips(&kit, receipts, &["a"]).await, [4]);
        // A request that is replayed only looks.
        assert_eq!(round_trips(&kit, keys, &["a", "a"]).await, [5, 1]);
    });
}
