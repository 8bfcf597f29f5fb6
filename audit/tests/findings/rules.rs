//! Each rule: an example that it finds, and a near miss that it does not find.

use tower_interlock_audit::{
    Audit, Findings,
    findings::{Confidence, Level},
};

use crate::{
    folder::Folder,
    requests::{At, Request, trace},
};

const CHECK: &str = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)";
const WRITE: &str = "UPDATE documents SET body = $1 WHERE id = $2";
const PUT: &str = "PUT /documents/{document}";

/// A document with one operation, and this at the operation.
fn document(operation: &str) -> String {
    format!(
        "openapi: 3.1.0\ncomponents: {{securitySchemes: {{token: {{type: http}}}}}}\n\
         paths:\n  /documents/{{document}}:\n    put:\n      {operation}\n"
    )
}

/// An operation that has everything.
const COMPLETE: &str = "{security: [{token: []}], responses: {default: {description: x}}, \
                        parameters: [{name: If-Match, in: header}]}";

fn put() -> Request {
    Request::new("PUT", "/documents/{id}")
}

/// A request without a fault, from which the permission tables are learnt.
fn good() -> Request {
    let request = put()
        .policy("documents.edit")
        .reads(At::Policy, "grants", CHECK);
    request.writes(At::Handler, "documents", WRITE)
}

fn audit(document: &str, lock: &str, requests: &[Request]) -> Findings {
    let folder = Folder::of([("openapi.yaml", document), ("authz.lock", lock)]);
    let mut audit = Audit::new().document(folder.read("openapi.yaml").unwrap());
    if !lock.is_empty() {
        audit = audit.lock(folder.path("authz.lock")).unwrap();
    }
    if !requests.is_empty() {
        folder.write("trace.jsonl", &trace(requests));
        audit = audit.trace_file(folder.path("trace.jsonl")).unwrap();
    }
    audit.run()
}

/// The numbers of the rules that have found something.
fn rules(findings: &Findings) -> Vec<&'static str> {
    findings
        .findings
        .iter()
        .map(|finding| finding.rule.id())
        .collect()
}

#[track_caller]
fn assert_seen(request: Request, expected: &[&str]) -> Findings {
    let findings = audit(&document(COMPLETE), "", &[good(), request]);
    assert_eq!(rules(&findings), expected, "{findings}");
    findings
}

#[track_caller]
fn assert_documented(operation: &str, lock: &str, expected: &[&str]) -> Findings {
    let lock = format!("{PUT} {lock}\n");
    let findings = audit(&document(operation), &lock, &[]);
    assert_eq!(rules(&findings), expected, "{findings}");
    findings
}

#[test]
fn il001_unchecked_write_is_found() {
    let findings = assert_seen(
        put().writes(At::Outside, "documents", WRITE),
        &["IL001", "IL008"],
    );
    let finding = &findings.findings[0];
    assert_eq!(finding.confidence, Confidence::Observed);
    assert_eq!(finding.operation.as_deref(), Some(PUT));
    assert_eq!((finding.place.line, finding.place.column), (5, 5));
    assert_eq!(finding.evidence[0].place, "outside, handler");
    let closure = put()
        .work("closure", "edit", "committed")
        .writes(At::Work, "documents", WRITE);
    assert_seen(closure, &["IL001"]);
}

#[test]
fn il001_public_route_hook_rollback_and_conditional_write_are_not_found() {
    assert_seen(
        good().writes(At::Hook, "mails", "INSERT INTO mails VALUES ($1)"),
        &[],
    );
    let rolled_back = put().work("closure", "edit", "rolled_back");
    assert_seen(rolled_back.writes(At::Work, "documents", WRITE), &[]);
    let conditional = put().work("conditional_write", WRITE, "committed");
    assert_seen(
        conditional.statement(At::Work, WRITE, "write", &["grants"], &["documents"]),
        &[],
    );
    let public = "{x-interlock-public: a wiki, responses: {default: {description: x}}}";
    let write = put().writes(At::Outside, "documents", WRITE);
    assert!(rules(&audit(&document(public), "", &[write])).is_empty());
}

