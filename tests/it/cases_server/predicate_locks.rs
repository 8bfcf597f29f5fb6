//! The reads of a policy that PostgreSQL tracks, and those that it does not track.
//!
//! A SERIALIZABLE revocation sees that nothing is written yet, and commits while a request is under
//! way. If PostgreSQL tracks the read of the policy, the request is retried and denied. If not, the
//! request commits, and only the crate can warn of it.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use support::Kind;
use tokio::{sync::Notify, time::timeout};
use tower_interlock::{Denied, Error, ErrorKind, Tx};

use super::is_postgres;
use crate::kit::{Kit, Log, TestResponse, guard_statements, guarded, note, put, test, traced};

/// The rule of a policy, and the revocation of its permission.
#[derive(Clone, Copy)]
struct Rule {
    /// Runs before the request.
    schema: &'static str,
    /// The policy's query: one boolean.
    allowed: &'static str,
    revoke: &'static [&'static str],
}

struct Interleaved {
    response: TestResponse,
    log: Log,
    stored: usize,
}

/// The request checks, the revocation commits, the request writes.
async fn interleave(kit: &Kit, rule: Rule) -> Interleaved {
    kit.outside.execute(rule.schema).await.unwrap();
    let (checked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let policy = move |mut tx: Tx| async move {
        let allowed: bool = sqlx::query_scalar(rule.allowed).fetch_one(&mut tx).await?;
        Denied::unless(allowed, "revoked")?;
        Ok::<_, Error>(())
    };
    let handler = {
        let (checked, go_on) = (Arc::clone(&checked), Arc::clone(&go_on));
        move |mut tx: Tx| async move {
            if tx.attempt() == 1 {
                checked.notify_one();
                go_on.notified().await;
            }
            note(&mut tx, 1).await?;
            Ok::<_, Error>(())
        }
    };
    let app = guarded(kit.interlock.require(policy), handler);
    let request = traced(async {
        let revocation = async {
            checked.notified().await;
            revoke(kit, rule.revoke).await;
            go_on.notify_one();
        };
        let request = put(&app, "/1", "");
        tokio::pin!(request);
        // The handler does not run behind a policy that is rejected.
        tokio::select! {
            response = &mut request => response,
            () = revocation => request.await,
        }
    });
    let (response, log) = request.await;
    Interleaved {
        response,
        log,
        stored: kit.notes().await.len(),
    }
}

/// Sees that there are no notes yet, revokes, and commits.
async fn revoke(kit: &Kit, statements: &[&'static str]) {
    let mut connection = PgConnection::connect_with(&kit.database.options())
        .await
        .unwrap();
    let revoked = async {
        connection
            .execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            .await?;
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM notes")
            .fetch_one(&mut connection)
            .await?;
        assert_eq!(seen, 0);
        for statement in statements {
            connection.execute(*statement).await?;
        }
        connection.execute("COMMIT").await
    };
    let revoked = timeout(Duration::from_secs(5), revoked).await;
    revoked.expect("the revocation waits").unwrap();
}

impl Interleaved {
    /// The request was ordered after the revocation: it was retried and denied.
    #[track_caller]
    fn assert_denied(&self, what: &str) {
        assert_eq!(self.stored, 0, "{what}");
        assert_eq!(self.response.status, 403, "{what}: {}", self.response.body);
        assert_eq!(self.response.report().attempts(), 2, "{what}");
    }

    /// PostgreSQL has committed both.
    #[track_caller]
    fn assert_missed(&self, what: &str) {
        let seen = (self.stored, self.response.status.as_u16());
        assert_eq!(seen, (1, 200), "{what}: {}", self.response.body);
    }

    /// Whether the crate has logged, above DEBUG, that `name` is not tracked.
    fn warns_of(&self, name: &str) -> bool {
        let events = self.log.above_debug();
        let mut values = events.iter().flat_map(|event| event.fields.values());
        values.any(|value| value.contains(name))
    }
}

const MATERIALIZED: &str = "
    CREATE MATERIALIZED VIEW granted AS SELECT user_id, document_id FROM grants;
    CREATE UNIQUE INDEX ON granted (user_id, document_id)";

const REFRESH: &str = "REFRESH MATERIALIZED VIEW CONCURRENTLY granted";
const DELETE: &str = "DELETE FROM grants WHERE user_id = 1";

/// PostgreSQL tracks materialized views from 16 on. Before, the crate rejects the policy.
#[test]
fn materialized_view_that_is_refreshed_meanwhile_is_denied_or_rejected() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: CockroachDB does not refresh in a transaction");
            return;
        }
        let rule = Rule {
            schema: MATERIALIZED,
            allowed: "SELECT EXISTS (SELECT 1 FROM granted WHERE user_id = 1)",
            revoke: &[DELETE, REFRESH],
        };
        let seen = interleave(&kit, rule).await;
        if is_postgres(&kit, 16).await {
            return seen.assert_denied("a materialized view");
        }
        seen.response.assert_problem(ErrorKind::Misconfigured);
        assert_eq!((seen.response.report().attempts(), seen.stored), (1, 0));
    });
}

