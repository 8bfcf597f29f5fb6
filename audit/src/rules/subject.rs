//! Subjects: each operation with its part of the document, of the lock file and of the trace.

use std::collections::{BTreeSet, HashMap};

use crate::{
    coverage::{Guard, Lock},
    document::{Document, Operation, Place, Template},
    trace::{Exchange, Statement, Step, Trace},
};

/// What is known of an operation.
#[derive(Debug)]
pub(super) struct Subject<'s> {
    pub(super) method: String,
    pub(super) name: String,
    pub(super) path: String,
    pub(super) place: Place,
    pub(super) documented: Option<&'s Operation>,
    pub(super) guard: Option<&'s Guard>,
    pub(super) exchanges: Vec<&'s Exchange>,
}

/// Everything that the rules look at.
#[derive(Debug)]
pub(super) struct Facts<'f> {
    pub(super) document: Option<&'f Document>,
    pub(super) has_lock: bool,
    pub(super) trace: Option<&'f Trace>,
    pub(super) subjects: Vec<Subject<'f>>,
    /// The tables that policies and conditions read.
    pub(super) permission_tables: BTreeSet<String>,
    /// Why statements may be missing that belong to no operation.
    pub(super) blind: Vec<&'f str>,
    /// Where findings are that belong to the trace alone.
    pub(super) trace_start: Place,
    /// Where findings are that belong to no operation.
    pub(super) start: Place,
}

/// A file beside the document: its name for people, and what was read from it.
#[derive(Debug)]
pub(super) struct Source<T> {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) value: T,
}

impl<'f> Facts<'f> {
    pub(super) fn gather(
        document: Option<&'f Document>,
        lock: Option<&'f Source<Lock>>,
        trace: Option<&'f Source<Trace>>,
    ) -> Self {
        let mut subjects = Subjects::new(document);
        if let Some(lock) = lock {
            for (operation, guard) in lock.value.lines() {
                let place = line_of(lock, &operation.method, &operation.path);
                subjects
                    .get(&operation.method, &operation.path, &place)
                    .guard = Some(guard);
            }
        }
        let trace_start = trace.map_or_else(Place::default, |trace| Place::first_of(&trace.name));
        let mut blind = Vec::new();
        for exchange in trace.iter().flat_map(|trace| &trace.value.exchanges) {
            if let Some(route) = exchange.route.as_ref().filter(|_| is_routed(exchange)) {
                let subject = subjects.get(&exchange.method, route, &trace_start);
                subject.exchanges.push(exchange);
            } else if let Some(reason) = exchange.blind() {
                blind.push(reason);
            }
        }
        blind.extend(trace.and_then(|trace| trace.value.elsewhere_blind.as_deref()));
        let start = match (document, lock, trace) {
            (Some(document), ..) => document.start().clone(),
            (_, Some(Source { name, .. }), _) | (_, _, Some(Source { name, .. })) => {
                Place::first_of(name)
            }
            _ => Place::default(),
        };
        Self {
            document,
            has_lock: lock.is_some(),
            trace: trace.map(|trace| &trace.value),
            permission_tables: permission_tables(lock, trace),
            subjects: subjects.all,
            blind,
            trace_start,
            start,
        }
    }
}

impl Subject<'_> {
    /// Why it needs no policy, if it does not.
    pub(super) fn is_public(&self) -> bool {
        let by_document = self
            .documented
            .is_some_and(|documented| documented.public.is_some());
        by_document || matches!(self.guard, Some(Guard::Public(_)))
    }

    /// Whether the lock file names a condition of this kind.
    pub(super) fn has_condition(&self, kind: &str) -> bool {
        match self.guard {
            Some(Guard::Conditional(conditions)) => {
                let mut conditions = conditions.iter();
                conditions.any(|condition| condition.split('(').next() == Some(kind))
            }
            _ => false,
        }
    }

    /// Whether a request has succeeded.
    pub(super) fn is_exercised(&self) -> bool {
        self.exchanges.iter().any(|exchange| succeeded(exchange))
    }
}

