//! Writers use a permission while an administrator grants and revokes it: a race, in four ways to
//! check and write.
//!
//! `cargo run --release --example race` runs for a minute on the database that it finds; with
//! `-- --tour` for seconds. It prints a table, draws one violation as `target/race.svg`, or where
//! `--svg PATH` says, and fails if the layer or the conditional write lets one happen, or if the
//! naive way does not: then the race has proved nothing.

mod administrator;
mod judge;
mod progress;
mod run;
mod svg;
mod table;
mod timeline;
mod violation;
mod ways;

use std::{env, error::Error, ffi::OsString, fs, path::PathBuf};

use support::{Kind, Server};

use self::{
    administrator::Isolation, judge::Verdict, progress::Progress, table::Table,
    violation::Violation, ways::Way,
};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let Arguments { requests, svg } = Arguments::parse(env::args_os().skip(1))?;
    let server = Server::start()?;
    println!("database: {server}");

    let isolations = isolations(server.kind());
    let mut progress = Progress::of(isolations.len() * Way::ALL.len());
    let mut verdicts = Vec::new();
    let mut violation = None;
    for &isolation in isolations {
        for way in Way::ALL {
            progress.next(format!("{way}; administrator: {isolation}"));
            let database = server.create_database("race").await?;
            let watch = |part| progress.show(part);
            let race = run::race(&database, way, isolation, requests, watch).await?;
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
        fs::write(&svg, timeline::draw(violation, &server.to_string()))?;
        println!("one violation, drawn: {}", svg.display());
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
    /// Of each race.
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
