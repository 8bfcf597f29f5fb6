//! What can go wrong, and when.

use super::message::Message;
use std::time::Duration;

/// When a fault is brought about. All are moments at which the client asks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// When a connection is made.
    Connect,
    /// At BEGIN.
    Begin,
    /// At the n-th statement of a transaction, counted from 1. Those of savepoints count, preparing one does not.
    Statement(usize),
    /// At a statement, in or out of a transaction, whose text contains this.
    Text(&'static str),
    /// At COMMIT.
    Commit,
    /// At a ROLLBACK that is not to a savepoint.
    Rollback,
}

/// What happens to a request of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server gets it late.
    Delay(Duration),
    /// The connection is cut before the server gets it.
    CutBefore,
    /// The server gets it, and the connection is cut without waiting for the answer.
    CutSent,
    /// The server gets and answers it, and the connection is cut instead of passing the answer on.
    CutAfter,
    /// The server gets and answers it. Neither this answer nor any later one is passed on, and the connection stays.
    Swallow,
    /// Nothing is passed on any more, and the connection stays.
    Stall,
    /// The server refuses it with this error: the transaction, if there is one, is aborted, a COMMIT is none.
    Refuse(ServerError),
    /// The server does it, and says that there was this error.
    Misreport(ServerError),
    /// The server sends this error, whatever it is asked for, and closes the connection.
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
    /// A serialization failure, in CockroachDB's words.
    pub const RESTART: Self = Self::error(
        "40001",
        "restart transaction: TransactionRetryWithProtoRefreshError: TransactionRetryError: retry txn (RETRY_SERIALIZABLE): \"sql txn\" meta={id=180bc456 key=/Table/52/1/2 pri=0.00964934 epo=0}",
    );
    /// A COMMIT whose outcome the server does not know, in CockroachDB's words.
    pub const AMBIGUOUS: Self = Self::error(
        "40003",
        "result is ambiguous: error=rpc error: code = Unavailable desc = error reading from server: EOF [exhausted]",
    );
    /// The end of a session, in PostgreSQL's words.
    pub const SHUTDOWN: Self = Self::fatal(
        "57P01",
        "terminating connection due to administrator command",
    );

    /// Of severity ERROR: the session goes on.
    pub const fn error(code: &'static str, message: &'static str) -> Self {
        Self {
            severity: "ERROR",
            code,
            message,
        }
    }

    /// Of severity FATAL: the session is over.
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
