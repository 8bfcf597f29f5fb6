//! The look at what a policy reads, in its first runs.

use axum::Router;
use sqlx::{AssertSqlSafe, Executor as _};
use support::{Kind, Proxy};
use tower_interlock::{AuthorizeLayer, Denied, Error, ErrorKind, Interlock, Tx};

use crate::kit::{Kit, Log, TestResponse, anyone, guarded, put, test, traced};

/// How many runs are looked at.
const LOOKS: usize = 8;

const TABLE: &str = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = 1)";

/// Requires that `rule` is true.
fn require(interlock: &Interlock, rule: &'static str) -> AuthorizeLayer {
    let policy = move |mut tx: Tx| async move {
        let allowed: bool = sqlx::query_scalar(rule).fetch_one(&mut tx).await?;
        Denied::unless(allowed, "not allowed")?;
        Ok::<_, Error>(())
    };
    interlock.require(policy).named("documents.edit")
}

/// Writes document 1.
async fn edit(mut tx: Tx) -> Result<(), Error> {
    sqlx::query("UPDATE documents SET body = 'new' WHERE id = 1")
        .execute(&mut tx)
        .await?;
    Ok(())
}

fn app(kit: &Kit, rule: &'static str) -> Router {
    guarded(require(&kit.interlock, rule), edit)
}

/// Puts twice, and returns both responses and what was logged.
async fn put_twice(app: &Router) -> ([TestResponse; 2], Log) {
    traced(async { [put(app, "/1", "").await, put(app, "/1", "").await] }).await
}

fn is_postgres(kit: &Kit) -> bool {
    let is_postgres = kit.database.kind() == Kind::PostgreSql;
    if !is_postgres {
        println!("not tested: the look is for PostgreSQL");
    }
    is_postgres
}

/// An interlock behind a proxy, which counts the looks.
fn behind_a_proxy(kit: &Kit) -> (Interlock, Proxy) {
    let proxy = Proxy::start(&kit.database);
    let pool = Interlock::pool_options().connect_lazy_with(proxy.options());
    (Interlock::new(pool), proxy)
}

#[test]
fn policy_is_looked_at_in_its_first_runs_only() {
    test(async |kit| {
        if !is_postgres(&kit) {
            return;
        }
        let (interlock, proxy) = behind_a_proxy(&kit);
        let app = guarded(require(&interlock, TABLE), edit);
        for _ in 0..LOOKS + 3 {
            assert_eq!(put(&app, "/1", "").await.status, 200);
        }
        let counts = proxy.counts();
        assert_eq!(counts.looks, LOOKS);
        // Another layer is another policy.
        let app = guarded(require(&interlock, TABLE), edit);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        assert_eq!(proxy.counts().looks, LOOKS + 1);
    });
}

#[test]
fn policy_that_denies_or_is_read_only_is_not_looked_at() {
    test(async |kit| {
        if !is_postgres(&kit) {
            return;
        }
        let (interlock, proxy) = behind_a_proxy(&kit);
        let denied = guarded(require(&interlock, "SELECT false"), edit);
        assert_eq!(put(&denied, "/1", "").await.status, 403);
        let reader = |mut tx: Tx| async move {
            let read: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut tx).await?;
            Ok::<_, Error>(read.to_string())
        };
        let reading = guarded(require(&interlock, TABLE).read_only(), reader);
        assert_eq!(put(&reading, "/1", "").await.status, 200);
        let nothing = guarded(interlock.require(anyone), edit);
        assert_eq!(put(&nothing, "/1", "").await.status, 200);
        assert_eq!(proxy.counts().looks, 0);
    });
}

#[test]
fn tracked_read_is_not_warned_of() {
    test(async |kit| {
        if !is_postgres(&kit) {
            return;
        }
        for rule in [
            TABLE,
            // The executor skips the second part.
            "SELECT EXISTS (SELECT 1 FROM documents) OR EXISTS (SELECT 1 FROM grants)",
            "SELECT NOT EXISTS (SELECT 1 FROM grants WHERE user_id = 77)",
            "SELECT 'grants'::REGCLASS IS NOT NULL AND current_user IS NOT NULL",
            "SELECT current_setting('transaction_isolation') = 'serializable'",
        ] {
            let (responses, log) = put_twice(&app(&kit, rule)).await;
            assert_eq!(
                responses.map(|response| response.status),
                [200, 200],
                "{rule}"
            );
            assert!(
                log.above_debug().is_empty(),
                "{rule}: {:?}",
                log.above_debug()
            );
        }
    });
}

