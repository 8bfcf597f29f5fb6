//! IL006: the path names an object, and the policy does not seem to look at it.

use super::{
    finding::{Evidence, Finding},
    rule::Rule,
    subject::{Subject, is_of_policy, list},
};
use crate::{
    coverage::Guard,
    trace::{Exchange, Statement},
};

/// The finding of one operation. Any sign that the policy looks at the object is enough to have
/// none.
pub(super) fn find(subject: &Subject<'_>) -> Option<Finding> {
    if !subject.path.contains('{') {
        return None;
    }
    if matches!(subject.guard, Some(Guard::Requires { by_path: true, .. })) {
        return None;
    }
    let requests = || {
        subject
            .exchanges
            .iter()
            .filter(|it| !it.policies().is_empty())
    };
    if requests().flat_map(|it| of_policy(it)).any(has_two_values) {
        return None;
    }
    let observed = requests().find(|exchange| of_policy(exchange).next().is_some());
    match (observed, subject.guard) {
        (Some(exchange), _) => {
            let evidence = of_policy(exchange).map(Evidence::of);
            Some(finding(subject, exchange.policies()).observed(evidence.collect()))
        }
        // The policies behind the outermost one are not probed.
        (None, Some(Guard::Requires { policies, .. })) if policies.len() == 1 => {
            Some(finding(subject, policies).noted())
        }
        (None, _) => None,
    }
}

fn finding(subject: &Subject<'_>, policies: &[String]) -> Finding {
    let names = list(policies);
    let message = format!("the policy {names} does not seem to look at the object of the path");
    let (rule, what) = (Rule::ObjectIdNotChecked, policies.join(" "));
    Finding::new(rule, &subject.place, Some(&subject.name), message, &what)
}

fn of_policy(exchange: &Exchange) -> impl Iterator<Item = &Statement> {
    exchange.statements.iter().filter(|it| is_of_policy(it))
}

fn has_two_values(statement: &Statement) -> bool {
    statement.sql.contains("$2")
}