/// A row that the policy reads and that each revocation writes makes any read tracked.
#[test]
fn materialized_view_with_a_row_that_each_refresh_writes_is_tracked() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: CockroachDB does not refresh in a transaction");
            return;
        }
        kit.outside
            .execute("CREATE TABLE permissions (version INT8 NOT NULL); INSERT INTO permissions VALUES (0)")
            .await
            .unwrap();
        let rule = Rule {
            schema: MATERIALIZED,
            allowed: "SELECT EXISTS (SELECT 1 FROM granted WHERE user_id = 1) FROM permissions",
            revoke: &[
                DELETE,
                REFRESH,
                "UPDATE permissions SET version = version + 1",
            ],
        };
        let seen = interleave(&kit, rule).await;
        seen.assert_denied("a materialized view with a row");
    });
}

/// One rule for each kind of relation that is tracked.
#[test]
fn tracked_reads_are_denied_after_a_revocation() {
    let rules = [
        (
            "a view",
            "CREATE VIEW granted AS SELECT user_id FROM grants",
            "SELECT EXISTS (SELECT 1 FROM granted WHERE user_id = 1)",
            DELETE,
        ),
        (
            "a partition that is written by its own name",
            "CREATE TABLE parts (user_id INT8, part INT8) PARTITION BY LIST (part);
             CREATE TABLE part PARTITION OF parts FOR VALUES IN (0); INSERT INTO parts VALUES (1, 0)",
            "SELECT EXISTS (SELECT 1 FROM parts WHERE user_id = 1)",
            "DELETE FROM part",
        ),
        (
            "an unlogged table",
            "CREATE UNLOGGED TABLE granted AS SELECT user_id FROM grants",
            "SELECT EXISTS (SELECT 1 FROM granted WHERE user_id = 1)",
            "DELETE FROM granted",
        ),
        (
            "a sample",
            "",
            "SELECT EXISTS (SELECT 1 FROM grants TABLESAMPLE BERNOULLI (100) WHERE user_id = 1)",
            DELETE,
        ),
        (
            "a function",
            "CREATE FUNCTION may() RETURNS BOOLEAN LANGUAGE plpgsql SECURITY DEFINER AS
             $$ BEGIN RETURN EXISTS (SELECT 1 FROM grants WHERE user_id = 1); END $$",
            "SELECT may()",
            DELETE,
        ),
    ];
    for (what, schema, allowed, revoke) in rules {
        test(async move |kit| {
            if kit.database.kind() == Kind::CockroachDb && what != "a view" {
                println!("skipped: CockroachDB has no such thing");
                return;
            }
            let revoke: &'static [&'static str] = vec![revoke].leak();
            let rule = Rule {
                schema,
                allowed,
                revoke,
            };
            interleave(&kit, rule).await.assert_denied(what);
        });
    }
}

