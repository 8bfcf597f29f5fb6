//! What must hold for every document, also for one that was made to do harm.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tower_interlock_audit::{Audit, Document, Limits};

/// Checks a document of two files, `openapi.yaml` and `other.yaml`, that a line `%%` separates.
/// `folder` is for the files, and `folder/../secret.yaml` must not be read.
///
/// # Panics
///
/// Panics if something does not hold.
pub(crate) fn check(input: &[u8], folder: &Path) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (main, other) = text.split_once("\n%%\n").unwrap_or((text, ""));
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("openapi.yaml"), main).unwrap();
    fs::write(folder.join("other.yaml"), other).unwrap();
    fs::write(folder.join("../secret.yaml"), "get: {}\n").unwrap();
    let Ok(document) = Document::read(folder.join("openapi.yaml"), &Limits::default()) else {
        return;
    };
    for file in document.files() {
        assert!(
            file.ends_with("openapi.yaml") || file.ends_with("other.yaml"),
            "{file}"
        );
        assert!(!file.contains(".."), "{file}");
    }
    let places = document
        .operations()
        .iter()
        .map(|operation| &operation.place);
    let places = places.chain(document.problems().iter().map(|problem| &problem.place));
    for place in places {
        let text = if place.file.ends_with("openapi.yaml") {
            main
        } else {
            other
        };
        let lines = text
            .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
            .count();
        let line = usize::try_from(place.line).unwrap();
        assert!(line <= lines + 1 && place.column > 0, "{place:?}");
    }
    if let Some(model) = model(main) {
        let found: BTreeSet<_> = document
            .operations()
            .iter()
            .map(|found| found.name())
            .collect();
        assert_eq!(
            found, model,
            "the operations differ from those of serde_json"
        );
    }
    let _ = document.resolved(10_000);
    let findings = Audit::new().document(document).run();
    assert!(
        !findings
            .list(tower_interlock_audit::findings::Colours::None)
            .contains('\u{1b}')
    );
    assert_eq!(
        findings.to_sarif()["runs"][0]["results"]
            .as_array()
            .unwrap()
            .len(),
        findings.findings.len()
    );
}

/// The operations of a JSON document of 3.0 without references and duplicate keys, by serde_json.
fn model(text: &str) -> Option<BTreeSet<String>> {
    let json: Value = serde_json::from_str(text).ok()?;
    let is_plain = text.starts_with(r#"{"openapi":"3.0.0""#)
        && !text.contains(['$', '\\', '<'])
        && serde_json::to_string(&json).ok()?.len()
            == text.split_whitespace().collect::<String>().len();
    let paths = json.get("paths").filter(|_| is_plain)?.as_object()?;
    let mut operations = BTreeSet::new();
    for (path, item) in paths.iter().filter(|(path, _)| !path.starts_with("x-")) {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let methods = [
                "get", "put", "post", "delete", "options", "head", "patch", "trace",
            ];
            if methods.contains(&method.as_str()) && operation.is_object() {
                operations.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    Some(operations)
}
