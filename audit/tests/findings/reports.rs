//! Reports: the list, JSON and SARIF.

use tower_interlock_audit::{Audit, Findings, Rule};

use crate::{
    folder::Folder,
    requests::{At, Request, trace},
};

/// Findings with and without evidence, and with an operation and without one.
fn findings(folder: &Folder) -> Findings {
    let split = Request::new("PUT", "/a/{id}").reads(At::Outside, "grants", "SELECT 1 FROM grants");
    let split = split.writes(At::Outside, "a", "UPDATE a SET b = $1");
    let learn = Request::new("GET", "/a/{id}").policy("read");
    let learn = learn.reads(
        At::Policy,
        "grants",
        "SELECT 1 FROM grants WHERE a = $1 AND b = $2",
    );
    folder.write("trace.jsonl", &trace(&[learn, split]));
    let audit = Audit::new().document(folder.read("api/open api.yaml").unwrap());
    audit.trace_file(folder.path("trace.jsonl")).unwrap().run()
}

fn folder() -> Folder {
    let document = "openapi: 3.1.0\npaths:\n  /a/{id}:\n    get: {$ref: '#/gone'}\n    put: {}\n";
    Folder::of([("api/open api.yaml", document)])
}

#[test]
fn list_has_place_rule_evidence_mend_and_summary() {
    let folder = folder();
    let list = findings(&folder).to_string();
    for part in [
        "api/open api.yaml:5:5 error IL002 split-check-and-write PUT /a/{id}",
        "    outside, handler  SELECT 1 FROM grants\n    outside, handler  UPDATE a SET b = $1\n",
        "  observed, severity 8.1, fingerprint ",
        "How to mend IL002 split-check-and-write",
        "1 of 1 operations exercised by 2 requests, 0 of them blind; 0 statements outside",
    ] {
        assert!(list.contains(part), "{part}\n{list}");
    }
}

#[test]
fn baseline_leaves_only_what_is_new() {
    let folder = folder();
    let first = findings(&folder);
    folder.write("baseline.json", &first.to_json().to_string());
    let audit = Audit::new().document(folder.read("api/open api.yaml").unwrap());
    let audit = audit.trace_file(folder.path("trace.jsonl")).unwrap();
    let second = audit.baseline(folder.path("baseline.json")).unwrap().run();
    assert!(second.findings.is_empty(), "{second}");
    assert_eq!(second.known, first.findings.len());
}

/// What GitHub asks for beyond the schema.
#[test]
fn sarif_has_what_github_asks_for() {
    let folder = folder();
    let findings = findings(&folder);
    let sarif = findings.to_sarif();
    assert_eq!(sarif["version"], "2.1.0");
    let run = &sarif["runs"][0];
    let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
    assert_eq!(rules.len(), Rule::ALL.len());
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), findings.findings.len());
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(rules[index]["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        let uri = place["artifactLocation"]["uri"].as_str().unwrap();
        assert!(
            uri.ends_with("api/open%20api.yaml") || uri.ends_with("trace.jsonl"),
            "{uri}"
        );
        for end in ["startLine", "startColumn", "endLine", "endColumn"] {
            assert!(place["region"][end].as_u64().unwrap() >= 1);
        }
        let hash = result["partialFingerprints"]["primaryLocationLineHash"]
            .as_str()
            .unwrap();
        assert!(hash.ends_with(":1"), "{hash}");
        assert!(result.get("suppressions").is_none());
    }
    let split = results
        .iter()
        .find(|result| result["ruleId"] == "IL002")
        .unwrap();
    let flow = &split["codeFlows"][0]["threadFlows"][0]["locations"];
    assert_eq!(flow.as_array().unwrap().len(), 2);
    let severity = &rules[1]["properties"]["security-severity"];
    assert_eq!(severity, "8.1");
}