#[test]
fn il001_conditional_write_without_condition_about_the_caller_is_found() {
    let conditional = put().work("conditional_write", WRITE, "committed");
    assert_seen(conditional.writes(At::Work, "documents", WRITE), &["IL001"]);
}

#[test]
fn il002_permission_of_another_transaction_is_found() {
    let split = put()
        .reads(At::Outside, "grants", CHECK)
        .writes(At::Outside, "documents", WRITE);
    let findings = assert_seen(split, &["IL002"]);
    let statements: Vec<_> = findings.findings[0]
        .evidence
        .iter()
        .map(|one| &*one.statement)
        .collect();
    assert_eq!(statements, [CHECK, WRITE]);
    let closure = put()
        .work("closure", "edit", "committed")
        .reads(At::Outside, "grants", CHECK);
    assert_seen(closure.writes(At::Work, "documents", WRITE), &["IL002"]);
}

#[test]
fn il002_permission_that_is_read_again_in_the_transaction_is_not_found() {
    let closure = put()
        .work("closure", "edit", "committed")
        .reads(At::Outside, "grants", CHECK);
    let again = closure.reads(At::Work, "grants", CHECK);
    assert_seen(again.writes(At::Work, "documents", WRITE), &[]);
}

#[test]
fn il003_write_on_the_pool_is_found_and_read_on_the_pool_is_not() {
    let write = "INSERT INTO copies VALUES ($1)";
    assert_seen(good().writes(At::Outside, "copies", write), &["IL003"]);
    assert_seen(
        good().reads(At::Outside, "documents", "SELECT body FROM documents"),
        &[],
    );
}

#[test]
fn il004_policy_on_the_pool_or_in_the_past_is_found() {
    let policy = || put().policy("documents.edit");
    let outside = policy().reads(At::PolicyOutside, "grants", CHECK);
    assert_seen(outside.writes(At::Handler, "documents", WRITE), &["IL004"]);
    let stale = format!("{CHECK} AS OF SYSTEM TIME ?");
    let stale = policy().reads(At::Policy, "grants", &stale);
    assert_seen(stale.writes(At::Handler, "documents", WRITE), &["IL004"]);
}

#[test]
fn il004_policy_that_reads_the_table_in_the_transaction_too_is_not_found() {
    let both = put()
        .policy("documents.edit")
        .reads(At::PolicyOutside, "grants", CHECK);
    let both = both.reads(At::Policy, "grants", CHECK);
    assert_seen(both.writes(At::Handler, "documents", WRITE), &[]);
    let only_reads = put()
        .policy("documents.edit")
        .reads(At::PolicyOutside, "grants", CHECK);
    assert_seen(only_reads, &[]);
}

#[test]
fn il006_policy_with_one_value_is_found_and_with_two_is_not() {
    let member = "SELECT EXISTS (SELECT 1 FROM members WHERE user_id = $1)";
    let request = || {
        let request = put()
            .policy("documents.edit")
            .reads(At::Policy, "members", member);
        request.writes(At::Handler, "documents", WRITE)
    };
    let found = |lock: &str, requests: &[Request]| {
        let findings = audit(&document(COMPLETE), lock, requests);
        let levels = findings.findings.iter().map(|it| (it.rule.id(), it.level));
        levels.collect::<Vec<_>>()
    };
    assert_eq!(found("", &[request()]), [("IL006", Level::Warning)]);
    assert_eq!(found("", &[good()]), []);
    // Any sign that the policy looks at the object is enough.
    assert_eq!(found("", &[good(), request()]), []);
    let by_path = format!("{PUT} requires documents.edit, by path\n");
    assert_eq!(found(&by_path, &[request()]), []);
    let without = format!("{PUT} requires documents.edit\n");
    assert_eq!(found(&without, &[request()]), [("IL006", Level::Warning)]);
}

