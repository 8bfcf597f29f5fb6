//! The tour: requests that the example prints for a shell, or sends itself.

use std::error::Error;

use axum::body::{Body, to_bytes};
use http::{Request, StatusCode, header};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde::Deserialize;

/// A request, and the response to expect.
struct Step {
    title: &'static str,
    user: &'static str,
    method: &'static str,
    /// `$id` is the document that is created first.
    path: &'static str,
    /// The version of the `If-Match` header.
    version: Option<&'static str>,
    idempotency_key: Option<&'static str>,
    body: &'static str,
    status: u16,
    /// A part of the body of the response.
    contains: &'static str,
}

impl Step {
    const fn new(
        title: &'static str,
        user: &'static str,
        method: &'static str,
        path: &'static str,
    ) -> Self {
        Self {
            title,
            user,
            method,
            path,
            version: None,
            idempotency_key: None,
            body: "",
            status: 0,
            contains: "",
        }
    }

    const fn body(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    const fn if_match(self, version: &'static str) -> Self {
        let version = Some(version);
        Self { version, ..self }
    }

    const fn idempotent(self, key: &'static str) -> Self {
        let idempotency_key = Some(key);
        Self {
            idempotency_key,
            ..self
        }
    }

    const fn expect(self, status: u16, contains: &'static str) -> Self {
        Self {
            status,
            contains,
            ..self
        }
    }
}

#[rustfmt::skip]
const STEPS: &[Step] = &[
    Step::new("create without a key", "alice", "POST", "/documents").body(FIRST)
        .expect(400, ""),
    Step::new("create", "alice", "POST", "/documents").idempotent("1").body(FIRST)
        .expect(201, "first draft"),
    Step::new("create, repeated", "alice", "POST", "/documents").idempotent("1").body(FIRST)
        .expect(201, "$id"),
    Step::new("create, same key", "alice", "POST", "/documents").idempotent("1").body(SECOND)
        .expect(422, ""),
    Step::new("read", "alice", "GET", DOCUMENT)
        .expect(200, "first draft"),
    Step::new("update", "alice", "PUT", DOCUMENT).if_match("1").body(SECOND)
        .expect(200, "second draft"),
    Step::new("update without If-Match", "alice", "PUT", DOCUMENT).body(THIRD)
        .expect(428, ""),
    Step::new("update an old version", "alice", "PUT", DOCUMENT).if_match("1").body(THIRD)
        .expect(412, ""),
    Step::new("update a missing document", "alice", "PUT", MISSING).if_match("1").body(THIRD)
        .expect(404, "Not Found"),
    Step::new("read, not shared", "bob", "GET", DOCUMENT)
        .expect(404, "Not Found"),
    Step::new("update, not shared", "bob", "PUT", DOCUMENT).if_match("2").body(THIRD)
        .expect(404, "Not Found"),
    Step::new("share", "alice", "PUT", GRANT)
        .expect(204, ""),
    Step::new("share with an unknown user", "alice", "PUT", "/documents/$id/grants/carol")
        .expect(404, "Not Found"),
    Step::new("read, shared", "bob", "GET", DOCUMENT)
        .expect(200, "second draft"),
    Step::new("update, shared", "bob", "PUT", DOCUMENT).if_match("2").body(THIRD)
        .expect(200, r#""version":3"#),
    Step::new("delete, not the owner", "bob", "DELETE", DOCUMENT)
        .expect(403, "Forbidden"),
    Step::new("unshare", "alice", "DELETE", GRANT)
        .expect(204, ""),
    Step::new("update, no longer shared", "bob", "PUT", DOCUMENT).if_match("3").body(SECOND)
        .expect(404, "Not Found"),
    Step::new("read, not updated", "alice", "GET", DOCUMENT)
        .expect(200, r#""version":3"#),
    Step::new("read, unknown token", "mallory", "GET", DOCUMENT)
        .expect(401, "Unauthorized"),
    Step::new("update, unknown token", "mallory", "PUT", DOCUMENT).if_match("3").body(SECOND)
        .expect(401, "Unauthorized"),
    Step::new("delete", "alice", "DELETE", DOCUMENT)
        .expect(204, ""),
    Step::new("read, deleted", "alice", "GET", DOCUMENT)
        .expect(404, "Not Found"),
];

const DOCUMENT: &str = "/documents/$id";
const MISSING: &str = "/documents/00000000-0000-0000-0000-000000000000";
const GRANT: &str = "/documents/$id/grants/bob";
const FIRST: &str = r#"{"body":"first draft"}"#;
const SECOND: &str = r#"{"body":"second draft"}"#;
const THIRD: &str = r#"{"body":"third draft"}"#;

/// Users, each with its token.
type Tokens = [(&'static str, String)];

/// Prints the requests for a shell.
pub(crate) fn print(url: &str, tokens: &Tokens) {
    println!("listening on {url}, Ctrl-C stops; in another terminal:\n");
    for (user, token) in tokens {
        println!("{user}={token}");
    }
    println!("run=$RANDOM");
    for step in STEPS {
        let Step { method, path, .. } = step;
        let mut curl = format!("curl -s -X {method} {url}{path}");
        curl += &format!(" -H \"authorization: Bearer ${}\"", step.user);
        if let Some(version) = step.version {
            curl += &format!(" -H 'if-match: \"{version}\"'");
        }
        if let Some(key) = step.idempotency_key {
            curl += &format!(" -H \"idempotency-key: {key}-$run\"");
        }
        if !step.body.is_empty() {
            curl += &format!(" -H 'content-type: application/json' -d '{}'", step.body);
        }
        println!("# {}, {}: {}", step.user, step.title, step.status);
        if step.status == 201 {
            println!("id=$({curl} | grep -oE '[0-9a-f-]{{36}}'); echo $id");
        } else {
            println!("{curl} -w ' %{{http_code}}\\n'");
        }
    }
    println!();
}

/// Sends the requests, and returns the document that they have created. Fails if a response is not
/// the expected one.
pub(crate) async fn run(url: &str, tokens: &Tokens) -> Result<String, Box<dyn Error>> {
    let mut id = String::new();
    let mut wrong = 0;
    println!("\n{:<28}{:<9}{:<52}expected  got", "", "user", "request");
    for step in STEPS {
        let (status, body) = send(step, url, tokens, &id).await?;
        if status == 201 && id.is_empty() {
            id = serde_json::from_str::<Created>(&body)?.id;
        }
        let contains = step.contains.replace("$id", &id);
        let correct = status == step.status && body.contains(&contains);
        wrong += usize::from(!correct);
        let mark = if correct { "" } else { " WRONG" };
        let Step { title, user, .. } = step;
        let request = format!("{} {}", step.method, step.path);
        let expected = step.status;
        println!("{title:<28}{user:<9}{request:<52}{expected:<10}{status}{mark} {body}");
    }
    if wrong > 0 {
        return Err(format!("{wrong} of {} responses are wrong", STEPS.len()).into());
    }
    println!("\nall {} responses are as expected", STEPS.len());
    Ok(id)
}

async fn send(
    step: &Step,
    url: &str,
    tokens: &Tokens,
    id: &str,
) -> Result<(u16, String), Box<dyn Error>> {
    let token = tokens.iter().find(|(user, _)| *user == step.user);
    let (_, token) = token.ok_or("a user without a token")?;
    let mut request = Request::builder()
        .method(step.method)
        .uri(format!("{url}{}", step.path.replace("$id", id)))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(version) = step.version {
        request = request.header(header::IF_MATCH, format!("\"{version}\""));
    }
    if let Some(key) = step.idempotency_key {
        // The tokens of a run are new, and with them the principals.
        request = request.header("idempotency-key", key);
    }
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let response = client.request(request.body(Body::from(step.body))?).await?;
    let status = response.status();
    if status == StatusCode::UNAUTHORIZED && !response.headers().contains_key("www-authenticate") {
        return Err("a 401 without a challenge".into());
    }
    let body = to_bytes(Body::new(response.into_body()), usize::MAX).await?;
    Ok((status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

#[derive(Deserialize)]
struct Created {
    id: String,
}
