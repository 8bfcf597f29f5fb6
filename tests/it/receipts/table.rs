//! The table.

use axum::{Router, body::Body, extract::Path, http::Request, routing::post};
use sqlx::AssertSqlSafe;
use support::{Fault, Kind, Moment, Proxy};
use tower_interlock::{Error, ErrorKind, Interlock, Tx, schema};

use super::{
    EFFECTS, assert_created, count_effects, effects, idempotent, keyed, make_tables, prepare,
    with_receipts,
};
use crate::kit::{anyone, send, test};

#[test]
fn schema_can_be_run_again() {
    test(async |kit| {
        kit.database.run(schema::RECEIPTS).await;
        kit.database.run(schema::RECEIPTS).await;
    });
}

#[test]
fn missing_or_outdated_table_is_misconfigured_until_it_is_there() {
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let interlock = with_receipts(kit.builder()).build();
        let app = effects(interlock.require(anyone));
        let request = || Request::post("/effects/1").body(Body::empty()).unwrap();
        send(&app, request())
            .await
            .assert_problem(ErrorKind::Misconfigured);
        let transacted = interlock.transact(async |mut tx: Tx| {
            sqlx::query("SELECT 1").execute(&mut tx).await?;
            Ok::<_, Error>(())
        });
        assert_eq!(
            transacted.await.unwrap_err().kind(),
            ErrorKind::Misconfigured
        );
        kit.database
            .run("CREATE TABLE interlock_receipts (key BYTEA PRIMARY KEY)")
            .await;
        send(&app, request())
            .await
            .assert_problem(ErrorKind::Misconfigured);
        kit.database.run("DROP TABLE interlock_receipts").await;
        kit.database.run(schema::RECEIPTS).await;
        assert_created(&send(&app, request()).await, 1);
    });
}

#[test]
fn without_receipts_the_table_is_not_needed() {
    test(async |kit| {
        kit.database.run(EFFECTS).await;
        let app = effects(kit.interlock.require(anyone));
        let request = Request::post("/effects/1").body(Body::empty()).unwrap();
        assert_created(&send(&app, request).await, 1);
    });
}

/// A write without its receipt would not be there for the next copy.
#[test]
fn receipt_that_cannot_be_stored_undoes_the_write() {
    test(async |kit| {
        let interlock = prepare(&kit).await;
        let app = idempotent(&interlock);
        assert_created(&send(&app, keyed(1, "a")).await, 1);
        kit.database
            .run("ALTER TABLE interlock_receipts ADD CONSTRAINT no_posts CHECK (method <> 'POST') NOT VALID")
            .await;
        let response = send(&app, keyed(2, "b")).await;
        assert!(
            response.status.is_server_error() || response.status == 409,
            "{}",
            response.status
        );
        assert_eq!(count_effects(&kit, 2).await, 0);
        // What was done before can still be replayed.
        assert_created(&send(&app, keyed(1, "a")).await, 1);
    });
}

/// The table belongs to the schema in which the first connection has found it: a fence on another
/// connection must not look elsewhere than the store.
#[test]
fn request_that_changes_its_search_path_or_hides_the_table_uses_the_same_one() {
    const HIDE: [&str; 2] = [
        "SELECT set_config('search_path', 'tenant, public', true)",
        "CREATE TEMP TABLE interlock_receipts AS SELECT 1 AS key",
    ];
    for hide in HIDE {
        test(async |kit| {
            if kit.database.kind() == Kind::CockroachDb && hide.starts_with("CREATE") {
                eprintln!("not tested: temporary tables are a setting of CockroachDB");
                return;
            }
            make_tables(&kit).await;
            kit.database.run("CREATE SCHEMA tenant").await;
            let table = "TABLE IF NOT EXISTS ";
            let copy = schema::RECEIPTS.replace(table, &format!("{table}tenant."));
            let copy = copy.replace("ON interlock_receipts", "ON tenant.interlock_receipts");
            sqlx::raw_sql(AssertSqlSafe(copy))
                .execute(&kit.outside)
                .await
                .unwrap();
            let proxy = Proxy::start(&kit.database);
            let pool = Interlock::pool_options().max_connections(2);
            let pool = pool.connect_lazy_with(proxy.options());
            let interlock = with_receipts(Interlock::builder(pool)).build();
            let handler = async move |Path(request): Path<i64>, mut tx: Tx| {
                sqlx::query(hide).execute(&mut tx).await?;
                let effect = "INSERT INTO public.effects (request) VALUES ($1)";
                sqlx::query(effect).bind(request).execute(&mut tx).await?;
                Ok::<_, Error>("done")
            };
            let layer = interlock.require(anyone).idempotent();
            let app = Router::new().route("/effects/{request}", post(handler).route_layer(layer));
            proxy.inject(Moment::Commit, Fault::CutAfter);
            for _ in 0..2 {
                let response = send(&app, keyed(1, "a")).await;
                assert_eq!(
                    (response.status.as_u16(), &*response.body),
                    (200, "done"),
                    "{hide}"
                );
            }
            interlock.drain().await;
            assert_eq!(count_effects(&kit, 1).await, 1, "{hide}");
        });
    }
}
