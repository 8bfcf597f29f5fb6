//! The program: its commands and exit statuses.

use std::process::{Command, Output};

use crate::{
    folder::Folder,
    requests::{At, Request, trace},
};

fn run(folder: &Folder, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interlock-audit"));
    command.current_dir(folder.path(""));
    command.args(arguments.split_whitespace()).output().unwrap()
}

#[track_caller]
fn assert_exits(folder: &Folder, arguments: &str, status: i32) -> String {
    let output = run(folder, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments}\n{text}\n{errors}"
    );
    text
}

fn folder() -> Folder {
    let good = "openapi: 3.1.0\npaths: {/a: {post: {responses: {default: {}}}}}\n";
    let seen = Request::new("POST", "/a").reads(At::Outside, "a", "SELECT 1 FROM a");
    let bad = Request::new("POST", "/a").writes(At::Outside, "a", "UPDATE a SET b = $1");
    Folder::of([
        ("openapi.yaml", good),
        (
            "broken.yaml",
            "openapi: 3.1.0\npaths: {/a: {$ref: gone.yaml}}\n",
        ),
        ("seen.jsonl", &trace(&[seen])),
        ("bad.jsonl", &trace(&[bad])),
        ("empty.jsonl", ""),
    ])
}

#[test]
fn exit_status_tells_clean_found_failed_and_incomplete() {
    let folder = folder();
    assert_exits(&folder, "scan openapi.yaml", 0);
    assert_exits(&folder, "scan openapi.yaml --trace seen.jsonl", 0);
    assert_exits(&folder, "scan openapi.yaml --trace bad.jsonl", 1);
    assert_exits(&folder, "scan broken.yaml", 1);
    assert_exits(&folder, "scan broken.yaml --fail-on error", 3);
    assert_exits(&folder, "scan gone.yaml", 2);
    assert_exits(&folder, "scan seen.jsonl", 2);
    assert_exits(&folder, "scan openapi.yaml --trace gone.jsonl", 2);
    assert_exits(&folder, "scan", 2);
    assert_exits(&folder, "frobnicate", 2);
    assert_exits(&folder, "scan openapi.yaml --trace empty.jsonl", 3);
}

#[test]
fn suppressions_hold_in_every_format() {
    let folder = folder();
    let file = "suppress: [{rule: IL001, operation: POST /a, reason: a wiki, until: 2100-01-01}]\n";
    folder.write("suppressions.yaml", file);
    let scan = "scan openapi.yaml --trace bad.jsonl --suppressions suppressions.yaml --format";
    let list = assert_exits(&folder, &format!("{scan} list"), 0);
    assert!(
        list.contains("1 suppressed") && !list.contains("IL001"),
        "{list}"
    );
    let json = assert_exits(&folder, &format!("{scan} json"), 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["findings"].as_array().unwrap().len(), 0);
    assert_eq!(json["suppressed"][0]["reason"], "a wiki");
    let sarif = assert_exits(&folder, &format!("{scan} sarif"), 0);
    let sarif: serde_json::Value = serde_json::from_str(&sarif).unwrap();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 0);
}

#[test]
fn rules_are_explained_by_number_and_name() {
    let folder = folder();
    let by_number = assert_exits(&folder, "explain il002", 0);
    assert_eq!(
        by_number,
        assert_exits(&folder, "explain split-check-and-write", 0)
    );
    assert!(
        by_number.contains("CWE-367") && by_number.contains("15.4.2"),
        "{by_number}"
    );
    assert_eq!(assert_exits(&folder, "explain", 0).lines().count(), 19);
    assert_exits(&folder, "explain IL099", 2);
}

#[test]
fn documentation_has_every_rule_with_its_mapping() {
    let docs = include_str!("../../../docs/findings.md");
    for rule in tower_interlock_audit::Rule::ALL {
        assert!(
            docs.contains(&format!("| {rule} | {} | ", rule.level())),
            "{rule}"
        );
        assert!(docs.contains(rule.summary()), "{rule}");
        let mapping = rule.mapping();
        let list = |parts: &[&str]| match parts {
            [] => "–".to_owned(),
            parts => parts.join(", "),
        };
        let cwe: Vec<_> = mapping.cwe.iter().map(u16::to_string).collect();
        let cwe: Vec<_> = cwe.iter().map(String::as_str).collect();
        let owasp: Vec<_> = mapping.owasp.iter().map(|name| &name[..4]).collect();
        let columns = [&cwe, &owasp, mapping.asvs, mapping.soc2, mapping.pci];
        let columns = columns.map(list).join(" | ");
        if columns != "– | – | – | – | –" {
            let row = format!("| {} | {columns} |", rule.id());
            assert!(docs.contains(&row), "{row}");
        }
    }
}

#[test]
fn resolve_prints_the_document_with_its_references_replaced() {
    let folder = folder();
    folder.write(
        "one.yaml",
        "openapi: 3.0.0\npaths: {/a: {$ref: 'two.yaml#/a'}}\n",
    );
    folder.write("two.yaml", "a: {get: {deprecated: true}}\n");
    let text = assert_exits(&folder, "resolve one.yaml", 0);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["paths"]["/a"]["get"]["deprecated"], true);
    assert_exits(&folder, "resolve one.yaml --limit 2", 2);
}

#[test]
fn output_to_a_file_has_no_colours() {
    let folder = folder();
    assert_exits(
        &folder,
        "scan openapi.yaml --trace bad.jsonl --output report.txt",
        1,
    );
    let report = std::fs::read_to_string(folder.path("report.txt")).unwrap();
    assert!(
        report.contains("IL001") && !report.contains('\u{1b}'),
        "{report}"
    );
}
