//! Errors that one of the servers is known to send, and PostgreSQL in a test does not send. The
//! proxy sends them.

use std::time::{Duration, Instant};

use support::{Fault, Kind, Moment, ServerError};
use tokio::time::sleep;
use tower_interlock::{Error, ErrorKind, Outcome, Tx};

use super::{LONG, behind_a_proxy, behind_a_proxy_as_cockroach, fill, idle, updating, write};
use crate::kit::{Kit, anyone, can_edit, guarded, note, put, test};

/// CockroachDB sends it to a session when its node drains, with severity ERROR and without a
/// request.
const DRAINING: ServerError = ServerError::error("57P01", "server is shutting down");
/// CockroachDB sends it to a statement that runs while its node drains, before [`DRAINING`].
const CANCELLED: ServerError = ServerError::error("57014", "query execution canceled");

const UPDATE: Moment = Moment::Text("UPDATE documents");

/// Sends a request whose every update meets `error`. Returns the attempts and the kind of the
/// response.
async fn rejected(kit: &Kit, error: ServerError) -> (u32, ErrorKind) {
    let (kit, proxy) = behind_a_proxy(kit, 1);
    proxy.inject_times(100, UPDATE, Fault::Reject(error));
    let response = put(&updating(&kit.interlock), "/1", "").await;
    let kind = response.error().unwrap().kind();
    proxy.relent();
    // The connection is usable, or was replaced.
    assert_eq!(put(&updating(&kit.interlock), "/1", "").await.status, 200);
    kit.assert_nothing_leaked().await;
    (response.report().attempts(), kind)
}

/// CockroachDB sends it for a COPY in a text, both servers for a wrong number of arguments. The
/// connection is usable.
#[test]
fn protocol_error_of_a_statement_is_no_lost_connection() {
    test(async |kit| {
        let error = ServerError::error("08P01", "bind message supplies 1 parameters");
        assert_eq!(rejected(&kit, error).await, (1, ErrorKind::Database));
    });
}

#[test]
fn protocol_error_at_begin_is_no_lost_connection() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 4);
        let error = ServerError::error("08P01", "unsupported");
        proxy.inject_times(100, Moment::Begin, Fault::Reject(error));
        let response = put(&updating(&kit.interlock), "/1", "").await;
        response.assert_problem(ErrorKind::Database);
        assert_eq!(proxy.counts().begins, 1);
    });
}

/// The server sends it before it executes the statement.
#[test]
fn protocol_error_of_a_conditional_write_is_no_unknown_outcome() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        let error = ServerError::error("08P01", "received too many type hints: 3 vs 2");
        proxy.inject(UPDATE, Fault::Reject(error));
        let rejected = write(&kit.interlock).await.unwrap_err();
        assert_eq!(rejected.kind(), ErrorKind::Database);
        assert_eq!(kit.version(1).await, 0);
    });
}

/// Asserts that a request and a conditional write that meet `error` once prepare their statement
/// anew on another connection.
async fn assert_overcome(kit: &Kit, error: ServerError) {
    let (kit, proxy) = behind_a_proxy(kit, 1);
    fill(&kit.pool).await;
    proxy.inject(UPDATE, Fault::Reject(error.clone()));
    let response = put(&updating(&kit.interlock), "/1", "").await;
    assert_eq!(response.status, 200, "{error:?}: {}", response.body);
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
            println!("skipped: an error of PostgreSQL");
            return;
        }
        let error = ServerError::error("XX000", "cache lookup failed for type 16384");
        assert_overcome(&kit, error).await;
    });
}

#[test]
fn draining_node_fails_no_request_on_an_idle_connection() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        let app = updating(&kit.interlock);
        assert_eq!(put(&app, "/1", "").await.status, 200);
        idle(&kit.pool).await;
        proxy.dismiss(&DRAINING);
        let response = put(&app, "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.report().attempts(), 1);
    });
}

/// The server has sent it long before the write.
#[test]
fn draining_node_fails_no_conditional_write_on_an_idle_connection() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        assert_eq!(write(&kit.interlock).await.unwrap(), 1);
        idle(&kit.pool).await;
        proxy.dismiss(&DRAINING);
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(write(&kit.interlock).await.unwrap(), 2);
    });
}

#[test]
fn draining_node_fails_no_request_between_its_statements() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        proxy.inject_farewell(Moment::Begin, Fault::Delay(Duration::ZERO), DRAINING);
        let response = put(&updating(&kit.interlock), "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.report().attempts(), 2);
        assert_eq!(kit.body(1).await, "new");
    });
}

/// The message comes behind the last statement. COMMIT is sent before it is read.
#[test]
fn draining_node_before_commit_is_an_unknown_outcome() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        proxy.inject_farewell(UPDATE, Fault::Delay(Duration::ZERO), DRAINING);
        let response = put(&updating(&kit.interlock), "/1", "").await;
        response.assert_problem(ErrorKind::OutcomeUnknown);
        assert_eq!(response.report().attempts(), 1);
        assert_eq!(response.outcome(), Outcome::Unknown);
        let next = put(&updating(&kit.interlock), "/1", "").await;
        assert_eq!(next.status, 200, "{}", next.body);
    });
}

