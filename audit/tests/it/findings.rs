//! Findings from real requests: each fault of the bad service, and nothing in the good one.

use axum::Router;
use http::Method;
use sqlx::Executor as _;
use support::Database;
use tower_interlock::Interlock;
use tower_interlock_audit::{
    Audit, Document, Findings, Limits, Race, Recorder, Verdict, Wire, findings::Confidence,
};

use crate::{
    kit::{pool, put, request, test},
    service::{GOOD, bad, good},
};

/// The rules and operations, without what a document would change.
fn found(findings: &Findings) -> Vec<(&'static str, String)> {
    let found = findings.findings.iter().map(|finding| {
        let operation = finding.operation.clone().unwrap_or_default();
        (finding.rule.id(), operation)
    });
    let mut found: Vec<_> = found.filter(|(rule, _)| *rule != "IL015").collect();
    found.sort();
    found
}

fn recorded(database: &Database) -> (Recorder, Router, Router) {
    let recorder = Recorder::new();
    let pool = pool(database);
    let interlock = Interlock::builder(pool.clone())
        .observe(recorder.clone())
        .build();
    let good = good(&interlock).layer(recorder.layer());
    let bad = bad(&interlock, &pool).layer(recorder.layer());
    (recorder, good, bad)
}

#[test]
fn good_service_has_no_finding() {
    test(async |database| {
        let (recorder, good, _) = recorded(&database);
        for (method, path) in GOOD {
            let method: Method = method.parse().unwrap();
            let _ = recorder.send(&good, request(method, path, "alice")).await;
        }
        let _ = recorder.send(&good, put("/document")).await;
        let findings = Audit::new().trace(recorder.trace()).run();
        assert_eq!(found(&findings), [], "{findings}");
    });
}

#[test]
fn each_fault_of_bad_service_is_found() {
    test(async |database| {
        let (recorder, good, bad) = recorded(&database);
        let _ = recorder.send(&good, put("/document")).await;
        let _ = recorder
            .send(&bad, request(Method::POST, "/unchecked", "alice"))
            .await;
        let faults = [
            "/by-hand",
            "/read-committed",
            "/cache",
            "/no-layer",
            "/marked",
            "/policy-on-pool",
            "/write-on-pool",
            "/denial-writes",
        ];
        for path in faults {
            let _ = recorder.send(&bad, put(path)).await;
        }
        let findings = Audit::new().trace(recorder.trace()).run();
        let expected = [
            ("IL001", "POST /unchecked"),
            ("IL001", "PUT /cache"),
            ("IL001", "PUT /marked"),
            ("IL002", "PUT /by-hand"),
            ("IL002", "PUT /read-committed"),
            ("IL003", "PUT /denial-writes"),
            ("IL003", "PUT /write-on-pool"),
            ("IL004", "PUT /policy-on-pool"),
        ];
        let expected = expected.map(|(rule, operation)| (rule, operation.to_owned()));
        assert_eq!(found(&findings), expected, "{findings}");
    });
}

#[test]
fn lost_race_confirms_the_finding() {
    test(async |database| {
        let (recorder, good, bad) = recorded(&database);
        let _ = recorder.send(&good, put("/document")).await;
        let _ = recorder.send(&bad, put("/by-hand")).await;

        let verdict = race_by_hand(&database).await;
        assert!(!verdict.is_safe());
        let audit = Audit::new().trace(recorder.trace());
        let findings = audit.race("PUT /by-hand", &verdict).run();
        let confirmed = findings
            .findings
            .iter()
            .find(|finding| finding.rule.id() == "IL002");
        let confirmed = confirmed.unwrap();
        assert_eq!(confirmed.confidence, Confidence::Confirmed);
        assert_eq!(confirmed.severity(), Some(9.1));
        assert!(confirmed.evidence.len() > 2, "{findings}");
    });
}

#[test]
fn guide_shows_a_report_as_it_is() {
    test(async |database| {
        let guide = include_str!("../../../docs/audit.md");
        let (_, section) = guide.split_once("## Findings\n").unwrap();
        let block = |start: &str| {
            let (_, block) = section.split_once(start).unwrap();
            block.split_once("```\n").unwrap().0.to_owned()
        };
        let folder = std::env::temp_dir().join(database.name());
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("openapi.yaml");
        std::fs::write(&path, block("```yaml\n")).unwrap();
        let document = Document::read(&path, &Limits::default());
        std::fs::remove_dir_all(&folder).unwrap();

        let (recorder, good, bad) = recorded(&database);
        let _ = recorder.send(&good, put("/document")).await;
        let _ = recorder.send(&bad, put("/by-hand")).await;
        let _ = recorder.send(&bad, put("/write-on-pool")).await;
        // Recorders hear of all statements of the process: these are of tests that run beside it.
        let mut trace = recorder.trace();
        trace.elsewhere.clear();
        let audit = Audit::new().document(document.unwrap());
        let report = audit.trace(trace).run().to_string();
        let report = report.replace(&format!("{}/", folder.display()), "");
        let (findings, rest) = report.split_once("How to mend").unwrap();
        let (_, summary) = rest.rsplit_once("```\n\n").unwrap();
        assert_eq!(block("```text\n"), format!("{findings}{summary}"));
    });
}

async fn race_by_hand(database: &Database) -> Verdict {
    let wire = Wire::to(database.options()).await.unwrap();
    let pool = Interlock::pool_options().max_connections(3);
    let pool = pool.connect_lazy_with(wire.options());
    Race::of(bad(&Interlock::new(pool.clone()), &pool), &wire)
        .request(|| put("/by-hand"))
        .prepare(async |tx| {
            tx.execute("UPDATE documents SET body = 'old'").await?;
            tx.execute("DELETE FROM grants").await?;
            tx.execute("INSERT INTO grants VALUES ('alice')").await
        })
        .revoke(async |tx| tx.execute("DELETE FROM grants").await)
        .effect("SELECT body FROM documents")
        .run()
        .await
        .unwrap()
}