/// A description, the name that a warning contains, and a rule, for each kind of read that
/// PostgreSQL does not track. The promise does not hold for them.
const MISSED: [(&str, &str, Rule); 9] = [
    (
        "a sequence",
        "numbered",
        Rule {
            schema: "CREATE SEQUENCE numbered",
            allowed: "SELECT last_value = 1 FROM numbered",
            revoke: &["SELECT setval('numbered', 2)"],
        },
    ),
    (
        "membership in a role",
        "pg_has_role",
        Rule {
            schema: "",
            allowed: "SELECT pg_has_role('MEMBER', 'GROUP', 'member')",
            revoke: &["REVOKE GROUP FROM MEMBER"],
        },
    ),
    (
        "a catalog",
        "pg_auth_members",
        Rule {
            schema: "",
            allowed: "SELECT EXISTS (SELECT 1 FROM pg_auth_members WHERE member = 'MEMBER'::REGROLE)",
            revoke: &["REVOKE GROUP FROM MEMBER"],
        },
    ),
    (
        "a privilege",
        "has_table_privilege",
        Rule {
            schema: "GRANT SELECT ON grants TO MEMBER",
            allowed: "SELECT has_table_privilege('MEMBER', 'grants', 'SELECT')",
            revoke: &["REVOKE SELECT ON grants FROM MEMBER"],
        },
    ),
    (
        "a large object",
        "lo_get",
        Rule {
            schema: "CREATE TABLE objects AS SELECT lo_from_bytea(0, 'yes') AS id",
            allowed: "SELECT lo_get(id) = 'yes' FROM objects",
            revoke: &["SELECT lo_put(id, 0, 'no ') FROM objects"],
        },
    ),
    (
        "a comment",
        "pg_description",
        Rule {
            schema: "COMMENT ON TABLE grants IS 'yes'",
            allowed: "SELECT obj_description('grants'::REGCLASS, 'pg_class') IS NOT NULL",
            revoke: &["COMMENT ON TABLE grants IS NULL"],
        },
    ),
    (
        "a function that is replaced",
        "",
        Rule {
            schema: "CREATE FUNCTION may() RETURNS BOOLEAN LANGUAGE sql STABLE AS 'SELECT true'",
            allowed: "SELECT may()",
            revoke: &[
                "CREATE OR REPLACE FUNCTION may() RETURNS BOOLEAN LANGUAGE sql STABLE AS 'SELECT false'",
            ],
        },
    ),
    (
        "a partition that is attached",
        "",
        Rule {
            schema: "CREATE TABLE denials (user_id INT8, part INT8) PARTITION BY LIST (part);
                     CREATE TABLE none PARTITION OF denials FOR VALUES IN (0);
                     CREATE TABLE one (user_id INT8, part INT8); INSERT INTO one VALUES (1, 1)",
            allowed: "SELECT NOT EXISTS (SELECT 1 FROM denials WHERE user_id = 1)",
            revoke: &["ALTER TABLE denials ATTACH PARTITION one FOR VALUES IN (1)"],
        },
    ),
    (
        "a range of row addresses",
        "ctid",
        Rule {
            schema: "CREATE TABLE addressed AS SELECT generate_series(1, 5000) AS user_id; ANALYZE addressed",
            allowed: "SELECT EXISTS (SELECT 1 FROM addressed WHERE ctid < '(0,2)')",
            revoke: &["DELETE FROM addressed"],
        },
    ),
];

/// The rules of [`MISSED`], with two roles of this database in the places of MEMBER and GROUP.
async fn rules(kit: &Kit) -> Vec<(&'static str, &'static str, Rule)> {
    let (member, group) = roles(kit);
    for statement in [
        format!("CREATE ROLE {member}"),
        format!("CREATE ROLE {group}"),
    ] {
        kit.outside.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    let own = |text: &str| -> &'static str {
        let text = text.replace("MEMBER", &member).replace("GROUP", &group);
        text.leak()
    };
    MISSED
        .into_iter()
        .map(|(what, name, rule)| {
            let revoke: Vec<_> = rule.revoke.iter().map(|text| own(text)).collect();
            let rule = Rule {
                schema: own(rule.schema),
                allowed: own(rule.allowed),
                revoke: revoke.leak(),
            };
            (what, name, rule)
        })
        .collect()
}

