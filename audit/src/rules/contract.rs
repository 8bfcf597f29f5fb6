//! Where document, lock file and trace disagree: IL008 and IL010 to IL015, and the note of IL009.

use super::{
    finding::{Evidence, Finding},
    rule::Rule,
    subject::{Facts, Subject, succeeded},
};
use crate::{
    coverage::Guard,
    document::{Document, Operation, Security, Template},
    trace::{Exchange, Kind},
};

/// The findings of one operation.
pub(super) fn find(facts: &Facts<'_>, subject: &Subject<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(not_read_only(subject));
    findings.extend(uncovered(facts, subject));
    match (facts.document, subject.documented) {
        (Some(document), Some(operation)) => {
            findings.extend(not_enforced(facts, subject, operation));
            findings.extend(no_precondition(document, subject, operation));
            findings.extend(precondition_undocumented(subject, operation));
            findings.extend(security_undocumented(subject, operation));
            findings.extend(denial_undocumented(subject, operation));
        }
        (Some(_), None) => findings.extend(undocumented(subject)),
        (None, _) => {}
    }
    findings
}

/// A finding of this subject.
fn finding(rule: Rule, subject: &Subject<'_>, message: String, what: &str) -> Finding {
    Finding::new(rule, &subject.place, Some(&subject.name), message, what)
}

/// IL008.
fn not_enforced(
    facts: &Facts<'_>,
    subject: &Subject<'_>,
    operation: &Operation,
) -> Option<Finding> {
    let rule = Rule::DeclaredNotEnforced;
    if !operation.security.is_required() {
        return None;
    }
    match subject.guard {
        Some(Guard::Uncovered(_)) => {
            let message = "the document requires security, and nothing protects the route";
            Some(finding(rule, subject, message.to_owned(), "uncovered"))
        }
        Some(Guard::Public(reason)) => {
            let message =
                format!("the document requires security, and the route is public: {reason}");
            Some(finding(rule, subject, message, "public"))
        }
        Some(_) => None,
        None => {
            let is_bare = |exchange: &&&Exchange| succeeded(exchange) && is_bare(facts, exchange);
            let exchange = subject.exchanges.iter().find(is_bare)?;
            let status = exchange.status.unwrap_or_default();
            let message = format!(
                "the document requires security, and a request without a policy got {status}"
            );
            let of_tables = exchange
                .statements
                .iter()
                .filter(|statement| !statement.reads.is_empty() || !statement.writes.is_empty());
            let evidence = of_tables.map(Evidence::of).collect();
            Some(finding(rule, subject, message, "uncovered").observed(evidence))
        }
    }
}

/// Whether nothing of the interlock was part of the request, and no permission was read by hand.
fn is_bare(facts: &Facts<'_>, exchange: &Exchange) -> bool {
    let mut reads = exchange
        .statements
        .iter()
        .flat_map(|statement| &statement.reads);
    let is_checked = reads.any(|table| facts.permission_tables.contains(table));
    exchange.works.is_empty() && !is_checked
}

/// The note of IL009: a GET that may write.
fn not_read_only(subject: &Subject<'_>) -> Option<Finding> {
    match subject.guard {
        Some(Guard::Requires {
            read_only: false, ..
        }) if subject.method == "GET" => {
            let message = "the policy of a GET is not `.read_only()`".to_owned();
            Some(finding(Rule::SafeMethodWrites, subject, message, "read-only").noted())
        }
        _ => None,
    }
}

/// IL010.
fn no_precondition(
    document: &Document,
    subject: &Subject<'_>,
    operation: &Operation,
) -> Option<Finding> {
    let writes = ["PUT", "PATCH", "DELETE"].contains(&&*subject.method);
    let has_one = operation.has_parameter("header", "If-Match") || subject.has_condition("current");
    if !writes || has_one {
        return None;
    }
    let rule = Rule::NoPrecondition;
    let versioned = subject
        .exchanges
        .iter()
        .flat_map(|exchange| exchange.committed_writes());
    for write in versioned {
        if let Some(column) = version_column(&write.sql) {
            let message = format!("the row has the version `{column}`, which is not compared");
            let found = finding(rule, subject, message, &write.sql);
            return Some(found.observed(vec![Evidence::of(write)]));
        }
    }
    let path = Template::read(&operation.path);
    let mut same_path = document.operations().iter().filter(|other| {
        other.method == "GET" && Template::read(&other.path) == path || *other == operation
    });
    let has_etag = same_path.any(|other| other.responds_with("ETag"));
    let message = "responses of the path have an ETag, and this operation takes no If-Match";
    has_etag.then(|| finding(rule, subject, message.to_owned(), "etag"))
}

/// The column of `SET version = version + 1`, if nothing after it compares the column.
fn version_column(sql: &str) -> Option<&str> {
    let words: Vec<&str> = sql.split_whitespace().collect();
    let at = words.windows(4).position(|words| match words {
        [column, "=", same, "+"] => column.trim_start_matches('(') == *same,
        _ => false,
    })?;
    let column = words.get(at + 2)?;
    let rest = words.get(at + 4..)?;
    let compared = rest
        .iter()
        .any(|word| word.trim_matches(|c| "(),".contains(c)) == *column);
    (!compared).then_some(column)
}

