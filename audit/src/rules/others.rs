//! Findings that belong to no operation, or to none alone: IL005 and IL016 to IL018.

use std::collections::{HashMap, HashSet};

use super::{
    finding::{Evidence, Finding},
    findings::Summary,
    guards::Unguarded,
    rule::Rule,
    subject::{Facts, Subject, is_of_policy, list},
};
use crate::{
    document::{Place, ProblemKind},
    trace::{Exchange, Statement},
};

pub(super) fn find(facts: &Facts<'_>, unguarded: &[Unguarded]) -> Vec<Finding> {
    let mut findings = broken_document(facts);
    findings.extend(opaque_statements(facts));
    findings.extend(blind_requests(facts));
    findings.extend(
        unguarded
            .iter()
            .map(|unguarded| unguarded_table(facts, unguarded)),
    );
    findings
}

/// IL005.
fn unguarded_table(facts: &Facts<'_>, unguarded: &Unguarded) -> Finding {
    let Unguarded {
        table,
        read_as,
        reason,
    } = unguarded;
    let read = match table == read_as {
        true => String::new(),
        false => format!(", which policies read as `{read_as}`,"),
    };
    let message = format!("the permission table `{table}`{read} {reason}");
    let rule = Rule::PermissionTableUnguarded;
    let finding = Finding::new(rule, &facts.start, None, message, table);
    finding.observed(evidence_of_table(facts, read_as))
}

/// IL016.
fn broken_document(facts: &Facts<'_>) -> Vec<Finding> {
    let problems = facts
        .document
        .iter()
        .flat_map(|document| document.problems());
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut findings = Vec::new();
    for problem in problems {
        // Lines move. So problems with the same text are told apart by counting them.
        let text = problem
            .message
            .split(" on line ")
            .next()
            .unwrap_or_default();
        let count = seen.entry(text).or_default();
        *count += 1;
        let what = format!("{text} {count}");
        let (rule, message) = (Rule::BrokenDocument, problem.message.clone());
        let finding = Finding::new(rule, &problem.place, None, message, &what);
        // Routers prefer the literal that comes first, so such paths work.
        findings.push(match problem.kind {
            ProblemKind::AmbiguousPath => finding.noted(),
            _ => finding,
        });
    }
    findings
}

/// IL017.
fn opaque_statements(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (subject, exchange) in requests(facts) {
        for statement in &exchange.statements {
            let Some(message) = opacity(statement) else {
                continue;
            };
            let (rule, name) = (Rule::OpaqueStatement, Some(&*subject.name));
            let finding = Finding::new(rule, &subject.place, name, message, &statement.sql);
            findings.push(finding.observed(vec![Evidence::of(statement)]));
        }
    }
    findings
}

/// Why it cannot be told what a statement writes.
fn opacity(statement: &Statement) -> Option<String> {
    if statement.effect.may_write() && statement.writes.is_empty() {
        return Some("a statement may write to any table".to_owned());
    }
    let calls = &statement.calls;
    (!calls.is_empty()).then(|| format!("{} may write unseen", list(calls)))
}

/// IL018.
fn blind_requests(facts: &Facts<'_>) -> Vec<Finding> {
    let of_operations = requests(facts).filter_map(|(subject, exchange)| {
        let name = Some(&*subject.name);
        Some(blind(&subject.place, name, exchange.blind()?))
    });
    let of_none = facts.blind.iter();
    let of_none = of_none.map(|reason| blind(&facts.trace_start, None, reason));
    of_operations.chain(of_none).collect()
}

fn blind(place: &Place, operation: Option<&str>, reason: &str) -> Finding {
    let message = reason.to_owned();
    Finding::new(Rule::RecorderBlind, place, operation, message, reason)
}

/// The requests that a route took, each with its operation.
fn requests<'f>(facts: &'f Facts<'_>) -> impl Iterator<Item = (&'f Subject<'f>, &'f Exchange)> {
    facts.subjects.iter().flat_map(|subject| {
        let exchanges = subject.exchanges.iter();
        exchanges.map(move |exchange| (subject, *exchange))
    })
}

/// The statements of policies that read a table, each once.
fn evidence_of_table(facts: &Facts<'_>, table: &str) -> Vec<Evidence> {
    let statements = requests(facts).flat_map(|(_, exchange)| &exchange.statements);
    let of_table = statements.filter(|statement| {
        is_of_policy(statement) && statement.reads.iter().any(|read| read == table)
    });
    let mut seen = HashSet::new();
    let once = of_table.filter(|statement| seen.insert(&statement.sql));
    once.map(Evidence::of).collect()
}

pub(super) fn summary(facts: &Facts<'_>) -> Summary {
    let is_declared =
        |subject: &&Subject<'_>| subject.documented.is_some() || subject.guard.is_some();
    let declared = || facts.subjects.iter().filter(is_declared);
    let exchanges = || facts.trace.iter().flat_map(|trace| &trace.exchanges);
    Summary {
        operations: declared().count(),
        exercised: facts
            .trace
            .map(|_| declared().filter(|subject| subject.is_exercised()).count()),
        requests: exchanges().count(),
        elsewhere: facts.trace.map_or(0, |trace| trace.elsewhere.len()),
        blind: exchanges()
            .filter(|exchange| exchange.blind().is_some())
            .count(),
    }
}
