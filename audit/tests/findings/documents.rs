//! Documents of every version: references, operations and problems.

use serde_json::json;
use tower_interlock_audit::{
    Document, Limits,
    documented::{ProblemKind, Security, Version},
};

use crate::folder::Folder;

fn one(text: &str) -> Document {
    Folder::of([("openapi.yaml", text)])
        .read("openapi.yaml")
        .unwrap()
}

/// The kind, the line and the message of each problem.
fn problems(document: &Document) -> Vec<(ProblemKind, u32, &str)> {
    let problems = document.problems().iter();
    let all = problems.map(|problem| (problem.kind, problem.place.line, &*problem.message));
    all.collect()
}

fn names(document: &Document) -> Vec<String> {
    let operations = document.operations().iter();
    operations.map(|operation| operation.name()).collect()
}

#[test]
fn swagger_2_0_is_read() {
    let document = one("
swagger: '2.0'
basePath: /v1
securityDefinitions: {key: {type: apiKey, in: header, name: X-Key}}
security: [{key: []}]
parameters:
  id: {name: id, in: path, type: string, required: true}
responses:
  gone: {description: gone, headers: {ETag: {type: string}}}
paths:
  /a/{id}:
    parameters: [{$ref: '#/parameters/id'}]
    get: {responses: {200: {$ref: '#/responses/gone'}, default: {description: x}}}
    trace: {responses: {}}
    delete: {security: [], responses: {'404': {description: x}}}
");
    assert_eq!(problems(&document), []);
    assert_eq!(document.version(), Version::V2);
    assert_eq!(document.prefixes(), ["/v1"]);
    assert_eq!(names(&document), ["GET /a/{id}", "DELETE /a/{id}"]);
    let [get, delete] = document.operations() else {
        panic!("{:?}", document.operations());
    };
    assert!(get.has_parameter("path", "id"));
    assert!(get.responds_with("etag") && get.documents(200) && get.has_default());
    assert_eq!(
        get.security,
        Security::Required(vec![vec!["key".to_owned()]])
    );
    assert_eq!(delete.security, Security::Public);
    assert_eq!((get.place.line, get.place.column), (13, 5));
}

#[test]
fn security_of_operation_replaces_that_of_document() {
    let document = one("
openapi: 3.0.3
components: {securitySchemes: {a: {type: http}, b: {type: http}}}
security: [{a: [], b: []}, {b: []}]
paths:
  /inherits: {get: {}}
  /public: {get: {security: []}}
  /optional: {get: {security: [{a: []}, {}]}}
");
    let security: Vec<_> = document
        .operations()
        .iter()
        .map(|found| &found.security)
        .collect();
    let both = vec!["a".to_owned(), "b".to_owned()];
    let required = Security::Required(vec![both, vec!["b".to_owned()]]);
    assert_eq!(
        security,
        [&required, &Security::Public, &Security::Optional]
    );
    let undeclared = one("openapi: 3.1.0\npaths: {/a: {get: {}}}\n");
    assert_eq!(undeclared.operations()[0].security, Security::Undeclared);
}

#[test]
fn references_lead_through_files_and_escapes_relative_to_their_file() {
    let folder = Folder::of([
        (
            "api/openapi.yaml",
            "
openapi: 3.1.0
paths:
  /a/{id}: {$ref: 'paths/a%20b.json#/~1a~1%7Bid%7D'}
  /b: {get: {parameters: [{$ref: '../shared/parameters.yaml#/list/0'}], responses: {$ref: '#/components/x-all'}}}
components:
  x-all: {'204': {description: ok}}
",
        ),
        (
            "api/paths/a b.json",
            r##"{"/a/{id}": {"get": {"parameters": [{"$ref": "../../shared/parameters.yaml#/alias"}]}, "summary": "s"}}"##,
        ),
        (
            "shared/parameters.yaml",
            "list: [{name: first, in: query}]\nalias: {$ref: '#/list/0'}\n",
        ),
    ]);
    let document = folder.read("api/openapi.yaml").unwrap();
    assert_eq!(problems(&document), []);
    assert_eq!(names(&document), ["GET /a/{id}", "GET /b"]);
    for operation in document.operations() {
        assert!(operation.has_parameter("query", "first"), "{operation:?}");
    }
    assert!(document.operations()[1].documents(204));
    assert!(
        document.operations()[0]
            .place
            .file
            .ends_with("api/paths/a b.json")
    );
    assert_eq!(document.files().count(), 3);
}

#[test]
fn pointer_goes_on_in_the_target_of_a_reference() {
    let document = one("
openapi: 3.0.0
paths:
  /a: {get: {parameters: [{$ref: '#/components/parameters/alias/x-inner'}]}}
components:
  parameters:
    alias: {$ref: '#/components/parameters/real'}
    real: {name: q, in: query, x-inner: {name: inner, in: query}}
");
    assert_eq!(problems(&document), []);
    assert!(document.operations()[0].has_parameter("query", "inner"));
}

#[test]
fn ids_and_anchors_are_found() {
    let document = one("
openapi: 3.1.0
paths:
  /a: {get: {requestBody: {content: {a/b: {schema: {oneOf: [{$ref: 'https://example.com/s'}, {$ref: '#named'}]}}}}}}
components:
  schemas:
    A: {$id: 'https://example.com/s', type: string}
    B: {$anchor: named, type: string}
");
    assert_eq!(problems(&document), []);
}

#[test]
fn circles_through_values_are_data() {
    let document = one("
openapi: 3.0.0
paths:
  /a: {get: {responses: {'200': {description: x, content: {a/b: {schema: {$ref: '#/components/schemas/Node'}}}}}}}
components:
  schemas:
    Node: {type: object, properties: {next: {$ref: '#/components/schemas/Node'}}}
");
    assert_eq!(problems(&document), []);
    let resolved = document.resolved(1000).unwrap();
    let schema = "/paths/~1a/get/responses/200/content/a~1b/schema";
    let next = format!("{schema}/properties/next");
    assert_eq!(resolved.pointer(schema).unwrap()["type"], "object");
    assert_eq!(
        resolved.pointer(&next),
        Some(&json!({"$ref": format!("#{schema}")}))
    );
}

#[test]
fn circle_across_files_leads_to_its_place_in_the_resolved_document() {
    let folder = Folder::of([
        (
            "openapi.yaml",
            "
openapi: 3.1.0
paths:
  /{a}:
    get: {responses: {'200': {content: {a/b: {schema: {$ref: 'schemas/tree.yaml#/Tree', title: T, allOf: [{}]}}}}}}
",
        ),
        (
            "schemas/tree.yaml",
            "Tree: {properties: {kids: {items: {$ref: 'kid.yaml'}}}}\n",
        ),
        ("schemas/kid.yaml", "properties: {up: {$ref: 'tree.yaml#/Tree'}, same: {$ref: '#'}}\n"),
    ]);
    let document = folder.read("openapi.yaml").unwrap();
    assert_eq!(problems(&document), []);
    let resolved = document.resolved(1000).unwrap();
    let text = resolved.to_string();
    assert!(!text.contains(".yaml"), "{text}");
    // What is left as a reference leads to the same schema in the result.
    let tree = "/paths/~1%7Ba%7D/get/responses/200/content/a~1b/schema/allOf/1";
    let kid = format!("{tree}/properties/kids/items");
    let properties =
        json!({"up": {"$ref": format!("#{tree}")}, "same": {"$ref": format!("#{kid}")}});
    let kid = kid.replace("%7B", "{").replace("%7D", "}");
    assert_eq!(resolved.pointer(&kid).unwrap()["properties"], properties);
    folder.write("resolved.json", &text);
    assert_eq!(problems(&folder.read("resolved.json").unwrap()), []);
}

#[test]
fn circle_of_references_only_leads_nowhere() {
    let document = one("
openapi: 3.0.0
paths:
  /a: {$ref: '#/paths/~1b'}
  /b: {$ref: '#/paths/~1a'}
");
    let lines: Vec<_> = problems(&document)
        .iter()
        .map(|(kind, line, _)| (*kind, *line))
        .collect();
    assert_eq!(
        lines,
        [(ProblemKind::Unresolved, 4), (ProblemKind::Unresolved, 5)]
    );
}

#[test]
fn siblings_count_as_the_version_says() {
    let schema = "
paths: {}
components:
  schemas:
    A: {type: string, description: a}
    B: {$ref: '#/components/schemas/A', description: b}
";
    let b = |version| {
        let document = one(&format!("openapi: {version}{schema}"));
        document
            .resolved(1000)
            .unwrap()
            .pointer("/components/schemas/B")
            .unwrap()
            .clone()
    };
    let a = json!({"type": "string", "description": "a"});
    assert_eq!(b("3.0.0"), a);
    assert_eq!(b("3.1.0"), json!({"description": "b", "allOf": [a]}));

    let path_item = one("
openapi: 3.0.0
paths:
  /a:
    $ref: '#/x-item'
    post: {summary: sibling}
x-item: {get: {}, post: {summary: target}}
");
    assert_eq!(names(&path_item), ["POST /a", "GET /a"]);
    let resolved = path_item.resolved(1000).unwrap();
    assert_eq!(
        resolved.pointer("/paths/~1a/post/summary").unwrap(),
        "sibling"
    );
    assert!(resolved.pointer("/paths/~1a/get").is_some());
}

#[test]
fn references_that_lead_nowhere_are_problems_with_a_line() {
    let document = one("
openapi: 3.1.0
paths:
  /a: {get: {parameters: [{$ref: '#/components/parameters/missing'}]}}
  /b: {$ref: 'missing.yaml'}
  /c: {$ref: 'https://example.com/c.yaml'}
  /d: {$ref: '../../../../etc/passwd'}
  /e: {$ref: '/etc/passwd'}
  /f: {get: {security: [{unknown: []}]}}
  /g: {get: {parameters: [{$ref: '#/paths/%zz'}]}}
");
    let found = problems(&document);
    let reasons = [
        (4, "there is no `components`"),
        (5, "there is no such file"),
        (6, "on the network"),
        (7, "outside of the root directory"),
        (8, "outside of the root directory"),
        (10, "two hexadecimal digits"),
        (9, "`unknown` is not defined"),
    ];
    assert_eq!(found.len(), reasons.len(), "{found:#?}");
    for ((kind, line, message), (expected, reason)) in found.iter().zip(reasons) {
        assert_eq!((*kind, *line), (ProblemKind::Unresolved, expected));
        assert!(message.contains(reason), "{message}");
    }
    assert_eq!(names(&document), ["GET /a", "GET /f", "GET /g"]);
}

#[test]
fn ref_in_data_is_no_reference() {
    let document = one("
openapi: 3.0.0
paths:
  /a:
    get:
      x-note: {$ref: 'missing.yaml'}
      requestBody:
        content:
          a/b:
            example: {$ref: 'missing.yaml'}
            examples: {one: {value: {$ref: 'missing.yaml'}}}
            schema:
              default: {$ref: 'missing.yaml'}
              enum: [{$ref: 'missing.yaml'}]
              properties: {$ref: {type: string}, default: {type: string}}
");
    assert_eq!(problems(&document), []);
}

#[test]
fn property_that_is_named_like_a_keyword_is_looked_into() {
    let document = one("
openapi: 3.0.0
paths: {}
components: {schemas: {A: {properties: {example: {$ref: '#/missing'}}}}}
");
    assert_eq!(problems(&document).len(), 1);
}

#[test]
fn file_that_cannot_be_parsed_is_a_problem_in_its_line() {
    let folder = Folder::of([
        (
            "openapi.yaml",
            "openapi: 3.0.0\npaths: {/a: {$ref: broken.yaml}}\n",
        ),
        ("broken.yaml", "get:\n  - a: [\n"),
    ]);
    let document = folder.read("openapi.yaml").unwrap();
    let files: Vec<_> = document
        .problems()
        .iter()
        .map(|problem| &problem.place.file)
        .collect();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files[0].ends_with("broken.yaml") && files[1].ends_with("openapi.yaml"));
}

#[test]
fn duplicate_and_ambiguous_paths_are_problems() {
    let document = one("
openapi: 3.0.0
paths:
  /a/{x}: {get: {}}
  /a/{y}: {put: {}}
  /{b}/me: {get: {}}
  /users/{c}: {get: {}}
  /users/me: {get: {}}
  /{b}/you: {delete: {}}
  /a/{x}: {post: {}}
  relative: {get: {}}
");
    let kinds: Vec<_> = problems(&document)
        .iter()
        .map(|(kind, line, _)| (*kind, *line))
        .collect();
    let expected = [
        (ProblemKind::Malformed, 10),
        (ProblemKind::Malformed, 11),
        (ProblemKind::DuplicatePath, 5),
        (ProblemKind::AmbiguousPath, 7),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn webhooks_and_callbacks_are_no_operations_but_their_references_count() {
    let document = one("
openapi: 3.1.0
paths:
  /a: {post: {callbacks: {done: {'{$request.body#/url}': {post: {requestBody: {$ref: '#/gone'}}}}}}}
webhooks: {new: {post: {requestBody: {$ref: '#/gone'}}}}
");
    assert_eq!(names(&document), ["POST /a"]);
    assert_eq!(problems(&document).len(), 2);
}

#[test]
fn query_and_additional_operations_are_those_of_3_2() {
    let text = "paths: {/a: {query: {}, additionalOperations: {COPY: {}}}}\n";
    assert_eq!(
        names(&one(&format!("openapi: 3.2.0\n{text}"))),
        ["QUERY /a", "COPY /a"]
    );
    assert!(names(&one(&format!("openapi: 3.1.0\n{text}"))).is_empty());
}

#[test]
fn file_that_is_no_document_is_an_error() {
    for text in [
        "a: 1",
        "[1]",
        "openapi: 4.0.0",
        "swagger: '1.2'",
        "openapi: [",
        "text",
    ] {
        let folder = Folder::of([("openapi.yaml", text)]);
        folder.read("openapi.yaml").unwrap_err();
    }
    let folder = Folder::of([("openapi.yaml", "openapi: 3.0.0\npaths: {a: [}\n")]);
    let error = folder.read("openapi.yaml").unwrap_err().to_string();
    assert!(error.contains("openapi.yaml:2:12: "), "{error}");
}

#[test]
fn long_chains_of_references_end() {
    let mut text = "openapi: 3.0.0\npaths: {}\ncomponents:\n  schemas:\n".to_owned();
    for number in 0..5000 {
        let next = number + 1;
        text += &format!("    S{number}: {{$ref: '#/components/schemas/S{next}/properties'}}\n");
    }
    assert_eq!(one(&text).problems().len(), 5000);
}

#[test]
fn resolved_document_is_limited() {
    let mut text =
        "openapi: 3.0.0\npaths: {}\ncomponents:\n  schemas:\n    S0: {type: string}\n".to_owned();
    for number in 1..40 {
        let one = format!("{{$ref: '#/components/schemas/S{}'}}", number - 1);
        text += &format!("    S{number}: {{properties: {{a: {one}, b: {one}}}}}\n");
    }
    one(&text).resolved(100_000).unwrap_err();
}

#[test]
fn limits_hold_over_all_files() {
    let folder = Folder::of([
        (
            "openapi.yaml",
            "openapi: 3.0.0\npaths: {/a: {$ref: a.yaml}, /b: {$ref: b.yaml}}\n",
        ),
        ("a.yaml", "get: {}\n"),
        ("b.yaml", "get: {}\n"),
    ]);
    let mut limits = Limits::default();
    limits.files = 2;
    let path = folder.path("openapi.yaml");
    let document = Document::read(&path, &limits).unwrap();
    assert_eq!(names(&document), ["GET /a"]);
    assert_eq!(document.problems().len(), 1);
    limits.nodes = 3;
    Document::read(&path, &limits).unwrap_err();
}
