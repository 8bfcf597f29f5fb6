//! Relations as in Zanzibar, in the database of the service: one recursive statement decides.
//!
//! A tuple says that a subject has a relation to an object. The subject is a user, or everyone who
//! has a relation to another object: the members of a group, the editors of a folder. The statement
//! follows them from the user upwards. It runs on PostgreSQL and on CockroachDB, in the transaction
//! of the write, so there is no second store to be consistent with.
//!
//! Run it with `cargo run -p with-relations` in `ecosystem/`.

use axum::{
    Extension, Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode},
    routing::put,
};
use tour::{Revocation, Tour};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};

/// The key begins with the subject, which is where the search begins.
const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE tuples (
        object TEXT, relation TEXT, subject TEXT, PRIMARY KEY (subject, object, relation)
    );
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO tuples (subject, relation, object) VALUES
        ('user:ada', 'member', 'group:compilers'),
        ('group:compilers#member', 'member', 'group:engineering'),
        ('group:engineering#member', 'editor', 'folder:plans'),
        ('folder:plans#editor', 'editor', 'document:7'),
        ('user:mallory', 'member', 'group:guests');
";

/// The depth ends cycles, such as two groups that are members of each other.
const CHECK: &str = "
    WITH RECURSIVE reached (object, relation, depth) AS (
        SELECT object, relation, 1 FROM tuples WHERE subject = $1
        UNION ALL
        SELECT tuples.object, tuples.relation, depth + 1
        FROM reached JOIN tuples ON subject = reached.object || '#' || reached.relation
        WHERE depth < 10
    )
    SELECT EXISTS (SELECT 1 FROM reached WHERE relation = $2 AND object = $3)";

async fn check(tx: &mut Tx, subject: &str, relation: &str, object: &str) -> Result<(), Error> {
    let related: bool =
        sqlx::query_scalar(CHECK).bind(subject).bind(relation).bind(object).fetch_one(tx).await?;
    Denied::unless(related, format!("not {relation} of {object}"))?;
    Ok(())
}

/// The caller. Your authentication adds it to the request, here as an extension.
#[derive(Clone)]
struct User(&'static str);

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

async fn can_edit(
    Extension(User(user)): Extension<User>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let (subject, object) = (format!("user:{user}"), format!("document:{document}"));
    check(&mut tx, &subject, "editor", &object).await?;
    Ok(CanEdit { document })
}

async fn update(can: Authorized<CanEdit>, mut tx: Tx, body: String) -> Result<StatusCode, Error> {
    sqlx::query("UPDATE documents SET body = $2 WHERE id = $1")
        .bind(can.document)
        .bind(body)
        .execute(&mut tx)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

fn app(interlock: &Interlock) -> Router {
    let can_edit = interlock.require(can_edit);
    Router::new().route("/documents/{id}", put(update).route_layer(can_edit))
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("relations", SCHEMA, &["tuples"]).await?;
    let interlock = Interlock::connect_with(tour.options(), 4).build();
    let app = app(&interlock);

    let (ada, mallory) = (User("ada"), User("mallory"));
    let by = |user: &User| {
        let request = Request::put("/documents/7").extension(user.clone());
        request.body(Body::from("second draft"))
    };
    for (title, user, expected) in [
        ("ada, through two groups and a folder", &ada, StatusCode::NO_CONTENT),
        ("mallory, a guest", &mallory, StatusCode::FORBIDDEN),
    ] {
        tour::send(&app, title, by(user), expected).await?;
    }

    let cycle = "INSERT INTO tuples (subject, relation, object) VALUES
        ('group:engineering#member', 'member', 'group:compilers')";
    tour.change(cycle).await?;
    tour::send(&app, "ada, with a cycle of groups", by(&ada), StatusCode::NO_CONTENT).await?;

    let revocation = Revocation {
        prepare: "INSERT INTO tuples (subject, relation, object) VALUES
                  ('group:compilers#member', 'member', 'group:engineering')
                  ON CONFLICT DO NOTHING;
              UPDATE documents SET body = 'first draft'",
        revoke: "DELETE FROM tuples WHERE subject = 'group:compilers#member'",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, move || by(&ada), revocation).await?;

    interlock.drain().await;
    tour.end().await
}
