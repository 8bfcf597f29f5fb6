//! Requests of a trace, as the recorder writes them.

use serde_json::{Value, json};

/// A request with its statements.
pub(crate) struct Request {
    method: &'static str,
    route: &'static str,
    status: u16,
    works: Vec<Value>,
    statements: Vec<Value>,
    blind: Option<&'static str>,
}

/// Where a statement ran.
#[derive(Clone, Copy)]
pub(crate) enum At {
    Policy,
    Handler,
    /// In a closure or a conditional write.
    Work,
    /// On another connection, in the policy.
    PolicyOutside,
    /// On another connection, in the handler.
    Outside,
    Hook,
}

impl Request {
    pub(crate) fn new(method: &'static str, route: &'static str) -> Self {
        Self {
            method,
            route,
            status: 200,
            works: Vec::new(),
            statements: Vec::new(),
            blind: None,
        }
    }

    pub(crate) fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn blind(mut self, reason: &'static str) -> Self {
        self.blind = Some(reason);
        self
    }

    /// The request was behind a policy, and its transaction was committed.
    pub(crate) fn policy(self, name: &str) -> Self {
        self.work("request", name, "committed")
    }

    pub(crate) fn work(mut self, kind: &str, name: &str, outcome: &str) -> Self {
        self.works.push(json!({
            "kind": kind, "names": [name], "attempts": 1, "outcome": outcome,
        }));
        self
    }

    pub(crate) fn reads(self, at: At, table: &str, sql: &str) -> Self {
        self.statement(at, sql, "read", &[table], &[])
    }

    pub(crate) fn writes(self, at: At, table: &str, sql: &str) -> Self {
        self.statement(at, sql, "write", &[], &[table])
    }

    pub(crate) fn statement(
        mut self,
        at: At,
        sql: &str,
        effect: &str,
        reads: &[&str],
        writes: &[&str],
    ) -> Self {
        let inside = json!({"transaction": {"work": 0, "attempt": 1}});
        let (place, step) = match at {
            At::Policy => (inside, "policy"),
            At::Handler => (inside, "handler"),
            At::Work => (inside, "work"),
            At::PolicyOutside => (json!("outside"), "policy"),
            At::Outside => (json!("outside"), "handler"),
            At::Hook => (json!("outside"), "hook"),
        };
        self.statements.push(json!({
            "sql": sql, "effect": effect, "reads": reads, "writes": writes,
            "place": place, "step": step, "rows": 1,
        }));
        self
    }

    /// A statement of the handler that calls functions of the service.
    pub(crate) fn calls(mut self, functions: &[&str], sql: &str) -> Self {
        self = self.statement(At::Handler, sql, "read", &[], &[]);
        if let Some(statement) = self.statements.last_mut() {
            statement["calls"] = json!(functions);
        }
        self
    }

    fn line(&self) -> Value {
        json!({"version": 1, "exchange": {
            "id": 1, "method": self.method, "route": self.route, "status": self.status,
            "works": self.works, "statements": self.statements, "blind": self.blind,
        }})
    }
}

/// The text of a trace.
pub(crate) fn trace(requests: &[Request]) -> String {
    let lines = requests
        .iter()
        .map(|request| format!("{}\n", request.line()));
    lines.collect()
}