/// 57014 means that a user has cancelled the statement, or that the node drains. Then the
/// connection ends.
#[test]
fn draining_node_fails_no_request_in_a_statement() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        proxy.inject_farewell(UPDATE, Fault::Reject(CANCELLED), DRAINING);
        let response = put(&updating(&kit.interlock), "/1", "").await;
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.report().attempts(), 2);
        kit.assert_nothing_leaked().await;
    });
}

#[test]
fn cancelled_statement_of_a_server_that_stays_is_not_repeated() {
    test(async |kit| {
        assert_eq!(
            rejected(&kit, CANCELLED).await,
            (1, ErrorKind::DeadlineExceeded)
        );
    });
}

/// The error does not say whether the node has committed.
#[test]
fn draining_node_at_commit_is_an_unknown_outcome() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy_as_cockroach(&kit, 1).await;
        proxy.inject_farewell(Moment::Commit, Fault::Misreport(CANCELLED), DRAINING);
        let response = put(&updating(&kit.interlock), "/1", "").await;
        response.assert_problem(ErrorKind::OutcomeUnknown);
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
        let response = put(&updating(&kit.interlock), "/1", "").await;
        assert_eq!(
            (response.status.as_u16(), response.report().attempts()),
            (200, 2)
        );
        assert_eq!(proxy.counts().rollbacks, 0);
        assert_eq!(proxy.counts().connections, 1);
        kit.assert_nothing_leaked().await;
    });
}

/// The error of CockroachDB after DDL, at a savepoint that is not the first statement of its
/// transaction.
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
            let response = put(&app, "/1", "").await;
            let (aborted, failed) = (ErrorKind::TransactionAborted, ErrorKind::Database);
            response.assert_problem(if swallow { aborted } else { failed });
            assert_eq!(response.outcome(), Outcome::RolledBack);
            assert_eq!(response.report().attempts(), 1);
            assert!(kit.notes().await.is_empty());
            kit.assert_nothing_leaked().await;
        }
    });
}

/// Nothing says that another attempt would succeed, nor whether the statement was executed.
#[test]
fn unavailable_range_is_unavailable() {
    test(async |kit| {
        let error = ServerError::error("58C00", "range unavailable");
        assert_eq!(rejected(&kit, error).await, (1, ErrorKind::Unavailable));
    });
}

#[test]
fn resources_that_are_used_up_are_unavailable() {
    test(async |kit| {
        for code in ["53200", "53100", "53400", "XXC02"] {
            let error = ServerError::error(code, "out of it");
            let seen = rejected(&kit, error).await;
            assert_eq!(seen, (1, ErrorKind::Unavailable), "{code}");
        }
    });
}

/// The error of NOWAIT and of `lock_timeout`. Another transaction holds the row.
#[test]
fn lock_that_is_not_available_is_contended() {
    test(async |kit| {
        let error = ServerError::error("55P03", "could not obtain lock on row");
        let (attempts, kind) = rejected(&kit, error).await;
        assert_eq!((attempts, kind), (1, ErrorKind::RetriesExhausted));
    });
}

const ROW_SECURITY: ServerError = ServerError::error(
    "42501",
    "new row violates row-level security policy for table \"documents\"",
);

/// The caller may not write the row, so it is a denial by the database.
#[test]
fn row_level_security_that_rejects_a_write_is_a_denial() {
    test(async |kit| {
        let (attempts, kind) = rejected(&kit, ROW_SECURITY).await;
        assert_eq!((attempts, kind.status().as_u16()), (1, 403));
        let (kit, proxy) = behind_a_proxy(&kit, 1);
        proxy.inject(UPDATE, Fault::Reject(ROW_SECURITY));
        let rejected = write(&kit.interlock).await.unwrap_err();
        assert_eq!(rejected.status().as_u16(), 403);
    });
}

/// A role that lacks a privilege is a mistake of the deployment, and not of the caller.
#[test]
fn missing_privilege_is_no_denial() {
    test(async |kit| {
        let error = ServerError::error("42501", "permission denied for table documents");
        assert_eq!(rejected(&kit, error).await, (1, ErrorKind::Database));
    });
}

/// The check could not run.
#[test]
fn row_level_security_that_fails_a_policy_is_no_denial() {
    test(async |kit| {
        let (kit, proxy) = behind_a_proxy(&kit, 1);
        proxy.inject(Moment::Text("FROM grants"), Fault::Reject(ROW_SECURITY));
        let app = guarded(kit.interlock.require(can_edit), super::update);
        let response = put(&app, "/1", "").await;
        response.assert_problem(ErrorKind::Database);
        assert_eq!(response.status, 500);
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
        let response = put(&updating(&kit.interlock), "/1", "").await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(response.report().attempts(), 1);
        assert!(asked.elapsed() < LONG);
        proxy.relent();
        assert_eq!(put(&updating(&kit.interlock), "/1", "").await.status, 200);
    });
}

/// PostgreSQL has the timeout from 17 on.
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
        let response = put(&guarded(kit.interlock.require(anyone), handler), "/1", "").await;
        response.assert_problem(ErrorKind::DeadlineExceeded);
        assert_eq!(response.report().attempts(), 1);
    });
}
