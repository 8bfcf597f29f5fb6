//! Errors that one of the servers is known to send, and PostgreSQL in a test does not. The proxy does.

use std::time::{Duration, Instant};

use support::{Fault, Kind, Moment, ServerError};
use tokio::time::sleep;
use tower_interlock::{Error, ErrorKind, Outcome, Tx};

use super::{LONG, behind_a_proxy, behind_a_proxy_as_cockroach, fill, updating, version, write};
use crate::kit::{Kit, anyone, can_edit, guarded, note, put, test};

/// What CockroachDB says to a session when its node drains: of severity ERROR, and without a request.
const DRAINING: ServerError = ServerError::error("57P01", "server is shutting down");
/// What it says to a statement that runs while its node drains, before [`DRAINING`].
const CANCELLED: ServerError = ServerError::error("57014", "query execution canceled");

const UPDATE: Moment = Moment::Text("UPDATE documents");

/// A request whose every update meets `error`: how often it is made, and what its answer is.
async fn refused(kit: &Kit, error: ServerError) -> (u32, ErrorKind) {
    let (kit, proxy) = behind_a_proxy(kit, 1);
    proxy.inject_times(100, UPDATE, Fault::Reject(error));
    let answer = put(&updating(&kit.interlock), "/1", "").await;
    let kind = answer.error().unwrap().kind();
    proxy.relent();
    // The connection is fine, or was replaced.
    assert_eq!(put(&updating(&kit.interlock), "/1", "").await.status, 200);
    kit.assert_nothing_leaked().await;
    (answer.report().attempts(), kind)
}

/// CockroachDB says it of a COPY in a text, both of a wrong number of arguments: the connection is there.
#[test]
fn protocol_error_of_a_statement_is_no_lost_connection() {
    test(async |kit| {
        let error = ServerError::error("08P01", "bind message supplies 1 parameters");
        assert_eq!(refused(&kit, error).await, (1, ErrorKind::Database));
    });
}

#[test]
fn protocol_error_at_begin_is_no_lost_connection() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 4);
        let error = ServerError::error("08P01", "unsupported");
        proxy.inject_times(100, Moment::Begin, Fault::Reject(error));
        let answer = put(&updating(&kit.interlock), "/1", "").await;
        answer.assert_problem(ErrorKind::Database);
        assert_eq!(proxy.counts().begins, 1);
    });
}

/// It says what a statement is not, before any of it is evaluated.
#[test]
fn protocol_error_of_a_conditional_write_is_no_unknown_outcome() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        let error = ServerError::error("08P01", "received too many type hints: 3 vs 2");
        proxy.inject(UPDATE, Fault::Reject(error));
        let refused = write(&kit.interlock).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Database);
        assert_eq!(version(&kit).await, 0);
    });
}

/// One request meets a statement that is not there any more: another connection has prepared it anew.
async fn assert_overcome(kit: &Kit, error: ServerError) {
    let (kit, proxy) = behind_a_proxy(kit, 1);
    fill(&kit.pool).await;
    proxy.inject(UPDATE, Fault::Reject(error.clone()));
    let answer = put(&updating(&kit.interlock), "/1", "").await;
    assert_eq!(answer.status, 200, "{error:?}: {}", answer.body);
    assert_eq!(proxy.counts().connections, 2, "{error:?}");
    proxy.inject(UPDATE, Fault::Reject(error.clone()));
    let written = write(&kit.interlock).await;
    assert!(written.is_ok(), "{error:?}: {written:?}");
    assert_eq!(proxy.counts().connections, 3, "{error:?}");
    kit.assert_nothing_leaked().await;
}

#[test]
fn statement_without_a_name_any_more_is_prepared_anew() {
    test(async |kit| {
        let error = ServerError::error("26000", "prepared statement \"sqlx_s_1\" does not exist");
        assert_overcome(&kit, error).await;
    });
}

#[test]
fn statement_whose_name_is_taken_is_prepared_anew() {
    test(async |kit| {
        let error = ServerError::error("42P05", "prepared statement \"sqlx_s_1\" already exists");
        assert_overcome(&kit, error).await;
    });
}

#[test]
fn statement_whose_type_is_gone_is_prepared_anew() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: an error of PostgreSQL's");
            return;
        }
        let error = ServerError::error("XX000", "cache lookup failed for type 16384");
        assert_overcome(&kit, error).await;
    });
}

/// The connection is back in the pool.
async fn idle(kit: &Kit) {
    while kit.pool.num_idle() < kit.pool.size() as usize {
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn draining_node_fails_no_request_on_an_idle_connection() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        let app = updating(&kit.interlock);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        idle(&kit).await;
        proxy.dismiss(&DRAINING);
        let answer = put(&app, "/1", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.report().attempts(), 1);
    });
}

