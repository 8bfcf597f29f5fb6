//! Faults and their moments.

use super::message::Message;
use std::time::Duration;

/// The request of the client at which a fault is injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// The start of a connection.
    Connect,
    /// BEGIN.
    Begin,
    /// The n-th statement of a transaction, counted from 1.
    ///
    /// Statements of savepoints count. Preparing a statement does not.
    Statement(usize),
    /// A statement inside or outside of a transaction whose text contains this.
    Text(&'static str),
    /// COMMIT.
    Commit,
    /// The BEGIN of a next transaction behind a COMMIT, in one request. The COMMIT is executed, and
    /// its completion is relayed.
    NextBegin,
    /// A ROLLBACK that is not to a savepoint.
    Rollback,
    /// At a round trip that only asks whether the server is there.
    Ping,
}

/// A fault of the proxy at a request of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server receives it late.
    Delay(Duration),
    /// The connection is cut before the server receives it.
    CutBefore,
    /// The server receives it, and the connection is cut without waiting for the reply.
    CutSent,
    /// The server executes it, and the connection is cut instead of relaying the reply.
    CutAfter,
    /// The server executes it. No reply is relayed from then on, and the connection stays open.
    Swallow,
    /// Nothing is relayed from then on, and the connection stays open.
    Stall,
    /// The server rejects it with this error. A transaction is aborted, and a COMMIT has no effect.
    Reject(ServerError),
    /// The server executes it, and the client gets this error.
    Misreport(ServerError),
    /// The client gets this error, and the connection is closed.
    Terminate(ServerError),
}

/// An error as a server sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    severity: &'static str,
    code: &'static str,
    message: &'static str,
}

impl ServerError {
    /// A serialization failure with the message of CockroachDB.
    pub const RESTART: Self = Self::error(
        "40001",
        "restart transaction: TransactionRetryWithProtoRefreshError: TransactionRetryError: retry txn (RETRY_SERIALIZABLE): \"sql txn\" meta={id=180bc456 key=/Table/52/1/2 pri=0.00964934 epo=0}",
    );
    /// A COMMIT with an unknown outcome, with the message of CockroachDB.
    pub const AMBIGUOUS: Self = Self::error(
        "40003",
        "result is ambiguous: error=rpc error: code = Unavailable desc = error reading from server: EOF [exhausted]",
    );
    /// The end of a session, with the message of PostgreSQL.
    pub const SHUTDOWN: Self = Self::fatal(
        "57P01",
        "terminating connection due to administrator command",
    );

    /// An error of severity ERROR. The session continues.
    pub const fn error(code: &'static str, message: &'static str) -> Self {
        Self {
            severity: "ERROR",
            code,
            message,
        }
    }

    /// An error of severity FATAL. The session ends.
    pub const fn fatal(code: &'static str, message: &'static str) -> Self {
        Self {
            severity: "FATAL",
            code,
            message,
        }
    }

    /// Its severity.
    pub fn severity(&self) -> &'static str {
        self.severity
    }

    /// Its SQLSTATE.
    pub fn code(&self) -> &'static str {
        self.code
    }

    pub(super) fn message(&self) -> Message {
        let mut body = Vec::new();
        for (field, value) in [
            (b'S', self.severity),
            (b'V', self.severity),
            (b'C', self.code),
            (b'M', self.message),
        ] {
            body.push(field);
            body.extend(value.as_bytes());
            body.push(0);
        }
        body.push(0);
        Message::new(b'E', body)
    }
}
