//! What every test needs: a database with tables, an interlock on it, and requests.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Path,
    handler::Handler,
    http::{Request, StatusCode, header},
    response::Response,
    routing::any,
};
use sqlx::{Executor, PgPool, Postgres};
use support::{Database, Kind};
use tower::ServiceExt as _;
use tower_interlock::{AuthorizeLayer, Denied, Error, Interlock, Outcome, Report, Tx};

/// One test's database, with a pool and an interlock on it.
#[derive(Clone)]
pub(crate) struct Kit {
    pub(crate) database: Database,
    /// For looking from outside.
    pub(crate) outside: PgPool,
    pub(crate) pool: PgPool,
    pub(crate) interlock: Interlock,
}

/// Runs a test in a database of its own, on a pool of 4.
pub(crate) fn test<F, Fut>(body: F)
where
    F: FnOnce(Kit) -> Fut,
    Fut: Future<Output = ()>,
{
    test_with_pool(4, body);
}

/// Runs a test in a database of its own.
pub(crate) fn test_with_pool<F, Fut>(size: u32, body: F)
where
    F: FnOnce(Kit) -> Fut,
    Fut: Future<Output = ()>,
{
    support::test(async |database: Database| {
        database.run(SCHEMA).await;
        let outside = database.pool(4).await;
        let pool = pool(&database, size);
        let interlock = Interlock::new(pool.clone());
        let kit = Kit {
            database,
            outside,
            pool,
            interlock,
        };
        body(kit.clone()).await;
        kit.interlock.drain().await;
        kit.assert_nothing_leaked().await;
    });
}

/// A recommended pool.
pub(crate) fn pool(database: &Database, size: u32) -> PgPool {
    Interlock::pool_options()
        .max_connections(size)
        .connect_lazy_with(database.options())
}

/// An interlock that hands connections on in every other one of many cases.
pub(crate) fn interlock(pool: &PgPool, case: i64) -> Interlock {
    let interlock = Interlock::new(pool.clone());
    if case % 2 == 0 {
        interlock
    } else {
        interlock.handoff()
    }
}

const SCHEMA: &str = "
    CREATE TABLE grants (user_id INT8 NOT NULL, document_id INT8 NOT NULL, PRIMARY KEY (user_id, document_id));
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL, version INT8 NOT NULL DEFAULT 0);
    CREATE TABLE notes (id INT8 PRIMARY KEY, note TEXT NOT NULL);
    INSERT INTO grants VALUES (1, 1);
    INSERT INTO documents VALUES (1, 'old', 0), (2, 'old', 0);
";

impl Kit {
    /// The documents' bodies that are stored, as anybody else sees them.
    pub(crate) async fn body(&self, id: i64) -> String {
        sqlx::query_scalar("SELECT body FROM documents WHERE id = $1")
            .bind(id)
            .fetch_one(&self.outside)
            .await
            .unwrap()
    }

    /// The notes that are stored. It does not wait for a request under way, as a reader of
    /// CockroachDB otherwise does for whoever has written.
    pub(crate) async fn notes(&self) -> Vec<i64> {
        let begin = match self.database.kind() {
            Kind::CockroachDb => "BEGIN PRIORITY HIGH",
            Kind::PostgreSql => "BEGIN",
        };
        let mut looking = self.outside.begin_with(begin).await.unwrap();
        let notes = sqlx::query_scalar("SELECT id FROM notes ORDER BY id");
        let notes = notes.fetch_all(&mut *looking).await.unwrap();
        looking.commit().await.unwrap();
        notes
    }