/// It was said long before the write was sent.
#[test]
fn draining_node_fails_no_conditional_write_on_an_idle_connection() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        assert_eq!(write(&kit.interlock).await.unwrap(), 1);
        idle(&kit).await;
        proxy.dismiss(&DRAINING);
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(write(&kit.interlock).await.unwrap(), 2);
    });
}

#[test]
fn draining_node_fails_no_request_between_its_statements() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        let nothing = Fault::Delay(Duration::ZERO);
        proxy.inject_farewell(Moment::Begin, nothing.clone(), DRAINING);
        let app = updating(&kit.interlock);
        let answer = put(&app, "/1", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        proxy.inject_farewell(UPDATE, nothing, DRAINING);
        let answer = put(&app, "/1", "").await;
        // COMMIT was sent, and it may have been heard.
        assert!([200, 500].contains(&answer.status.as_u16()));
    });
}

/// 57014 means that somebody has cancelled the statement, or that the node drains: then the connection ends.
#[test]
fn draining_node_fails_no_request_in_a_statement() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        proxy.inject_farewell(UPDATE, Fault::Reject(CANCELLED), DRAINING);
        let answer = put(&updating(&kit.interlock), "/1", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.report().attempts(), 2);
        kit.assert_nothing_leaked().await;
    });
}

#[test]
fn cancelled_statement_of_a_server_that_stays_is_not_repeated() {
    test(async |kit| {
        assert_eq!(
            refused(&kit, CANCELLED).await,
            (1, ErrorKind::DeadlineExceeded)
        );
    });
}

/// It cannot be told whether the node had committed.
#[test]
fn draining_node_at_commit_is_an_unknown_outcome() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        proxy.inject_farewell(Moment::Commit, Fault::Misreport(CANCELLED), DRAINING);
        let answer = put(&updating(&kit.interlock), "/1", "").await;
        answer.assert_problem(ErrorKind::OutcomeUnknown);
    });
}

/// CockroachDB's error for a ROLLBACK outside of a transaction. The crate sends none.
#[test]
fn rollback_is_not_sent_after_a_failed_commit() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 1);
        let outside = ServerError::error("XXUUU", "there is no transaction in progress");
        proxy.inject(Moment::Commit, Fault::Reject(ServerError::RESTART));
        proxy.inject_times(100, Moment::Rollback, Fault::Misreport(outside));
        let answer = put(&updating(&kit.interlock), "/1", "").await;
        assert_eq!(
            (answer.status.as_u16(), answer.report().attempts()),
            (200, 2)
        );
        assert_eq!(proxy.counts().rollbacks, 0);
        assert_eq!(proxy.counts().connections, 1);
        kit.assert_nothing_leaked().await;
    });
}

/// So does CockroachDB after DDL, at a savepoint that is not the first thing in its transaction.
#[test]
fn savepoint_that_cannot_be_rolled_back_to_keeps_nothing() {
    test(async |kit| {
        for swallow in [false, true] {
            let (kit, proxy) = behind_a_proxy(&kit, 1);
            let error = ServerError::error(
                "0A000",
                "ROLLBACK TO SAVEPOINT not yet supported after DDL statements",
            );
            let roll_back = Moment::Text("ROLLBACK TO SAVEPOINT");
            proxy.inject_times(100, roll_back, Fault::Reject(error));
            let handler = async move |mut tx: Tx| {
                note(&mut tx, 1).await?;
                let mut savepoint = tx.savepoint().await?;
                sqlx::query("INSERT INTO notes VALUES (2, '')")
                    .execute(&mut savepoint)
                    .await?;
                let rolled_back = savepoint.rollback().await;
                if swallow {
                    drop(rolled_back);
                } else {
                    rolled_back?;
                }
                Ok::<_, Error>(())
            };
            let app = guarded(kit.interlock.require(anyone), handler);
            let answer = put(&app, "/1", "").await;
            let (aborted, failed) = (ErrorKind::TransactionAborted, ErrorKind::Database);
            answer.assert_problem(if swallow { aborted } else { failed });
            assert_eq!(answer.outcome(), Outcome::RolledBack);
            assert_eq!(answer.report().attempts(), 1);
            assert!(kit.notes().await.is_empty());
            kit.assert_nothing_leaked().await;
        }
    });
}

/// `could not connect to`, `range unavailable`: nothing says that another attempt would help, or how far it came.
#[test]
fn unavailable_range_is_unavailable() {
    test(async |kit| {
        let error = ServerError::error("58C00", "range unavailable");
        assert_eq!(refused(&kit, error).await, (1, ErrorKind::Unavailable));
    });
}

