//! Runs the race in all ways, prints a table, and draws one violation.
//!
//! `cargo run --release -p tower-interlock-race` takes about a minute, with `-- --tour` seconds.
//! The picture goes to `target/race.svg`, or to the path after `--svg`. The run fails if the layer
//! or the conditional write allows a violation. It also fails if the naive way does not: then the
//! race proves nothing.

mod picture;
mod progress;
mod table;

use std::{env, error::Error, ffi::OsString, fs, path::PathBuf};

use support::{Kind, Server};
use tower_interlock_race::{Isolation, Verdict, Violation, Way, race};

use crate::{progress::Progress, table::Table};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Arguments { requests, svg } = Arguments::parse(env::args_os().skip(1))?;
    let server = Server::start()?;
    println!("database: {server}");

    let isolations = isolations(server.kind());
    let mut progress = Progress::new(isolations.len() * Way::ALL.len());
    let mut verdicts = Vec::new();
    let mut violation = None;
    for &isolation in isolations {
        for way in Way::ALL {
            progress.next(format!("{way}; administrator: {isolation}"));
            let database = server.create_database("race").await?;
            let watch = |fraction| progress.show(fraction);
            let race = race(&database, way, isolation, requests, watch).await?;
            verdicts.push((isolation, way, Verdict::on(&race, &database).await?));
            if isolation == Isolation::Serializable && violation.is_none() {
                violation = Violation::find(&race, &database).await?;
            }
            database.drop().await?;
        }
    }
    drop(progress);

    println!("\n{}", Table(&verdicts));
    if server.kind() == Kind::CockroachDb {
        println!("CockroachDB needs no guard, and may run READ COMMITTED as SERIALIZABLE.");
    }
    if let Some(violation) = &violation {
        if let Some(folder) = svg.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&svg, picture::draw(violation, &server.to_string()))?;
        println!("picture of one violation: {}", svg.display());
    }

    let faults = verdicts.iter().filter_map(|(isolation, way, verdict)| {
        let fault = verdict.fault(*way, *isolation, server.kind())?;
        Some(format!("{way}; administrator: {isolation}: {fault}"))
    });
    let faults: Vec<String> = faults.collect();
    if faults.is_empty() {
        return Ok(());
    }
    Err(faults.join("; ").into())
}

fn isolations(kind: Kind) -> &'static [Isolation] {
    match kind {
        Kind::PostgreSql => &[
            Isolation::Serializable,
            Isolation::Guarded,
            Isolation::ReadCommitted,
        ],
        Kind::CockroachDb => &[Isolation::Serializable, Isolation::ReadCommitted],
    }
}

struct Arguments {
    /// The number of requests of each race.
    requests: i64,
    svg: PathBuf,
}

impl Arguments {
    fn parse(mut given: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut arguments = Self {
            requests: 30_000,
            svg: "target/race.svg".into(),
        };
        while let Some(argument) = given.next() {
            match argument.to_str() {
                Some("--tour") => arguments.requests = 1_000,
                Some("--svg") => arguments.svg = given.next().ok_or("--svg needs a path")?.into(),
                _ => {
                    return Err(
                        format!("{} is neither --tour nor --svg PATH", argument.display()).into(),
                    );
                }
            }
        }
        Ok(arguments)
    }
}