    /// Every connection is back in the pool, none inside a transaction, and each can be used.
    pub(crate) async fn assert_nothing_leaked(&self) {
        if self.pool.is_closed() {
            return;
        }
        let size = self.pool.options().get_max_connections();
        let mut all = Vec::new();
        for _ in 0..size {
            let connection = tokio::time::timeout(Duration::from_secs(10), self.pool.acquire());
            let mut connection = connection.await.expect("a connection leaked").unwrap();
            // Outside a transaction a savepoint is refused; inside one it is not.
            let inside = sqlx::query("SAVEPOINT outside")
                .execute(&mut *connection)
                .await;
            assert!(
                inside.is_err(),
                "a pooled connection is inside a transaction"
            );
            let one: i64 = sqlx::query_scalar("SELECT 1::INT8")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            assert_eq!(one, 1);
            all.push(connection);
        }
    }
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
    pub(crate) response: Response,
}

impl Answer {
    pub(crate) fn report(&self) -> &Report {
        self.response.extensions().get().expect("no report")
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.report().outcome()
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    /// It is the problem document of a kind, and tells nothing of the database.
    #[track_caller]
    pub(crate) fn assert_problem(&self, kind: tower_interlock::ErrorKind) {
        let error = self.response.extensions().get::<Error>();
        let error = error.unwrap_or_else(|| panic!("{} is no problem: {}", self.status, self.body));
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!(self.status, error.status());
        assert_eq!(
            self.header(header::CONTENT_TYPE),
            Some("application/problem+json")
        );
        let problem: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["type"].is_string() && problem["title"].is_string());
        for secret in [
            "grants",
            "documents",
            "notes",
            "SELECT",
            "restart",
            "key",
            "127.0.0.1",
        ] {
            assert!(!self.body.contains(secret), "{}", self.body);
        }
    }
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    read(response).await
}

pub(crate) async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status,
        body: String::from_utf8(bytes.to_vec()).unwrap(),
        response: Response::from_parts(parts, Body::empty()),
    }
}

pub(crate) async fn put(app: &Router, path: &str, body: &'static str) -> Answer {
    send(app, Request::put(path).body(Body::from(body)).unwrap()).await
}

pub(crate) async fn get(app: &Router, path: &str) -> Answer {
    send(app, Request::get(path).body(Body::empty()).unwrap()).await
}

/// The grant of [`can_edit`].
#[derive(Debug, Clone)]
pub(crate) struct CanEdit {
    pub(crate) document: i64,
}

/// User 1 may edit what it has a grant for.
pub(crate) async fn can_edit(Path(document): Path<i64>, mut tx: Tx) -> Result<CanEdit, Error> {
    let allowed: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = 1 AND document_id = $1)",
    )
    .bind(document)
    .fetch_one(&mut tx)
    .await?;
    Denied::unless(allowed, "no edit grant")?;
    Ok(CanEdit { document })
}

/// A policy that allows everything and asks the database nothing.
pub(crate) async fn anyone() -> Result<(), Error> {
    Ok(())
}

/// Writes a note.
pub(crate) async fn note(tx: &mut Tx, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO notes VALUES ($1, '')")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Meets a serialization failure, a real one: somebody else writes what was read `on` it.
pub(crate) async fn conflict<C>(on: &mut C, outside: &PgPool) -> Result<(), sqlx::Error>
where
    for<'c> &'c mut C: Executor<'c, Database = Postgres>,
{
    const INCREMENT: &str = "UPDATE documents SET version = version + 1 WHERE id = 2";
    sqlx::query("SELECT version FROM documents WHERE id = 2")
        .fetch_one(&mut *on)
        .await?;
    sqlx::query(INCREMENT).execute(outside).await?;
    sqlx::query(INCREMENT).execute(on).await?;
    Ok(())
}

/// The first attempt meets a serialization failure.
pub(crate) async fn conflict_once(tx: &mut Tx, outside: &PgPool) -> Result<(), sqlx::Error> {
    if tx.attempt() == 1 {
        conflict(tx, outside).await?;
    }
    Ok(())
}

/// Any path of one segment, through `layer` to `handler`.
pub(crate) fn guarded<H, T>(layer: AuthorizeLayer, handler: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    Router::new()
        .route("/{id}", any(handler))
        .route_layer(layer)
}
