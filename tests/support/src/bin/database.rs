//! Prints the URL of an empty database, and in a second line its database system, for programs that
//! are not written in Rust:
//!
//! ```sh
//! cargo run -p tower-interlock-support --bin database
//! ```
//!
//! The server is that of the tests. The database, and a server that was started for it, are removed
//! when the standard input ends.

use std::{error::Error, io};

use support::Server;
use tokio::runtime::Builder;

fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::start()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let database = runtime.block_on(server.create_database("program"))?;
    println!("{}\n{}", database.url(), database.kind());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    runtime.block_on(database.drop())?;
    Ok(())
}