#[test]
fn untracked_read_is_warned_of_once() {
    test(async |kit| {
        if !is_postgres(&kit) {
            return;
        }
        kit.outside
            .execute("CREATE SEQUENCE numbered")
            .await
            .unwrap();
        for (rule, name) in [
            ("SELECT last_value = 1 FROM numbered", "sequence numbered"),
            (
                "SELECT EXISTS (SELECT 1 FROM pg_authid)",
                "system catalog pg_authid",
            ),
            ("SELECT pg_has_role('pg_monitor', 'MEMBER')", "pg_has_role"),
            (
                "SELECT current_setting('app.admin', true) IS NULL",
                "current_setting",
            ),
        ] {
            let (responses, log) = put_twice(&app(&kit, rule)).await;
            assert_eq!(
                responses.map(|response| response.status),
                [200, 200],
                "{rule}"
            );
            let warned: Vec<_> = log
                .above_debug()
                .iter()
                .map(|event| (event.get("policy"), event.get("read")))
                .collect();
            assert_eq!(warned, [(Some("documents.edit"), Some(name))], "{rule}");
        }
    });
}

const FOREIGN: &str = "
    CREATE EXTENSION file_fdw;
    CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
    CREATE FOREIGN TABLE far (user_id INT8) SERVER files OPTIONS (program 'echo 1')";

#[test]
fn foreign_table_alone_is_rejected_every_time() {
    test(async |kit| {
        if !is_postgres(&kit) {
            return;
        }
        if let Err(error) = kit.outside.execute(FOREIGN).await {
            return println!("not tested: {error}");
        }
        let app = app(&kit, "SELECT EXISTS (SELECT 1 FROM far WHERE user_id = 1)");
        for _ in 0..LOOKS + 3 {
            let response = put(&app, "/1", "").await;
            assert_eq!(response.status, 500);
            assert_eq!(response.error().unwrap().kind(), ErrorKind::Misconfigured);
        }
        assert_ne!(kit.body(1).await, "new");
    });
}

#[test]
fn foreign_table_beside_a_table_is_warned_of() {
    test(async |kit| {
        if !is_postgres(&kit) {
            return;
        }
        if let Err(error) = kit.outside.execute(FOREIGN).await {
            return println!("not tested: {error}");
        }
        let rule = "SELECT EXISTS (SELECT 1 FROM far) FROM documents WHERE id = 1";
        let (responses, log) = put_twice(&app(&kit, rule)).await;
        assert_eq!(responses.map(|response| response.status), [200, 200]);
        let warned = log.above_debug();
        assert_eq!(warned.len(), 1, "{warned:?}");
        assert_eq!(warned[0].get("read"), Some("foreign table far"));
    });
}

/// A look without the privileges for it fails, and the request goes on.
#[test]
fn look_that_fails_leaves_the_transaction_as_it_was() {
    test(async |kit| {
        if !is_postgres(&kit) {
            return;
        }
        let name = kit.database.name();
        let role = format!("reader_{}", name.rsplit('_').next().unwrap());
        let prepare = format!(
            "CREATE ROLE {role}; REVOKE SELECT ON pg_locks FROM PUBLIC;
             GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
        );
        kit.outside.execute(AssertSqlSafe(prepare)).await.unwrap();
        let set_role = format!("SET ROLE {role}");
        let pool = Interlock::pool_options()
            .after_connect(move |connection, _| {
                let set_role = AssertSqlSafe(set_role.clone());
                Box::pin(async move { connection.execute(set_role).await.map(drop) })
            })
            .connect_with(kit.database.options())
            .await
            .unwrap();
        let app = guarded(require(&Interlock::new(pool.clone()), TABLE), edit);
        let (responses, log) = put_twice(&app).await;
        assert_eq!(responses.map(|response| response.status), [200, 200]);
        let warned = log.find("cannot look at pg_locks for what a policy reads");
        assert_eq!(warned.len(), 2);
        pool.close().await;
        let drop = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        kit.outside.execute(AssertSqlSafe(drop)).await.unwrap();
    });
}
