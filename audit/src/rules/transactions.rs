//! What the statements of a request tell: IL001 to IL004, IL007 and IL009.

use super::{
    finding::{Evidence, Finding},
    rule::Rule,
    subject::{Facts, Subject, is_of_policy, list},
};
use crate::trace::{Exchange, Kind, Place, Statement, Step};

/// The findings of one operation.
pub(super) fn find(facts: &Facts<'_>, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for exchange in &subject.exchanges {
        let request = Request {
            facts,
            subject,
            exchange,
        };
        let writes = exchange.committed_writes();
        let writes: Vec<_> = writes
            .filter(|write| write.step != Some(Step::Hook))
            .collect();
        for write in &writes {
            findings.extend(request.unchecked(write));
        }
        if !writes.is_empty() {
            findings.extend(request.policy_outside());
            findings.extend(request.policy_without_reads());
        }
        findings.extend(request.safe_method(&writes));
    }
    findings
}

/// A request of an operation.
struct Request<'r> {
    facts: &'r Facts<'r>,
    subject: &'r Subject<'r>,
    exchange: &'r Exchange,
}

impl Request<'_> {
    /// IL001, IL002 and IL003: what is wrong with the check of a write.
    fn unchecked(&self, write: &Statement) -> Option<Finding> {
        let has_policy = !self.exchange.policies().is_empty();
        let (rule, message) = match self.kind_of(write) {
            Some(Kind::Request) if has_policy => return None,
            None if has_policy => {
                let message = "is written on another connection than the policy was checked on";
                (Rule::WriteOutsideTransaction, message)
            }
            Some(Kind::ConditionalWrite) if self.authorizes(write) => return None,
            _ if self.is_checked_beside(write) => return None,
            _ if self.split_check(write).is_some() => {
                let message = "is written in another transaction than the permission is read in";
                (Rule::SplitCheckAndWrite, message)
            }
            _ if self.subject.is_public() => return None,
            _ => (
                Rule::UncheckedMutation,
                "is written, and nothing was checked",
            ),
        };
        let mut evidence: Vec<_> = match rule {
            Rule::UncheckedMutation => Vec::new(),
            Rule::SplitCheckAndWrite => self.split_check(write).into_iter().collect(),
            _ => self.policy_reads().collect(),
        };
        evidence.push(write);
        let message = format!("{} {message}", tables(write));
        Some(self.finding(rule, &message, &write.sql, &evidence))
    }

    /// IL004: the policy reads beside the transaction, or from the past.
    fn policy_outside(&self) -> Option<Finding> {
        if self.exchange.policies().is_empty() {
            return None;
        }
        let inside: Vec<_> = self.policy_reads().filter(|read| is_inside(read)).collect();
        let reads_it_inside = |read: &Statement| {
            let reads =
                |inside: &&Statement| read.reads.iter().all(|table| inside.reads.contains(table));
            inside.iter().any(reads)
        };
        let is_stale = |read: &&Statement| {
            let from_the_past = read.sql.to_uppercase().contains("AS OF SYSTEM TIME");
            from_the_past || !is_inside(read) && !reads_it_inside(read)
        };
        let read = self.policy_reads().find(is_stale)?;
        let message = format!(
            "the policy reads {} outside of the transaction",
            list(&read.reads)
        );
        Some(self.finding(Rule::CheckOutsideTransaction, &message, &read.sql, &[read]))
    }

    /// IL007: a policy was checked, and ran no statement.
    fn policy_without_reads(&self) -> Option<Finding> {
        let policies = self.exchange.policies();
        let runs_none = !self.exchange.statements.iter().any(is_of_policy);
        if policies.is_empty() || !runs_none {
            return None;
        }
        let message = format!(
            "the policy {} reads nothing, and the request writes",
            list(policies)
        );
        let writes: Vec<_> = self.exchange.committed_writes().collect();
        Some(self.finding(Rule::StaleClaims, &message, &policies.join(" "), &writes))
    }

    /// IL009: a GET or HEAD writes.
    fn safe_method(&self, writes: &[&Statement]) -> Option<Finding> {
        let method = self.exchange.method.as_str();
        let write = writes
            .first()
            .filter(|_| ["GET", "HEAD"].contains(&method))?;
        let message = format!("{method} writes {}", tables(write));
        Some(self.finding(Rule::SafeMethodWrites, &message, &write.sql, &[write]))
    }

    fn finding(&self, rule: Rule, message: &str, what: &str, evidence: &[&Statement]) -> Finding {
        let Subject { place, name, .. } = self.subject;
        let finding = Finding::new(rule, place, Some(name), message.to_owned(), what);
        finding.observed(
            evidence
                .iter()
                .map(|statement| Evidence::of(statement))
                .collect(),
        )
    }

    /// The statements of policies that read a table.
    fn policy_reads(&self) -> impl Iterator<Item = &Statement> {
        let statements = self.exchange.statements.iter();
        statements.filter(|statement| is_of_policy(statement) && !statement.reads.is_empty())
    }

    /// The kind of work whose transaction a statement ran in. `None`: outside of any.
    fn kind_of(&self, statement: &Statement) -> Option<Kind> {
        match statement.place {
            Place::Transaction { work, .. } => {
                let work = self.exchange.works.get(work);
                Some(work.map_or(Kind::Unfinished, |work| work.kind))
            }
            Place::Outside => None,
        }
    }

    /// Whether a conditional write has a condition about the caller. Without the lock file, any
    /// table that it reads beside the ones that it writes counts as one.
    fn authorizes(&self, write: &Statement) -> bool {
        if self.subject.guard.is_some() {
            return ["permitted", "authenticated"]
                .iter()
                .any(|kind| self.subject.has_condition(kind));
        }
        write
            .reads
            .iter()
            .any(|table| !write.writes.contains(table))
    }

    /// Whether a permission is read by the write itself, or before it in the same transaction.
    fn is_checked_beside(&self, write: &Statement) -> bool {
        let earlier = self
            .until(write)
            .filter(|statement| is_inside(statement) && statement.place == write.place);
        let mut beside = earlier.chain([write]);
        beside.any(|statement| self.reads_permission(statement))
    }

    /// A read of a permission before the write, elsewhere.
    fn split_check(&self, write: &Statement) -> Option<&Statement> {
        let elsewhere =
            |statement: &&Statement| statement.place != write.place || !is_inside(statement);
        let mut earlier = self.until(write).filter(elsewhere);
        earlier.find(|statement| self.reads_permission(statement))
    }

    fn reads_permission(&self, statement: &Statement) -> bool {
        let mut reads = statement.reads.iter();
        reads.any(|table| self.facts.permission_tables.contains(table))
    }

    /// The statements before another one.
    fn until(&self, end: &Statement) -> impl Iterator<Item = &Statement> {
        let statements = self.exchange.statements.iter();
        statements.take_while(move |statement| !std::ptr::eq(*statement, end))
    }
}

fn is_inside(statement: &Statement) -> bool {
    matches!(statement.place, Place::Transaction { .. })
}

fn tables(write: &Statement) -> String {
    match write.writes.is_empty() {
        true => "an unknown table".to_owned(),
        false => list(&write.writes),
    }
}
