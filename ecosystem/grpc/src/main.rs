//! gRPC by tonic, whose errors come with status 200: `commit_if` reads `grpc-status`.
//!
//! The layer stands around the generated service, as around any service of Tower. A method takes
//! the `Tx` from the extensions of its request, and checks the rule, since its arguments are in the
//! message. The layer's own errors are rendered as statuses of gRPC.
//!
//! Run it with `cargo run -p with-grpc` in `ecosystem/`.

use axum::{
    Extension, Router,
    body::Body,
    extract::FromRequestParts as _,
    http::{self, Extensions},
    response::Response as HttpResponse,
};
use prost::Message as _;
use tonic::{Code, Request, Response, Status, service::Routes};
use tour::{Revocation, Tour};
use tower_interlock::{Denied, Error, ErrorKind, Interlock, Tx};

use self::{
    documents_client::DocumentsClient,
    documents_server::{Documents, DocumentsServer},
};

tonic::include_proto!("documents.Documents");

#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateRequest {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(string, tag = "2")]
    body: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct UpdateReply {
    #[prost(string, tag = "1")]
    body: String,
}

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO grants VALUES ('ada', 7);
";

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

/// The policy of the service. The rule of each method needs its message.
async fn signed_in(user: Option<Extension<User>>) -> Result<(), Error> {
    user.map(drop).ok_or_else(|| Error::unauthenticated("Bearer"))
}

async fn may_edit(tx: &mut Tx, user: &str, document: i64) -> Result<(), Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";
    let allowed: bool = sqlx::query_scalar(rule).bind(user).bind(document).fetch_one(tx).await?;
    Ok(Denied::unless(allowed, "no edit grant")?)
}

struct Service;

#[tonic::async_trait]
impl Documents for Service {
    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateReply>, Status> {
        let (_, extensions, UpdateRequest { id, body }) = request.into_parts();
        let updated = update(extensions, id, body).await;
        updated.map(Response::new).map_err(|error| status(&error))
    }
}

async fn update(extensions: Extensions, id: i64, body: String) -> Result<UpdateReply, Error> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.extensions = extensions;
    let mut tx = Tx::from_request_parts(&mut parts, &()).await?;
    let user = parts.extensions.get::<User>().map_or("", |user| user.0);

    may_edit(&mut tx, user, id).await?;
    let update = "UPDATE documents SET body = $2 WHERE id = $1 RETURNING body";
    let update = sqlx::query_scalar(update).bind(id).bind(body);
    let body = update.fetch_one(&mut tx).await?;
    Ok(UpdateReply { body })
}

/// The title of an error reveals nothing of the database.
fn status(error: &Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Unauthenticated => Code::Unauthenticated,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::NotFound | ErrorKind::RowNotFound => Code::NotFound,
        ErrorKind::Conflict | ErrorKind::ConstraintViolation => Code::AlreadyExists,
        ErrorKind::RetriesExhausted | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::OutcomeUnknown => Code::Unknown,
        _ => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// The status of a unary call that failed is in the headers. That of a success is in the trailers.
fn is_ok(response: &HttpResponse) -> bool {
    Status::from_header_map(response.headers()).is_none_or(|status| status.code() == Code::Ok)
}

fn app(interlock: &Interlock) -> Router {
    let signed_in = interlock.require(signed_in);
    Routes::new(DocumentsServer::new(Service)).into_axum_router().route_layer(signed_in)
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("grpc", SCHEMA, &["grants"]).await?;
    let interlock = Interlock::connect_with(tour.options(), 4)
        .commit_if(is_ok)
        .error_response(|error| status(error).into_http())
        .build();
    let app = app(&interlock);

    let mut client = DocumentsClient::new(app.clone());
    for (title, user, expected) in [
        ("no user", None, Code::Unauthenticated),
        ("mallory, without a grant", Some("mallory"), Code::PermissionDenied),
        ("ada, with a grant", Some("ada"), Code::Ok),
    ] {
        let (id, body) = (7, "second draft".to_owned());
        let mut request = Request::new(UpdateRequest { id, body });
        if let Some(user) = user {
            request.extensions_mut().insert(User(user));
        }
        let reply = client.update(request).await;
        let code = reply.map_or_else(|status| status.code(), |_| Code::Ok);
        println!("  {title}: {code:?}");
        assert_eq!(code, expected);
    }

    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM grants",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, request_of_ada, revocation).await?;

    interlock.drain().await;
    tour.end().await
}

/// A call as it is sent: a message with its length before it.
fn request_of_ada() -> http::Result<http::Request<Body>> {
    let (id, body) = (7, "second draft".to_owned());
    let message = UpdateRequest { id, body }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let framed = [&[0], &length.to_be_bytes()[..], &message].concat();
    http::Request::post("/documents.Documents/Update")
        .extension(User("ada"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from(framed))
}
