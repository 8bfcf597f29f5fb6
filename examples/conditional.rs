//! The smallest conditional write: check and update are one statement, one round trip.
//!
//! `cargo run --example conditional` updates as several users, and fails if a result is not the
//! expected one. It uses the server of `DATABASE_URL` if set; otherwise it starts one for the run.

use support::Server;
use tower_interlock::{Condition, ConditionalWrite, Error, Interlock};

static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = $3, version = version + 1 WHERE id = $2 AND {conditions}
     RETURNING version",
    &[
        Condition::exists("EXISTS (SELECT 1 FROM documents WHERE id = $2)"), // 404
        Condition::permitted("(SELECT owner FROM documents WHERE id = $2) = $1"), // 403
        Condition::current("(SELECT version FROM documents WHERE id = $2) = $4"), // 412
    ],
);

const SCHEMA: &str = "
    CREATE TABLE documents (
        id INT8 PRIMARY KEY,
        owner TEXT NOT NULL,
        body TEXT NOT NULL,
        version INT8 NOT NULL
    );
    INSERT INTO documents VALUES (7, 'alice', 'first draft', 1);
";

/// Returns the new version.
async fn update(
    interlock: &Interlock,
    user: &str,
    document: i64,
    body: &str,
    expected: i64,
) -> Result<i64, Error> {
    let update = UPDATE.bind(user).bind(document).bind(body).bind(expected);
    let (version,) = update.fetch_one(interlock).await?;
    Ok(version)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start()?;
    println!("database: {server}");
    let database = server.create_database("conditional").await?;
    database.run(SCHEMA).await;
    let pool = Interlock::pool_options()
        .connect_with(database.options())
        .await?;
    let interlock = Interlock::new(pool.clone());

    for (title, user, document, version, expected) in [
        ("the owner", "alice", 7, 1, 200),
        ("another user", "mallory", 7, 2, 403),
        ("a missing document", "alice", 8, 1, 404),
        ("an old version", "alice", 7, 1, 412),
    ] {
        let updated = update(&interlock, user, document, "second draft", version).await;
        let status = updated.map_or_else(|error| error.status().as_u16(), |_| 200);
        println!("{title}: {status}");
        assert_eq!(status, expected);
    }

    interlock.drain().await;
    pool.close().await;
    database.drop().await?;
    Ok(())
}
