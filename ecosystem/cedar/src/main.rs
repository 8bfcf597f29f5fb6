//! Policies in Cedar, decided on entities that are loaded through the `Tx`.
//!
//! Cedar is a pure function of policies and entities. The entities come from one statement in the
//! transaction of the write, so a membership that is revoked before COMMIT does not count. Cedar
//! skips a policy that cannot be evaluated, also one that forbids: here that is a 500, and never an
//! allow.
//!
//! Run it with `cargo run -p with-cedar` in `ecosystem/`.

use std::{collections::HashSet, sync::Arc};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, State},
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    routing::put,
};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, PolicySet, RestrictedExpression,
};
use tour::{Revocation, Tour};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};

const POLICIES: &str = r#"
    permit (principal, action == Action::"edit", resource)
    when { principal in resource.editors };

    forbid (principal, action, resource)
    when { principal.clearance < resource.level };
"#;

/// Bob has no clearance: for him the second policy cannot be evaluated.
const SCHEMA: &str = "
    CREATE TABLE users (name TEXT PRIMARY KEY, clearance INT8);
    CREATE TABLE members (user_name TEXT, group_name TEXT, PRIMARY KEY (user_name, group_name));
    CREATE TABLE documents (
        id INT8 PRIMARY KEY, editors TEXT NOT NULL, level INT8 NOT NULL, body TEXT NOT NULL
    );
    INSERT INTO users VALUES ('ada', 3), ('bob', NULL), ('carol', 1), ('mallory', 3);
    INSERT INTO members VALUES ('ada', 'authors'), ('bob', 'authors'), ('carol', 'authors');
    INSERT INTO documents VALUES (7, 'authors', 2, 'first draft');
";

#[derive(sqlx::FromRow)]
struct Facts {
    clearance: Option<i64>,
    groups: Vec<String>,
    editors: String,
    level: i64,
}

const FACTS: &str = "
    SELECT clearance, editors, level,
        ARRAY(SELECT group_name FROM members WHERE user_name = users.name) AS groups
    FROM users, documents WHERE users.name = $1 AND documents.id = $2";

/// Why the caller may not edit. That Cedar could not decide is no denial.
enum Rejection {
    Error(Error),
    Undecided(String),
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        match self {
            Self::Error(error) => error.into_response(),
            Self::Undecided(cause) => {
                tracing::error!(cause, "Cedar could not decide");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

async fn can_edit(
    State(policies): State<Arc<PolicySet>>,
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Rejection> {
    let facts = sqlx::query_as(FACTS).bind(user).bind(document);
    let facts: Facts = facts.fetch_one(&mut tx).await.map_err(Error::from)?;
    let decision = decide(&policies, user, document, facts).map_err(Rejection::Undecided)?;
    Denied::unless(decision == Decision::Allow, "denied by Cedar").map_err(Error::from)?;
    Ok(CanEdit { document })
}

fn decide(
    policies: &PolicySet,
    user: &str,
    document: i64,
    facts: Facts,
) -> Result<Decision, String> {
    let uid = |kind: &str, id: &str| {
        let kind = kind.parse().map_err(text)?;
        Ok::<_, String>(EntityUid::from_type_name_and_id(kind, id.parse().map_err(text)?))
    };
    let groups = facts.groups.iter().map(|group| uid("Group", group));
    let groups: HashSet<_> = groups.collect::<Result<_, _>>()?;
    let clearance = facts.clearance.map(RestrictedExpression::new_long);
    let clearance = clearance.map(|clearance| ("clearance".to_owned(), clearance));
    let editors = RestrictedExpression::new_entity_uid(uid("Group", &facts.editors)?);
    let level = RestrictedExpression::new_long(facts.level);
    let attributes = [("editors".to_owned(), editors), ("level".to_owned(), level)];

    let (principal, resource) = (uid("User", user)?, uid("Document", &document.to_string())?);
    let entities = [
        Entity::new(principal.clone(), clearance.into_iter().collect(), groups).map_err(text)?,
        Entity::new(resource.clone(), attributes.into(), HashSet::new()).map_err(text)?,
    ];
    let entities = Entities::from_entities(entities, None).map_err(text)?;
    let action = uid("Action", "edit")?;
    let request = cedar_policy::Request::new(principal, action, resource, Context::empty(), None);
    let response = Authorizer::new().is_authorized(&request.map_err(text)?, policies, &entities);
    match response.diagnostics().errors().next() {
        Some(error) => Err(error.to_string()),
        None => Ok(response.decision()),
    }
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<StatusCode, Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(can.document)
        .bind(body)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn app(interlock: &Interlock, policies: PolicySet) -> Router {
    let can_edit = interlock.require_with_state(Arc::new(policies), can_edit);
    Router::new().route("/documents/{id}", put(update).route_layer(can_edit))
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("cedar", SCHEMA, &["users", "members", "documents"]).await?;
    let interlock = Interlock::connect_with(tour.options(), 4).build();
    let app = app(&interlock, POLICIES.parse()?);

    let by = |user: &'static str| {
        let request = Request::put("/documents/7").extension(User(user));
        request.body(Body::from("second draft"))
    };
    for (title, user, expected) in [
        ("ada, an author", "ada", StatusCode::NO_CONTENT),
        ("carol, whose clearance is too low", "carol", StatusCode::FORBIDDEN),
        ("mallory, no author", "mallory", StatusCode::FORBIDDEN),
        ("bob, without a clearance to compare", "bob", StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        tour::send(&app, title, by(user), expected).await?;
    }

    let revocation = Revocation {
        prepare: "INSERT INTO members VALUES ('ada', 'authors') ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM members WHERE user_name = 'ada'",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, move || by("ada"), revocation).await?;

    interlock.drain().await;
    tour.end().await
}