#[test]
fn il006_policy_without_the_path_is_a_note_if_only_the_lock_file_tells() {
    let findings = assert_documented(COMPLETE, "requires documents.edit", &["IL006"]);
    assert_eq!(findings.findings[0].level, Level::Note);
    assert_documented(COMPLETE, "requires documents.edit, by path", &[]);
    assert_documented(COMPLETE, "requires known + documents.edit", &[]);
    let health = "openapi: 3.1.0\npaths: {/a: {put: {responses: {default: {}}}}}\n";
    let lock = "PUT /a requires known\n";
    assert_eq!(rules(&audit(health, lock, &[])), ["IL012"]);
}

#[test]
fn il007_policy_without_reads_is_found_before_a_write_only() {
    let request = || put().policy("token");
    assert_seen(
        request().writes(At::Handler, "documents", WRITE),
        &["IL007"],
    );
    assert_seen(
        request().reads(At::Handler, "documents", "SELECT body FROM documents"),
        &[],
    );
}

#[test]
fn il008_successful_request_without_a_check_is_found() {
    let read = || put().reads(At::Outside, "documents", "SELECT body FROM documents");
    assert_seen(read(), &["IL008"]);
    assert_seen(read().status(401), &[]);
    assert_seen(read().reads(At::Outside, "grants", CHECK), &[]);
}

#[test]
fn il008_uncovered_or_public_route_is_found() {
    let uncovered = "UNCOVERED until 2100-01-01 \"later\"";
    assert_documented(COMPLETE, uncovered, &["IL008", "IL015"]);
    assert_documented(COMPLETE, "public \"a wiki\"", &["IL008"]);
    assert_documented(COMPLETE, "requires documents.edit, by path", &[]);
    let public = "{security: [], responses: {default: {description: x}}}";
    assert_documented(public, "public \"a wiki\"", &[]);
}

#[test]
fn il009_get_that_writes_is_found() {
    let document = "openapi: 3.1.0\npaths: {/a: {get: {responses: {default: {description: x}}}}}\n\
                    security: [{token: []}]\ncomponents: {securitySchemes: {token: {type: http}}}\n";
    let get = || {
        Request::new("GET", "/a")
            .policy("read")
            .reads(At::Policy, "grants", CHECK)
    };
    let writes = get().writes(At::Handler, "reads", "INSERT INTO reads VALUES ($1)");
    assert_eq!(rules(&audit(document, "", &[writes])), ["IL009"]);
    let hook = get().writes(At::Hook, "reads", "INSERT INTO reads VALUES ($1)");
    assert!(rules(&audit(document, "", &[hook])).is_empty());
    let note = audit(document, "GET /a requires read\n", &[]);
    assert_eq!(
        (rules(&note), note.findings[0].level),
        (vec!["IL009"], Level::Note)
    );
    assert!(rules(&audit(document, "GET /a requires read, read-only\n", &[])).is_empty());
}

#[test]
fn il010_versioned_row_without_if_match_is_found() {
    let bare = "{security: [{token: []}], responses: {default: {description: x}}}";
    let writes = |sql: &str| {
        let request = put()
            .policy("documents.edit")
            .reads(At::Policy, "grants", CHECK);
        rules(&audit(
            &document(bare),
            "",
            &[request.writes(At::Handler, "documents", sql)],
        ))
    };
    assert_eq!(
        writes("UPDATE documents SET version = version + ? WHERE id = $1"),
        ["IL010"]
    );
    let compared = "UPDATE documents SET version = version + ? WHERE id = $1 AND version = $2";
    assert!(writes(compared).is_empty());
    assert!(writes("UPDATE documents SET body = $1").is_empty());
    let etag = "{security: [{token: []}], responses: {'200': {headers: {ETag: {}}}, default: {}}}";
    assert_documented(etag, "requires documents.edit, by path", &["IL010"]);
    assert_documented(
        etag,
        "conditional permitted(grants) current(documents)",
        &["IL011"],
    );
}