/// IL011.
fn precondition_undocumented(subject: &Subject<'_>, operation: &Operation) -> Option<Finding> {
    let has_current = subject.has_condition("current");
    let seen = |status: u16| {
        let mut exchanges = subject.exchanges.iter();
        exchanges.any(|exchange| exchange.status == Some(status))
    };
    let (failed, missing) = (seen(412), seen(428));
    if !(has_current || failed || missing) {
        return None;
    }
    let documents = |status| operation.documents(status) || operation.has_default();
    let header = ["If-Match", "If-None-Match"];
    let has_header = header
        .iter()
        .any(|name| operation.has_parameter("header", name));
    let mut lacking = Vec::new();
    if !has_header {
        lacking.push("the header If-Match");
    }
    if (has_current || failed) && !documents(412) {
        lacking.push("the status 412");
    }
    if missing && !documents(428) {
        lacking.push("the status 428");
    }
    if lacking.is_empty() {
        return None;
    }
    let lacking = lacking.join(" and ");
    let message = format!("the route checks a precondition, and the document lacks {lacking}");
    let found = finding(Rule::PreconditionUndocumented, subject, message, &lacking);
    Some(if failed || missing {
        found.observed(Vec::new())
    } else {
        found
    })
}

/// IL012.
fn security_undocumented(subject: &Subject<'_>, operation: &Operation) -> Option<Finding> {
    if !matches!(operation.security, Security::Undeclared | Security::Public) {
        return None;
    }
    let message = |policy: &str| format!("the document requires nothing, and {policy} is checked");
    let rule = Rule::SecurityUndocumented;
    match subject.guard {
        Some(Guard::Requires { policies, .. }) => {
            let policy = format!("the policy `{}`", policies.join("`, `"));
            Some(finding(rule, subject, message(&policy), "policy"))
        }
        Some(Guard::Conditional(_)) => Some(finding(
            rule,
            subject,
            message("a condition of the write"),
            "policy",
        )),
        Some(_) => None,
        None => {
            let mut policies = subject.exchanges.iter().map(|exchange| exchange.policies());
            let policies = policies.find(|policies| !policies.is_empty())?;
            let policy = format!("the policy `{}`", policies.join("`, `"));
            Some(finding(rule, subject, message(&policy), "policy").observed(Vec::new()))
        }
    }
}

/// IL013.
fn undocumented(subject: &Subject<'_>) -> Option<Finding> {
    let rule = Rule::UndocumentedRoute;
    let is_there = |exchange: &&&Exchange| exchange.status != Some(404);
    if let Some(exchange) = subject.exchanges.iter().find(is_there) {
        let status = exchange.status.unwrap_or_default();
        let message = format!("the document does not have the route, which responds with {status}");
        return Some(finding(rule, subject, message, "").observed(Vec::new()));
    }
    subject.guard?;
    let message = "the lock file has the route, and the document does not".to_owned();
    Some(finding(rule, subject, message, ""))
}

/// IL014.
fn denial_undocumented(subject: &Subject<'_>, operation: &Operation) -> Option<Finding> {
    const DENIALS: [u16; 3] = [401, 403, 404];
    if operation.has_default() {
        return None;
    }
    let rule = Rule::DenialUndocumented;
    let met_policy = |exchange: &&&Exchange| {
        let mut works = exchange.works.iter();
        works.any(|work| matches!(work.kind, Kind::Request | Kind::ConditionalWrite))
    };
    let seen = subject.exchanges.iter().filter(met_policy);
    let seen = seen.filter_map(|exchange| exchange.status);
    let mut undocumented =
        seen.filter(|status| DENIALS.contains(status) && !operation.documents(*status));
    if let Some(status) = undocumented.next() {
        let message = format!("a request got {status}, which the document does not have");
        return Some(finding(rule, subject, message, "").observed(Vec::new()));
    }
    let Some(Guard::Requires { policies, .. }) = subject.guard else {
        return None;
    };
    if DENIALS.iter().any(|status| operation.documents(*status)) {
        return None;
    }
    let policies = policies.join("`, `");
    let message =
        format!("the policy `{policies}` can deny, and the document has no 401, 403 or 404");
    Some(finding(rule, subject, message, ""))
}

/// IL015.
fn uncovered(facts: &Facts<'_>, subject: &Subject<'_>) -> Vec<Finding> {
    let rule = Rule::UncoveredOperation;
    let mut findings = Vec::new();
    match subject.guard {
        Some(Guard::Uncovered(_)) => {
            let message = "nothing protects the route, says the lock file".to_owned();
            findings.push(finding(rule, subject, message, "uncovered").failed());
        }
        None if facts.has_lock && subject.documented.is_some() => {
            let message = "the lock file does not have the operation".to_owned();
            findings.push(finding(rule, subject, message, "unlocked").failed());
        }
        _ => {}
    }
    if facts.trace.is_some() && !subject.is_exercised() {
        let message = match subject.exchanges.is_empty() {
            true => "no request of the trace took the operation",
            false => "no request of the trace has succeeded",
        };
        findings.push(finding(rule, subject, message.to_owned(), "unseen"));
    }
    findings
}