pub(super) fn succeeded(exchange: &Exchange) -> bool {
    exchange.status.is_some_and(|status| status < 400)
}

/// Whether the statement belongs to a policy, and looks something up. The interlock's own look at
/// what a policy has read does neither.
pub(super) fn is_of_policy(statement: &Statement) -> bool {
    let looks_up = !(statement.reads.is_empty() && statement.calls.is_empty());
    statement.step == Some(Step::Policy) && looks_up
}

/// Names for people.
pub(super) fn list(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// Whether a route took the request. The router answers 405 itself.
fn is_routed(exchange: &Exchange) -> bool {
    exchange.status != Some(405)
}

struct Subjects<'s> {
    all: Vec<Subject<'s>>,
    by_template: HashMap<(String, Template), usize>,
}

impl<'s> Subjects<'s> {
    fn new(document: Option<&'s Document>) -> Self {
        let mut subjects = Self {
            all: Vec::new(),
            by_template: HashMap::new(),
        };
        let Some(document) = document else {
            return subjects;
        };
        for operation in document.operations() {
            let at = subjects.all.len();
            let template = Template::read(&operation.path);
            let behind = document
                .prefixes()
                .iter()
                .map(|prefix| template.behind(prefix));
            for template in behind.chain([template.clone()]) {
                let key = (operation.method.clone(), template);
                subjects.by_template.entry(key).or_insert(at);
            }
            subjects.all.push(Subject {
                method: operation.method.clone(),
                name: operation.name(),
                path: operation.path.clone(),
                place: operation.place.clone(),
                documented: Some(operation),
                guard: None,
                exchanges: Vec::new(),
            });
        }
        subjects
    }

    /// The subject of a route. A HEAD that nothing else names is that of the GET.
    fn get(&mut self, method: &str, path: &str, place: &Place) -> &mut Subject<'s> {
        let template = Template::read(path);
        let find = |method: &str| {
            let key = (method.to_owned(), template.clone());
            self.by_template.get(&key).copied()
        };
        let of_get = || find("GET").filter(|_| method == "HEAD");
        let at = find(method).or_else(of_get).unwrap_or_else(|| {
            self.all.push(Subject {
                method: method.to_owned(),
                name: format!("{method} {path}"),
                path: path.to_owned(),
                place: place.clone(),
                documented: None,
                guard: None,
                exchanges: Vec::new(),
            });
            let at = self.all.len() - 1;
            self.by_template.insert((method.to_owned(), template), at);
            at
        });
        #[allow(clippy::indexing_slicing, reason = "the index was just found")]
        &mut self.all[at]
    }
}

/// The line of a lock file that names an operation.
fn line_of(lock: &Source<Lock>, method: &str, path: &str) -> Place {
    let is_it = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some(method) && words.next() == Some(path)
    };
    let line = lock.text.lines().position(is_it).unwrap_or_default() + 1;
    Place::line_of(&lock.name, u32::try_from(line).unwrap_or(u32::MAX))
}

/// What policies were seen to read, and what the conditions of the lock file read.
fn permission_tables(
    lock: Option<&Source<Lock>>,
    trace: Option<&Source<Trace>>,
) -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    for exchange in trace.iter().flat_map(|trace| &trace.value.exchanges) {
        let of_policies = exchange
            .statements
            .iter()
            .filter(|statement| is_of_policy(statement));
        tables.extend(of_policies.flat_map(|statement| statement.reads.iter().cloned()));
    }
    for (_, guard) in lock.iter().flat_map(|lock| lock.value.lines()) {
        let Guard::Conditional(conditions) = guard else {
            continue;
        };
        for condition in conditions {
            if let Some((kind, read)) = condition.split_once('(')
                && ["permitted", "authenticated"].contains(&kind)
            {
                let read = read.trim_end_matches(')').split(',');
                tables.extend(read.filter(|table| !table.is_empty()).map(str::to_owned));
            }
        }
    }
    tables
}
