//! GraphQL, whose errors come with status 200: `commit_if` makes them errors of the transaction.
//!
//! All mutations of a request share its `Tx`. The rule stands in each, since its arguments are in
//! the body. One that is denied rolls back all.
//!
//! Run it with `cargo run -p with-graphql` in `ecosystem/`.

use async_graphql::{Context, EmptySubscription, ErrorExtensions as _, Object, Schema};
use async_graphql_axum::{GraphQLRequest, GraphQLResponse};
use axum::{
    Extension, Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use tokio::sync::Mutex;
use tour::{Revocation, Tour};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_name TEXT, document_id INT8, PRIMARY KEY (user_name, document_id));
    INSERT INTO documents VALUES (7, 'first draft'), (8, 'first draft');
    INSERT INTO grants VALUES ('ada', 7);
";

/// The rule, for each mutation.
async fn may_edit(tx: &mut Tx, user: &str, document: i64) -> Result<(), Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";
    let allowed: bool = sqlx::query_scalar(rule).bind(user).bind(document).fetch_one(tx).await?;
    Ok(Denied::unless(allowed, "no edit grant")?)
}

async fn update(tx: &mut Tx, user: &str, document: i64, body: &str) -> Result<String, Error> {
    may_edit(tx, user, document).await?;
    let update = "UPDATE documents SET body = $2 WHERE id = $1 RETURNING body";
    Ok(sqlx::query_scalar(update).bind(document).bind(body).fetch_one(tx).await?)
}

struct Mutation;

#[Object]
impl Mutation {
    /// Updates a document, and returns its text.
    async fn update(
        &self,
        context: &Context<'_>,
        id: i64,
        body: String,
    ) -> async_graphql::Result<String> {
        let user = &context.data::<SignedIn>()?.user;
        let mut tx = context.data::<Mutex<Tx>>()?.lock().await;
        let updated = update(&mut tx, user, id, &body).await;
        updated.map_err(|error| {
            let code = error.kind().code();
            error.extend_with(|_, extensions| extensions.set("code", code))
        })
    }
}

struct Query;

#[Object]
impl Query {
    /// Returns the text of a document.
    async fn document(&self, context: &Context<'_>, id: i64) -> async_graphql::Result<String> {
        let mut tx = context.data::<Mutex<Tx>>()?.lock().await;
        let document = sqlx::query_scalar("SELECT body FROM documents WHERE id = $1");
        Ok(document.bind(id).fetch_one(&mut *tx).await.map_err(Error::from)?)
    }
}

type Documents = Schema<Query, Mutation, EmptySubscription>;

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

#[derive(Clone)]
struct SignedIn {
    user: String,
}

async fn signed_in(user: Option<Extension<User>>) -> Result<SignedIn, Error> {
    let Extension(User(user)) = user.ok_or_else(|| Error::unauthenticated("Bearer"))?;
    let user = user.to_owned();
    Ok(SignedIn { user })
}

/// Marks a response with errors.
#[derive(Clone)]
struct HasErrors;

async fn execute(
    State(documents): State<Documents>,
    signed_in: Authorized<SignedIn>,
    tx: Tx,
    request: GraphQLRequest,
) -> Response {
    let request = request.into_inner().data(signed_in.into_inner()).data(Mutex::new(tx));
    let response = documents.execute(request).await;
    if response.is_ok() {
        GraphQLResponse::from(response).into_response()
    } else {
        // No mutation is kept, so none is reported.
        let errors = async_graphql::Response::from_errors(response.errors);
        (Extension(HasErrors), GraphQLResponse::from(errors)).into_response()
    }
}

fn app(interlock: &Interlock) -> Router {
    let signed_in = interlock.require(signed_in);
    let documents = Documents::new(Query, Mutation, EmptySubscription);
    Router::new().route("/graphql", post(execute).route_layer(signed_in)).with_state(documents)
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("graphql", SCHEMA, &["grants"]).await?;
    let interlock = Interlock::connect_with(tour.options(), 4)
        .commit_if(|response| response.extensions().get::<HasErrors>().is_none())
        .build();
    let app = app(&interlock);

    let (one, two) = (
        r#"mutation { update(id: 7, body: \"second draft\") }"#,
        r#"mutation { a: update(id: 7, body: \"third draft\") b: update(id: 8, body: \"no\") }"#,
    );
    tour::send(&app, "one mutation", by_ada(one), StatusCode::OK).await?;
    tour::send(&app, "two, one of them denied", by_ada(two), StatusCode::OK).await?;
    let body: String = tour.read("SELECT body FROM documents WHERE id = 7").await?;
    println!("  document 7: {body}");
    assert_eq!(body, "second draft");

    let revocation = Revocation {
        prepare: "INSERT INTO grants VALUES ('ada', 7) ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM grants",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, move || by_ada(one), revocation).await?;

    interlock.drain().await;
    tour.end().await
}

fn by_ada(mutation: &str) -> axum::http::Result<Request<Body>> {
    Request::post("/graphql")
        .extension(User("ada"))
        .header("content-type", "application/json")
        .body(Body::from(format!(r#"{{"query":"{mutation}"}}"#)))
}
