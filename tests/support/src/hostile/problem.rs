//! The response of every error depends on its kind, and on no byte of its reason.

use std::{error::Error as StdError, io, sync::LazyLock};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use sqlx::{Error as SqlxError, postgres::PgPoolOptions};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use tower_interlock::{Denied, Error, ErrorKind, Interlock};

/// Every way to make an error out of a text.
const WAYS: &[fn(String) -> Error] = &[
    |reason| Denied::new(reason).into(),
    |reason| Denied::new(reason).hidden().into(),
    |reason| SqlxError::Protocol(reason).into(),
    |reason| SqlxError::InvalidArgument(reason).into(),
    |reason| SqlxError::ColumnNotFound(reason).into(),
    |reason| SqlxError::TypeNotFound { type_name: reason }.into(),
    |reason| SqlxError::Configuration(reason.into()).into(),
    |reason| SqlxError::Encode(reason.into()).into(),
    |reason| SqlxError::Decode(reason.into()).into(),
    |reason| SqlxError::Tls(reason.into()).into(),
    |reason| SqlxError::Io(io::Error::other(reason)).into(),
];

/// The responses of each of them for a plain reason.
static PLAIN: LazyLock<Vec<[Rendered; 3]>> = LazyLock::new(|| {
    let plain: Vec<_> = (0..WAYS.len()).map(|way| responses(way, "plain")).collect();
    plain.iter().flatten().for_each(Rendered::assert_problem);
    plain
});

/// Checks the errors whose reason is `input`.
///
/// # Panics
///
/// If a response depends on the reason.
pub fn check(input: &[u8]) {
    let reason = String::from_utf8_lossy(input);
    for (way, make) in WAYS.iter().enumerate() {
        let (error, plain) = (make(reason.clone().into()), make("plain".into()));
        assert_eq!(error.to_string(), plain.to_string());
        assert_eq!(error.status(), plain.status());
        let logged = error.source().map(ToString::to_string);
        assert!(logged.is_some_and(|logged| logged.contains(&*reason)));
        assert_eq!(responses(way, &reason), PLAIN[way]);
    }
    let hidden = Denied::new(reason.into_owned()).hidden();
    let not_found = Error::not_found();
    assert_eq!(render(hidden), render(not_found));
}

/// The response of an error itself, and of layers whose policy or handler returns the error.
fn responses(way: usize, reason: &str) -> [Rendered; 3] {
    let through_the_layer = |path| {
        let request = Request::get(path).extension(Fault(way, reason.to_owned()));
        let request = request.body(Body::empty()).unwrap();
        render(RUNTIME.block_on(APP.clone().oneshot(request)).unwrap())
    };
    [
        render(WAYS[way](reason.to_owned())),
        through_the_layer("/policy"),
        through_the_layer("/handler"),
    ]
}

#[derive(Debug, PartialEq)]
struct Rendered {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Rendered {
    fn assert_problem(&self) {
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        assert!(self.status.is_client_error() || self.status.is_server_error());
        let kind = ErrorKind::ALL.iter();
        let kind = kind.copied().find(|kind| kind.code() == problem.code);
        let kind = kind.expect("the code of a kind");
        assert_eq!(problem.r#type, kind.problem_type());
        assert_eq!(problem.title, kind.title());
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Problem {
    r#type: String,
    title: String,
    status: u16,
    code: String,
}

fn render(response: impl IntoResponse) -> Rendered {
    let (parts, body) = response.into_response().into_parts();
    Rendered {
        status: parts.status,
        headers: parts.headers,
        body: RUNTIME.block_on(to_bytes(body, usize::MAX)).unwrap().into(),
    }
}

#[derive(Clone)]
struct Fault(usize, String);

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());

/// It runs no statement, so it needs no database.
static APP: LazyLock<Router> = LazyLock::new(|| {
    let _runtime = RUNTIME.enter();
    let pool = PgPoolOptions::new().connect_lazy("postgres://localhost/nowhere");
    let interlock = Interlock::new(pool.unwrap());
    let fail = async |Extension(Fault(way, reason))| Err::<(), Error>(WAYS[way](reason));
    let pass = async || Ok::<(), Error>(());
    Router::new()
        .route(
            "/policy",
            get(async || ()).route_layer(interlock.require(fail)),
        )
        .route("/handler", get(fail).route_layer(interlock.require(pass)))
});