fn roles(kit: &Kit) -> (String, String) {
    let name = kit.database.name();
    let unique = name.rsplit('_').next().unwrap();
    (format!("member_{unique}"), format!("group_{unique}"))
}

/// Runs all rules of [`MISSED`], and passes the result of each to `judge`.
fn play(judge: fn(&Interleaved, &'static str, &'static str)) {
    test(async move |kit| {
        if !is_postgres(&kit, 14).await {
            println!("skipped: only PostgreSQL from 14 on scans ranges of row addresses");
            return;
        }
        let (member, group) = roles(&kit);
        for (what, name, rule) in rules(&kit).await {
            let grant = format!("GRANT {group} TO {member}; DELETE FROM notes");
            kit.outside.execute(AssertSqlSafe(grant)).await.unwrap();
            judge(&interleave(&kit, rule).await, what, name);
            kit.outside
                .execute(
                    "DROP FUNCTION IF EXISTS may; INSERT INTO grants VALUES (1, 1) ON CONFLICT DO NOTHING",
                )
                .await
                .unwrap();
        }
        let drop = format!("DROP OWNED BY {member}; DROP ROLE {member}, {group}");
        kit.outside.execute(AssertSqlSafe(drop)).await.unwrap();
    });
}

/// A fact about PostgreSQL, which the docs name. The test fails if a later version tracks one of
/// them.
#[test]
fn untracked_reads_miss_a_revocation() {
    play(|seen, what, _| seen.assert_missed(what));
}

/// Neither the text nor the locks of the policy show the two reads without a name.
#[test]
fn untracked_reads_of_a_policy_are_warned_of() {
    play(|seen, what, name| {
        if !name.is_empty() {
            assert!(seen.warns_of(name), "no warning of {what}: {:?}", seen.log);
        }
    });
}

/// A READ COMMITTED session beside the guard, which is not enabled in every session.
async fn guarded_session(kit: &Kit) -> PgConnection {
    let [function, trigger, _] = guard_statements();
    for text in [function, trigger] {
        kit.outside.execute(text).await.unwrap();
    }
    PgConnection::connect_with(&kit.database.options())
        .await
        .unwrap()
}

/// A restore of a dump with `--disable-triggers` and logical replication use such sessions.
#[test]
fn guard_that_is_always_enabled_holds_for_a_replica_session() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: CockroachDB needs no guard");
            return;
        }
        let mut session = guarded_session(&kit).await;
        let [.., always] = guard_statements();
        for (statement, is_rejected) in [
            ("SELECT 1", false),
            (DELETE, true),
            ("SET session_replication_role = replica", false),
            // The gap: it fires no trigger.
            ("DELETE FROM grants WHERE user_id = 99", false),
            (always, false),
            (DELETE, true),
        ] {
            let done = session.execute(statement).await;
            assert_eq!(done.is_err(), is_rejected, "{statement}");
        }
    });
}

/// A child table is written without its parent's triggers, and read with its parent.
#[test]
fn guard_of_a_parent_does_not_hold_for_a_child_by_its_own_name() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: CockroachDB needs no guard");
            return;
        }
        let mut session = guarded_session(&kit).await;
        for (statement, is_rejected) in [
            ("CREATE TABLE more_grants () INHERITS (grants)", false),
            ("INSERT INTO grants VALUES (7, 7)", true),
            ("INSERT INTO more_grants VALUES (7, 7)", false),
        ] {
            let done = session.execute(statement).await;
            assert_eq!(done.is_err(), is_rejected, "{statement}");
        }
        let granted = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = 7)";
        let exists: bool = sqlx::query_scalar(granted)
            .fetch_one(&kit.outside)
            .await
            .unwrap();
        assert!(exists, "the grant of the child is not read");
        let policy = async move |mut tx: Tx| {
            let granted: bool = sqlx::query_scalar(granted).fetch_one(&mut tx).await?;
            Ok::<_, Error>(Denied::unless(granted, "no grant")?)
        };
        let app = guarded(kit.interlock.require(policy), super::update);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        assert_eq!(kit.body(1).await, "new");
    });
}
