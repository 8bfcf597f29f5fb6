//! What every test needs: a database with tables, and requests.

use axum::{body::Body, extract::Request};
use http::{Method, header};
use sqlx::PgPool;
use support::Database;
use tower_interlock::Interlock;

/// Runs a test in a database of its own, with the tables of the services.
pub(crate) fn test<F, Fut>(body: F)
where
    F: FnOnce(Database) -> Fut,
    Fut: Future<Output = ()>,
{
    support::test(async |database: Database| {
        database.run(SCHEMA).await;
        body(database).await;
    });
}

/// A recommended pool.
pub(crate) fn pool(database: &Database) -> PgPool {
    let pool = Interlock::pool_options().max_connections(4);
    pool.connect_lazy_with(database.options())
}

/// A row in `grants` is the permission to write. `permissions` is a copy of it.
const SCHEMA: &str = "
    CREATE TABLE grants (user_name TEXT PRIMARY KEY);
    CREATE TABLE documents (id INT8 PRIMARY KEY, body TEXT NOT NULL);
    CREATE TABLE log (entry TEXT NOT NULL);
    INSERT INTO grants VALUES ('alice');
    INSERT INTO documents VALUES (1, 'old');
    CREATE MATERIALIZED VIEW permissions AS SELECT user_name FROM grants;
";

/// Restores the rows that requests change.
pub(crate) const SCHEMA_RESET: &str = "
    UPDATE documents SET body = 'old';
    DELETE FROM log;
";

/// A request of a user.
pub(crate) fn request(method: Method, path: &str, user: &str) -> Request {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, user)
        .body(Body::from("new"))
        .unwrap()
}

/// A PUT by alice, who has the permission.
pub(crate) fn put(path: &str) -> Request {
    request(Method::PUT, path, "alice")
}
