//! The guards of permission tables, from the catalog of PostgreSQL.

use sqlx::{Connection as _, PgConnection};
use support::{Database, Kind};
use tower_interlock::schema::SERIALIZABLE_GUARD;
use tower_interlock_audit::Audit;

use crate::kit::test;

/// The messages about the tables that the policies of a lock file read.
async fn unguarded(database: &Database, tables: &str) -> Vec<String> {
    let lock = std::env::temp_dir().join(format!("{}.lock", database.name()));
    std::fs::write(&lock, format!("PUT / conditional permitted({tables})\n")).unwrap();
    let audit = Audit::new().lock(&lock).unwrap();
    std::fs::remove_file(&lock).unwrap();
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    let findings = audit.guards(&mut connection).await.unwrap().run();
    let findings = findings.findings.into_iter();
    let found = findings.filter(|finding| finding.rule.id() == "IL005");
    found
        .map(|finding| {
            let message = finding.message.strip_prefix("the permission table ");
            message.unwrap().to_owned()
        })
        .collect()
}

#[test]
fn table_without_a_complete_guard_is_found_on_postgresql() {
    test(async |database| {
        let found = async || unguarded(&database, "grants").await;
        if database.kind() == Kind::CockroachDb {
            assert_eq!(found().await, [""; 0]);
            return;
        }
        assert_eq!(found().await, ["`grants` has no guard"]);
        database.run(SERIALIZABLE_GUARD).await;
        database.run(TRIGGER).await;
        assert_eq!(
            found().await,
            ["`grants` has a guard without ENABLE ALWAYS"]
        );
        database
            .run("ALTER TABLE grants ENABLE ALWAYS TRIGGER interlock_guard")
            .await;
        assert_eq!(found().await, [""; 0]);
        database.run("DROP TRIGGER interlock_guard ON grants").await;
        database.run(PARTIAL).await;
        let partial = found().await;
        assert!(
            partial[0].starts_with("`grants` has a guard for some changes only"),
            "{partial:?}"
        );
        let missing = unguarded(&database, "elsewhere.grants").await;
        assert_eq!(
            missing,
            ["`elsewhere.grants` is not found, so its guard is unknown"]
        );
    });
}

const TRIGGER: &str = "
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON grants
    FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard()";

const PARTIAL: &str = "
    CREATE TRIGGER interlock_guard BEFORE DELETE ON grants
    FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    ALTER TABLE grants ENABLE ALWAYS TRIGGER interlock_guard";

#[test]
fn tables_behind_views_and_partitions_need_a_guard_too() {
    test(async |database| {
        if database.kind() == Kind::CockroachDb {
            return;
        }
        database.run(SERIALIZABLE_GUARD).await;
        database.run(RELATIONS).await;
        let found = async |table| unguarded(&database, table).await;

        let behind = ["`grants`, which policies read as `outer_view`, has no guard"];
        assert_eq!(found("outer_view").await, behind);
        let partition = "has no guard";
        assert_eq!(
            found("members").await,
            [
                format!("`members_old`, which policies read as `members`, {partition}"),
                format!("`members_old_1`, which policies read as `members`, {partition}"),
            ]
        );
        // What changes the rows of a partition may name it, or the tables above it.
        assert_eq!(
            found("members_old_1").await,
            [
                format!("`members_old`, which policies read as `members_old_1`, {partition}"),
                format!("`members_old_1` {partition}"),
            ]
        );
        assert_eq!(found("members_new").await, [""; 0]);
        assert_eq!(found("Odd").await, [""; 0]);

        for (table, reason) in [
            ("permissions", "is a materialized view"),
            ("far", "is a foreign table"),
        ] {
            let found = found(table).await;
            assert!(!found.is_empty(), "{table}");
            assert!(
                found.iter().all(|message| message.contains(reason)),
                "{found:?}"
            );
        }
    });
}

/// `members` and `members_new` have their guards, `members_old` and its partition have none.
const RELATIONS: &str = "
    CREATE VIEW inner_view AS SELECT user_name FROM grants;
    CREATE VIEW outer_view AS SELECT user_name FROM inner_view;
    CREATE TABLE members (user_name TEXT, year INT) PARTITION BY RANGE (year);
    CREATE TABLE members_new PARTITION OF members FOR VALUES FROM (2020) TO (2030);
    CREATE TABLE members_old PARTITION OF members FOR VALUES FROM (2010) TO (2020)
        PARTITION BY LIST (year);
    CREATE TABLE members_old_1 PARTITION OF members_old FOR VALUES IN (2011);
    CREATE TABLE \"Odd\" (user_name TEXT);
    CREATE FOREIGN DATA WRAPPER none;
    CREATE SERVER far FOREIGN DATA WRAPPER none;
    CREATE FOREIGN TABLE far (user_name TEXT) SERVER far;
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON members
        FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON members_new
        FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    CREATE TRIGGER interlock_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON \"Odd\"
        FOR EACH STATEMENT EXECUTE FUNCTION interlock_guard();
    ALTER TABLE members ENABLE ALWAYS TRIGGER interlock_guard;
    ALTER TABLE members_new ENABLE ALWAYS TRIGGER interlock_guard;
    ALTER TABLE \"Odd\" ENABLE ALWAYS TRIGGER interlock_guard;
";