#[test]
fn il011_undocumented_precondition_is_found() {
    let bare = "{security: [{token: []}], responses: {'412': {description: x}}}";
    let lock = "conditional permitted(grants) current(documents)";
    let findings = assert_documented(bare, lock, &["IL011"]);
    assert!(
        findings.findings[0]
            .message
            .ends_with("lacks the header If-Match"),
        "{findings}"
    );
    assert_documented(COMPLETE, lock, &[]);
    let header = "{security: [{token: []}], responses: {'200': {}, '403': {}}, \
                  parameters: [{name: if-match, in: header}]}";
    assert_documented(header, lock, &["IL011"]);
    assert_documented(header, "requires documents.edit, by path", &[]);
}

#[test]
fn il012_policy_on_public_operation_is_found() {
    let public = "{security: [], responses: {default: {description: x}}}";
    assert_documented(public, "requires documents.edit, by path", &["IL012"]);
    let seen = audit(&document(public), "", &[good()]);
    assert_eq!(rules(&seen), ["IL012"]);
    let optional = "{security: [{token: []}, {}], responses: {default: {description: x}}}";
    assert_documented(optional, "requires documents.edit, by path", &[]);
}

#[test]
fn il013_route_that_the_document_lacks_is_found() {
    let other = || Request::new("POST", "/internal/reindex");
    assert_seen(other(), &["IL013"]);
    assert_seen(other().status(404), &["IL015"]);
    assert_seen(Request::new("POST", "/documents/{id}").status(405), &[]);
    let lock = format!("{PUT} requires documents.edit, by path\nPOST /b requires known\n");
    assert_eq!(rules(&audit(&document(COMPLETE), &lock, &[])), ["IL013"]);
}

#[test]
fn il013_route_behind_the_path_of_a_server_is_documented() {
    let servers = "servers: [{url: 'https://example.com/{v}/', variables: {v: {default: v1}}}]\n";
    let document = format!("{}{servers}", document(COMPLETE));
    let put = Request::new("PUT", "/v1/documents/{x}").policy("documents.edit");
    let put = put.reads(At::Policy, "grants", CHECK);
    assert!(rules(&audit(&document, "", &[put])).is_empty());
}

#[test]
fn il014_undocumented_denial_is_found() {
    let silent = "{security: [{token: []}], responses: {'204': {description: x}}}";
    assert_documented(silent, "requires documents.edit, by path", &["IL014"]);
    let denies = "{security: [{token: []}], responses: {'200': {}, '4XX': {description: x}}}";
    assert_documented(denies, "requires documents.edit, by path", &[]);
    let only_403 = "{security: [{token: []}], responses: {'200': {}, '403': {}}}";
    let denied = put()
        .work("request", "documents.edit", "rolled_back")
        .status(401);
    let findings = audit(&document(only_403), "", &[good(), denied]);
    assert_eq!(rules(&findings), ["IL014"]);
}

#[test]
fn il015_operation_without_a_successful_request_is_found() {
    let found = |requests: &[Request]| {
        let mut requests: Vec<_> = requests.iter().map(|_| put().status(403)).collect();
        requests.push(Request::new("GET", "/else").status(404));
        rules(&audit(&document(COMPLETE), "", &requests))
    };
    assert_eq!(found(&[]), ["IL015", "IL015"]);
    assert_eq!(found(&[put()]), ["IL015", "IL015"]);
    let unlocked = audit(&document(COMPLETE), "GET /b public \"x\"\n", &[]);
    assert_eq!(rules(&unlocked), ["IL013", "IL015"]);
}

#[test]
fn il016_broken_reference_is_found() {
    let broken = "{security: [{token: []}], responses: {default: {$ref: '#/gone'}}, \
                  parameters: [{name: If-Match, in: header}]}";
    assert_documented(broken, "requires documents.edit, by path", &["IL016"]);
}

