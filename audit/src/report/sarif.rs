//! The report in SARIF 2.1.0, with what GitHub asks for.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::{
    document::Place,
    rules::{Finding, Findings, Rule},
};

impl Findings {
    /// Returns the report as SARIF 2.1.0.
    ///
    /// Suppressed findings are left out, because GitHub shows them as open alerts. The place of
    /// each statement of the evidence is that of the finding, because a trace has no lines of code.
    #[must_use]
    pub fn to_sarif(&self) -> Value {
        let rules: Vec<_> = Rule::ALL.into_iter().map(descriptor).collect();
        let mut counts = HashMap::new();
        let results = self.findings.iter().map(|finding| {
            let count: &mut usize = counts.entry(&finding.fingerprint).or_default();
            *count += 1;
            result(finding, *count)
        });
        let results: Vec<_> = results.collect();
        json!({
            "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": { "driver": {
                    "name": "interlock-audit",
                    "semanticVersion": env!("CARGO_PKG_VERSION"),
                    "informationUri": "https://docs.rs/tower-interlock-audit",
                    "rules": rules,
                } },
                "columnKind": "unicodeCodePoints",
                "results": results,
                "properties": { "summary": self.summary },
            }],
        })
    }
}

fn descriptor(rule: Rule) -> Value {
    let mut properties = Map::new();
    properties.insert("tags".to_owned(), tags(rule).into());
    properties.insert("precision".to_owned(), rule.precision().name().into());
    if let Some(severity) = rule.severity() {
        properties.insert(
            "security-severity".to_owned(),
            format!("{severity:.1}").into(),
        );
    } else {
        // GitHub wants this instead for what is no matter of security.
        let level = rule.level().name().replace("note", "recommendation");
        properties.insert("problem.severity".to_owned(), level.into());
    }
    json!({
        "id": rule.id(),
        "name": camel_case(rule.name()),
        "shortDescription": { "text": rule.summary() },
        "fullDescription": { "text": rule.summary() },
        "help": { "text": rule.explanation(), "markdown": rule.explanation() },
        "defaultConfiguration": { "level": rule.level().name() },
        "properties": properties,
    })
}

/// GitHub shows at most 20 of them.
fn tags(rule: Rule) -> Vec<String> {
    let mapping = rule.mapping();
    let security = rule.severity().map(|_| "security".to_owned());
    let mut tags: Vec<String> = security.into_iter().collect();
    tags.extend(
        mapping
            .cwe
            .iter()
            .map(|cwe| format!("external/cwe/cwe-{cwe:03}")),
    );
    tags.extend(
        mapping
            .owasp
            .iter()
            .map(|owasp| format!("owasp-api/{owasp}")),
    );
    tags.extend(mapping.asvs.iter().map(|asvs| format!("asvs/{asvs}")));
    tags.extend(mapping.soc2.iter().map(|soc2| format!("soc2/{soc2}")));
    tags.extend(mapping.pci.iter().map(|pci| format!("pci-dss/{pci}")));
    tags
}

fn result(finding: &Finding, count: usize) -> Value {
    let operation = match &finding.operation {
        Some(operation) => format!("{operation}: "),
        None => String::new(),
    };
    let mut result = json!({
        "ruleId": finding.rule.id(),
        "ruleIndex": index(finding.rule),
        "level": finding.level.name(),
        "message": { "text": format!("{operation}{}", finding.message) },
        "locations": [{ "physicalLocation": physical(&finding.place) }],
        "partialFingerprints": {
            "primaryLocationLineHash": format!("{}:{count}", finding.fingerprint),
        },
        "properties": { "confidence": finding.confidence },
    });
    if !finding.evidence.is_empty()
        && let Some(result) = result.as_object_mut()
    {
        let locations = finding.evidence.iter().map(|evidence| {
            let text = format!("{}: {}", evidence.place, evidence.statement);
            json!({ "location": {
                "physicalLocation": physical(&finding.place),
                "message": { "text": text },
            } })
        });
        let flow = json!([{ "threadFlows": [{ "locations": locations.collect::<Vec<_>>() }] }]);
        result.insert("codeFlows".to_owned(), flow);
    }
    result
}

fn index(rule: Rule) -> usize {
    let position = Rule::ALL.into_iter().position(|other| other == rule);
    position.unwrap_or_default()
}

fn physical(place: &Place) -> Value {
    json!({
        "artifactLocation": { "uri": uri(&place.file) },
        "region": {
            "startLine": place.line,
            "startColumn": place.column,
            "endLine": place.end_line,
            "endColumn": place.end_column,
        },
    })
}

/// The path as a relative URI.
fn uri(path: &str) -> String {
    let mut uri = String::new();
    for byte in path.trim_start_matches("./").bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri += &format!("%{byte:02X}");
        }
    }
    uri
}

/// `a-b` as `AB`, with its words in capitals.
fn camel_case(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::{camel_case, descriptor, uri};
    use crate::rules::Rule;

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("./api/a b#é.yaml"), "api/a%20b%23%C3%A9.yaml");
    }

    #[test]
    fn every_rule_has_what_github_asks_for() {
        for rule in Rule::ALL {
            let descriptor = descriptor(rule);
            let tags = descriptor["properties"]["tags"].as_array().unwrap();
            assert!(tags.len() <= 20, "{rule}");
            let text = descriptor["help"]["text"].as_str().unwrap();
            assert!(!text.is_empty(), "{rule}");
            assert!(
                descriptor["shortDescription"]["text"]
                    .as_str()
                    .unwrap()
                    .len()
                    <= 1024
            );
        }
        assert_eq!(camel_case("split-check-and-write"), "SplitCheckAndWrite");
    }
}