#[test]
fn resources_that_are_used_up_are_unavailable() {
    test(async |kit| {
        for code in ["53200", "53100", "53400", "XXC02"] {
            let error = ServerError::error(code, "out of it");
            let seen = refused(&kit, error).await;
            assert_eq!(seen, (1, ErrorKind::Unavailable), "{code}");
        }
    });
}

/// NOWAIT, and `lock_timeout`: somebody else has the row, and may be done with it soon.
#[test]
fn lock_that_is_not_available_is_contended() {
    test(async |kit| {
        let error = ServerError::error("55P03", "could not obtain lock on row");
        let (attempts, kind) = refused(&kit, error).await;
        assert_eq!((attempts, kind), (1, ErrorKind::RetriesExhausted));
    });
}

const ROW_SECURITY: ServerError = ServerError::error(
    "42501",
    "new row violates row-level security policy for table \"documents\"",
);

/// The row is one that the caller may not write: the database's own denial.
#[test]
fn row_level_security_that_refuses_a_write_is_a_denial() {
    test(async |kit| {
        let (attempts, kind) = refused(&kit, ROW_SECURITY).await;
        assert_eq!((attempts, kind.status().as_u16()), (1, 403));
        let (kit, proxy) = behind_a_proxy(&kit, 1);
        proxy.inject(UPDATE, Fault::Reject(ROW_SECURITY));
        let refused = write(&kit.interlock).await.unwrap_err();
        assert_eq!(refused.status().as_u16(), 403);
    });
}

/// PostgreSQL itself, to a role that it does not let past its policies.
#[test]
fn row_level_security_of_the_server_that_refuses_a_write_is_a_denial() {
    test(async |kit| {
        if kit.database.kind() == Kind::CockroachDb {
            println!("skipped: not every version of CockroachDB has it");
            return;
        }
        kit.database
            .run(
                "ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
                 CREATE POLICY small ON notes WITH CHECK (id < 10);
                 GRANT ALL ON notes TO pg_monitor",
            )
            .await;
        let handler = async |mut tx: Tx| {
            sqlx::query("SET LOCAL ROLE pg_monitor")
                .execute(&mut tx)
                .await?;
            note(&mut tx, 11).await?;
            Ok::<_, Error>(())
        };
        let answer = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        assert_eq!(answer.status, 403);
        assert_eq!(answer.outcome(), Outcome::RolledBack);
    });
}

/// A role that lacks a privilege is a mistake of the deployment, and no denial of the caller.
#[test]
fn missing_privilege_is_no_denial() {
    test(async |kit| {
        let error = ServerError::error("42501", "permission denied for table documents");
        assert_eq!(refused(&kit, error).await, (1, ErrorKind::Database));
    });
}

/// A check that could not run is a 5xx.
#[test]
fn row_level_security_that_fails_a_policy_is_no_denial() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 1);
        proxy.inject(Moment::Text("FROM grants"), Fault::Reject(ROW_SECURITY));
        let app = guarded(kit.interlock.require(can_edit), super::update);
        let answer = put(&app, "/1", "").await;
        assert!(answer.status.is_server_error(), "{}", answer.status);
    });
}

/// A new connection would meet the same limit.
#[test]
fn transaction_timeout_is_not_repeated() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 1);
        let error =
            ServerError::fatal("25P04", "terminating connection due to transaction timeout");
        proxy.inject_times(100, UPDATE, Fault::Terminate(error));
        let asked = Instant::now();
        let answer = put(&updating(&kit.interlock), "/1", "").await;
        answer.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(answer.report().attempts(), 1);
        assert!(asked.elapsed() < LONG);
        proxy.relent();
        assert_eq!(put(&updating(&kit.interlock), "/1", "").await.status, 200);
    });
}

/// PostgreSQL from 17 on has the timeout itself.
#[test]
fn transaction_timeout_of_the_server_is_not_repeated() {
    test(async |kit| {
        if kit.database.kind() != Kind::PostgreSql || !super::is_postgres(&kit, 17).await {
            println!("skipped: the server has no transaction_timeout");
            return;
        }
        super::set_default(&kit, "transaction_timeout = '300ms'").await;
        let handler = async |mut tx: Tx| {
            note(&mut tx, 1).await?;
            sqlx::query("SELECT pg_sleep(2)").execute(&mut tx).await?;
            Ok::<_, Error>(())
        };
        let answer = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        answer.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(answer.report().attempts(), 1);
    });
}
