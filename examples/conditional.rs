//! The smallest conditional write: check and update are one statement, one round trip.
//!
//! `cargo run --example conditional` starts the database that it finds, updates as several users,
//! and fails if an answer is not the expected one.

use std::error::Error;

use support::Server;
use tower_interlock::{Condition, ConditionalWrite, Interlock};

static UPDATE: ConditionalWrite = ConditionalWrite::new(
    "UPDATE documents SET body = $3, version = version + 1 WHERE id = $2 AND {conditions} RETURNING version",
    &[
        Condition::exists("EXISTS (SELECT 1 FROM documents WHERE id = $2)"),
        Condition::permitted("(SELECT owner FROM documents WHERE id = $2) = $1"),
        Condition::current("(SELECT version FROM documents WHERE id = $2) = $4"),
    ],
);

const SCHEMA: &str = "
    CREATE TABLE documents (id INT8 PRIMARY KEY, owner TEXT NOT NULL, body TEXT NOT NULL, version INT8 NOT NULL);
    INSERT INTO documents VALUES (1, 'alice', '', 1);
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start()?;
    println!("database: {server}");
    let database = server.create_database("conditional").await?;
    database.run(SCHEMA).await;
    let pool = Interlock::pool_options()
        .connect_with(database.options())
        .await?;
    let interlock = Interlock::new(pool.clone());

    let mut wrong = 0;
    for (what, user, document, seen, expected) in [
        ("the owner, who has read version 1", "alice", 1, 1, 200),
        ("a stranger", "mallory", 1, 2, 403),
        ("no such document", "alice", 2, 1, 404),
        ("the owner, who has not read again", "alice", 1, 1, 412),
    ] {
        let answer = update(&interlock, user, document, "new", seen).await;
        let status = answer.map_or_else(|error| error.status().as_u16(), |_| 200);
        println!("{what:<36}expected {expected}  got {status}");
        wrong += usize::from(status != expected);
    }

    interlock.drain().await;
    pool.close().await;
    database.drop().await?;
    if wrong > 0 {
        return Err(format!("{wrong} answers are wrong").into());
    }
    Ok(())
}

/// Returns the new version.
async fn update(
    interlock: &Interlock,
    user: &str,
    document: i64,
    body: &str,
    seen: i64,
) -> Result<i64, tower_interlock::Error> {
    let update = UPDATE.bind(user).bind(document).bind(body).bind(seen);
    let (version,) = update.fetch_one(interlock).await?;
    Ok(version)
}
