//! Sessions in the database, with AxumSession: its cached user says who asks, the policy decides.
//!
//! AxumSession keeps sessions in memory for an hour, and users for six. So a user who is locked out
//! stays signed in, in each process. The policy reads the user through its `Tx`, together with the
//! grant, and is not mistaken.
//!
//! Run it with `cargo run -p with-sessions` in `ecosystem/`.

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{Request, StatusCode, header},
    response::Redirect,
    routing::{get, post, put},
};
use axum_session::{SessionConfig, SessionLayer, SessionStore};
use axum_session_auth::{AuthSession, AuthSessionLayer, Authentication};
use axum_session_sqlx::SessionPgPool;
use sqlx::PgPool;
use tour::{Revocation, Tour};
use tower_interlock::{Authorized, Denied, Error, Interlock, Tx};

const SCHEMA: &str = "
    CREATE TABLE users (id INT8 PRIMARY KEY, name TEXT NOT NULL UNIQUE, active BOOL NOT NULL);
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE grants (user_id INT8, document_id INT8, PRIMARY KEY (user_id, document_id));
    INSERT INTO users VALUES (1, 'ada', true), (2, 'mallory', true);
    INSERT INTO documents VALUES (7, 'first draft');
    INSERT INTO grants VALUES (1, 7);
";

type Session = AuthSession<User, i64, SessionPgPool, PgPool>;

#[derive(Debug, Clone, sqlx::FromRow)]
struct User {
    id: i64,
    active: bool,
}

#[async_trait]
impl Authentication<User, i64, PgPool> for User {
    async fn load_user(id: i64, pool: Option<&PgPool>) -> anyhow::Result<User> {
        let pool = pool.ok_or_else(|| anyhow::anyhow!("no pool"))?;
        let user = sqlx::query_as("SELECT id, active FROM users WHERE id = $1");
        Ok(user.bind(id).fetch_one(pool).await?)
    }

    fn is_authenticated(&self) -> bool {
        true
    }

    fn is_active(&self) -> bool {
        self.active
    }

    fn is_anonymous(&self) -> bool {
        false
    }
}

/// The service verifies a password or a passkey here.
async fn sign_in(session: Session, Path(user): Path<i64>) -> StatusCode {
    session.login_user(user);
    StatusCode::NO_CONTENT
}

async fn me(session: Session) -> String {
    format!("active: {}", session.is_active())
}

#[derive(Clone)]
struct SignedIn {
    user: i64,
}

/// Runs no statement, so that it may redirect.
async fn signed_in(session: Session) -> Result<SignedIn, Redirect> {
    let user = session.current_user.ok_or(Redirect::to("/sign-in"))?;
    Ok(SignedIn { user: user.id })
}

#[derive(Clone)]
struct CanEdit {
    document: i64,
}

async fn can_edit(
    signed_in: Authorized<SignedIn>,
    Path(document): Path<i64>,
    mut tx: Tx,
) -> Result<CanEdit, Error> {
    let rule = "SELECT EXISTS (SELECT 1 FROM grants JOIN users ON users.id = grants.user_id
                               WHERE users.id = $1 AND users.active AND document_id = $2)";
    let allowed: bool =
        sqlx::query_scalar(rule).bind(signed_in.user).bind(document).fetch_one(&mut tx).await?;
    Denied::unless(allowed, "locked out, or no edit grant")?;
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

/// The sessions are outside of the interlock. They are stored on the pool, in transactions of their
/// own, also if the request is rolled back.
async fn app(interlock: &Interlock, pool: PgPool) -> tour::Result<Router> {
    let config = SessionConfig::default().with_table_name("sessions");
    let store = SessionStore::<SessionPgPool>::new(Some(pool.clone().into()), config).await?;
    // The last layer is the outermost.
    let update = put(update)
        .route_layer(interlock.require(can_edit))
        .route_layer(interlock.require(signed_in));
    Ok(Router::new()
        .route("/sign-in/{user}", post(sign_in))
        .route("/me", get(me))
        .route("/documents/{id}", update)
        .layer(AuthSessionLayer::<User, i64, SessionPgPool, PgPool>::new(Some(pool)))
        .layer(SessionLayer::new(store)))
}

#[tokio::main]
async fn main() -> tour::Result {
    let tour = Tour::start("sessions", SCHEMA, &["users", "grants"]).await?;
    let pool = Interlock::pool_options().max_connections(4);
    let pool = pool.connect_with(tour.options()).await?;
    let interlock = Interlock::new(pool.clone());
    let app = app(&interlock, pool.clone()).await?;

    let sign_in = async |user: &str| {
        let request = Request::post(format!("/sign-in/{user}")).body(Body::empty());
        let response = tour::send(&app, "sign-in", request, StatusCode::NO_CONTENT).await?;
        let cookies = response.headers().get_all(header::SET_COOKIE).iter();
        let cookies = cookies.filter_map(|cookie| cookie.to_str().ok()?.split(';').next());
        tour::Result::Ok(cookies.collect::<Vec<_>>().join("; "))
    };
    let (ada, mallory) = (sign_in("1").await?, sign_in("2").await?);
    for (title, cookies, expected) in [
        ("no session", "", StatusCode::SEE_OTHER),
        ("mallory, without a grant", &mallory, StatusCode::FORBIDDEN),
        ("ada, with a grant", &ada, StatusCode::NO_CONTENT),
    ] {
        tour::send(&app, title, request("PUT", "/documents/7", cookies), expected).await?;
    }

    tour.change("UPDATE users SET active = false WHERE id = 1").await?;
    let response = tour::send(&app, "her session", request("GET", "/me", &ada), StatusCode::OK);
    assert_eq!(response.await?.body(), "active: true");
    let update = request("PUT", "/documents/7", &ada);
    tour::send(&app, "ada, locked out", update, StatusCode::FORBIDDEN).await?;

    let revocation = Revocation {
        prepare: "UPDATE users SET active = true; UPDATE documents SET body = 'first draft'",
        revoke: "UPDATE users SET active = false WHERE id = 1",
        effect: "SELECT body FROM documents",
    };
    tour.race(&app, move || request("PUT", "/documents/7", &ada), revocation).await?;

    interlock.drain().await;
    pool.close().await;
    tour.end().await
}

fn request(method: &str, path: &str, cookies: &str) -> axum::http::Result<Request<Body>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::COOKIE, cookies)
        .body(Body::from("second draft"))
}