#[test]
fn il017_statement_that_may_write_unseen_is_found() {
    let request = good().statement(At::Handler, "CALL purge ( )", "write", &[], &[]);
    assert_seen(request, &["IL017"]);
    let unknown = good().statement(At::Handler, "FROBNICATE a", "unknown", &["a"], &[]);
    assert_seen(unknown, &["IL017"]);
    let findings = assert_seen(good().calls(&["purge"], "SELECT purge($1)"), &["IL017"]);
    let message = &findings.findings[0].message;
    assert_eq!(message, "`purge` may write unseen");
    assert_seen(good().calls(&[], "SELECT now()"), &[]);
}

#[test]
fn il018_blind_recorder_is_found_and_makes_the_audit_incomplete() {
    let assert_blind = |request: Request| {
        let findings = assert_seen(request, &["IL018"]);
        assert!(findings.is_incomplete());
        assert_eq!(findings.at_least(Level::Note).count(), 0);
    };
    assert_blind(good().blind("no events"));
    assert_blind(
        Request::new("POST", "/documents/{id}")
            .status(405)
            .blind("no events"),
    );
    assert!(!assert_seen(good(), &[]).is_incomplete());
}

#[test]
fn il018_blind_recorder_outside_of_requests_is_found() {
    let blind = "{\"version\": 1, \"elsewhere_blind\": \"no events\"}\n";
    let folder = Folder::of([
        ("openapi.yaml", &*document(COMPLETE)),
        ("trace.jsonl", &(trace(&[good()]) + blind)),
    ]);
    let audit = Audit::new().document(folder.read("openapi.yaml").unwrap());
    let audit = audit.trace_file(folder.path("trace.jsonl")).unwrap();
    let findings = audit.run();
    assert_eq!(rules(&findings), ["IL018"]);
    assert!(findings.is_incomplete());
}

#[test]
fn suppression_holds_until_its_day_and_only_for_its_operation() {
    let suppressed = |suppression: &str| {
        let operation = format!("{{security: [], x-interlock-suppress: [{suppression}]}}");
        let lock = format!("{PUT} requires a, by path\n");
        let findings = audit(&document(&operation), &lock, &[]);
        let messages = findings
            .findings
            .iter()
            .map(|finding| finding.message.clone());
        let stale = messages.filter(|message| message.starts_with("the suppression"));
        (
            findings.suppressed.len(),
            stale.collect::<Vec<_>>().join(";"),
        )
    };
    let good = suppressed("{rule: IL012, reason: known, until: 2100-01-01}");
    assert_eq!(good, (1, String::new()));
    for (suppression, reason) in [
        (
            "{rule: IL012, reason: known, until: 2020-01-01}",
            "is expired",
        ),
        ("{rule: IL012, until: 2100-01-01}", "has no reason"),
        ("{rule: IL012, reason: known}", "has no date"),
        (
            "{rule: IL012, reason: known, until: 2100-02-31}",
            "has a date that is none",
        ),
        (
            "{rule: IL099, reason: known, until: 2100-01-01}",
            "names no rule",
        ),
        (
            "{rule: IL001, reason: known, until: 2100-01-01}",
            "suppresses nothing",
        ),
        (
            "{rule: IL019, reason: known, until: 2100-01-01}",
            "cannot suppress",
        ),
    ] {
        let (count, stale) = suppressed(suppression);
        assert_eq!(count, 0, "{suppression}");
        assert!(stale.contains(reason), "{suppression}: {stale}");
    }
}

#[test]
fn fingerprint_stays_when_lines_move() {
    let of = |text: &str| {
        let findings = audit(text, "", &[put().writes(At::Outside, "documents", WRITE)]);
        let all = findings
            .findings
            .iter()
            .map(|finding| finding.fingerprint.clone());
        all.collect::<Vec<_>>()
    };
    let text = document(COMPLETE);
    assert_eq!(of(&text), of(&format!("# one more line\n{text}")));
}
