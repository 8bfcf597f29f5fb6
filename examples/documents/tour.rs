//! The tour: the requests that the example prints as lines for a shell, or makes itself.

use std::error::Error;

use axum::body::{Body, to_bytes};
use http::{Request, header};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Deserialize;

/// What is done, by whom, method, path, the version that is expected to be there, body; the status
/// of the answer, and what it says. `$id` is the document that the first request has created.
type Step = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    u16,
    &'static str,
);

#[rustfmt::skip]
const STEPS: &[Step] = &[
    ("create",                   "alice",   "POST",   "/documents", "",  FIRST,  201, "first draft"),
    ("read",                     "alice",   "GET",    DOCUMENT,     "",  "",     200, "first draft"),
    ("update",                   "alice",   "PUT",    DOCUMENT,     "1", SECOND, 200, "second draft"),
    ("update, of which version", "alice",   "PUT",    DOCUMENT,     "",  THIRD,  428, ""),
    ("update, not read again",   "alice",   "PUT",    DOCUMENT,     "1", THIRD,  412, ""),
    ("update, no such document", "alice",   "PUT",    MISSING,      "1", THIRD,  404, "Not Found"),
    ("read, not shared",         "bob",     "GET",    DOCUMENT,     "",  "",     404, "Not Found"),
    ("share",                    "alice",   "PUT",    GRANT,        "",  EDIT,   204, ""),
    ("read, shared",             "bob",     "GET",    DOCUMENT,     "",  "",     200, "second draft"),
    ("update, shared",           "bob",     "PUT",    DOCUMENT,     "2", THIRD,  200, r#""version":3"#),
    ("revoke",                   "alice",   "DELETE", GRANT,        "",  "",     204, ""),
    ("the same update, revoked", "bob",     "PUT",    DOCUMENT,     "3", THIRD,  403, "Forbidden"),
    ("read, not updated",        "alice",   "GET",    DOCUMENT,     "",  "",     200, r#""version":3"#),
    ("read, unknown token",      "mallory", "GET",    DOCUMENT,     "",  "",     401, "Unauthorized"),
    ("delete",                   "alice",   "DELETE", DOCUMENT,     "",  "",     204, ""),
    ("read, deleted",            "alice",   "GET",    DOCUMENT,     "",  "",     404, "Not Found"),
];

const DOCUMENT: &str = "/documents/$id";
const MISSING: &str = "/documents/00000000-0000-0000-0000-000000000000";
const GRANT: &str = "/documents/$id/grants/bob";
const FIRST: &str = r#"{"body":"first draft"}"#;
const SECOND: &str = r#"{"body":"second draft"}"#;
const THIRD: &str = r#"{"body":"third draft"}"#;
const EDIT: &str = r#"{"can_edit":true}"#;

/// Prints the requests for a shell.
pub(crate) fn print(url: &str) {
    println!("listening on {url}, Ctrl-C stops; in another terminal:\n");
    for &(what, user, method, path, version, body, status, _) in STEPS {
        let mut curl = format!("curl -s -X {method} {url}{path} -H 'authorization: Bearer {user}'");
        if !version.is_empty() {
            curl += &format!(" -H 'if-match: \"{version}\"'");
        }
        if !body.is_empty() {
            curl += &format!(" -H 'content-type: application/json' -d '{body}'");
        }
        println!("# {what}: {status}");
        if method == "POST" {
            println!("id=$({curl} | grep -oE '[0-9a-f-]{{36}}'); echo $id");
        } else {
            println!("{curl} -w ' %{{http_code}}\\n'");
        }
    }
    println!();
}

/// Makes the requests over HTTP, and fails if one is answered otherwise.
pub(crate) async fn run(url: &str) -> Result<(), Box<dyn Error>> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let mut id = String::new();
    let mut wrong = 0;
    println!("\n{:<26}{:<9}{:<52}expected  got", "", "as", "request");
    for &(what, user, method, path, version, body, expected, says) in STEPS {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{url}{}", path.replace("$id", &id)))
            .header(header::AUTHORIZATION, format!("Bearer {user}"))
            .header(header::CONTENT_TYPE, "application/json");
        if !version.is_empty() {
            request = request.header(header::IF_MATCH, format!("\"{version}\""));
        }
        let request = request.body(Body::from(body))?;
        let response = client.request(request).await?;
        let got = response.status().as_u16();
        let answer = to_bytes(Body::new(response.into_body()), usize::MAX).await?;
        let answer = String::from_utf8_lossy(&answer);
        if method == "POST" {
            id = serde_json::from_str::<Created>(&answer)?.id;
        }
        let right = got == expected && answer.contains(says);
        wrong += usize::from(!right);
        let mark = if right { "" } else { " WRONG" };
        let request = format!("{method} {path}");
        println!("{what:<26}{user:<9}{request:<52}{expected:<10}{got}{mark} {answer}");
    }
    if wrong > 0 {
        return Err(format!("{wrong} of {} answers are wrong", STEPS.len()).into());
    }
    println!("\nall {} answers are as expected", STEPS.len());
    Ok(())
}

#[derive(Deserialize)]
struct Created {
    id: String,
}
