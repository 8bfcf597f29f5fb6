//! The command line.

use std::{env, process, str::FromStr, time::Duration};

/// The arguments after `--`.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    pub(crate) rounds: usize,
    pub(crate) turns: u32,
    pub(crate) turn: Duration,
    pub(crate) workers: Vec<usize>,
    /// Round-trip times to the server.
    pub(crate) distances: Vec<Duration>,
}

impl Arguments {
    /// Parses the arguments of this process; exits if they are wrong.
    pub(crate) fn parse() -> Self {
        Self::try_parse().unwrap_or_else(|error| {
            eprintln!("{error}\n{USAGE}");
            process::exit(2);
        })
    }

    fn try_parse() -> Result<Self, String> {
        let mut arguments = Self {
            rounds: 5,
            turns: 3,
            turn: Duration::from_millis(500),
            workers: vec![1, 2, 8],
            distances: [0, 1].map(Duration::from_millis).to_vec(),
        };
        let mut given = env::args().skip(1);
        while let Some(name) = given.next() {
            let mut value = || given.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                // Cargo passes it to every bench.
                "--bench" => {}
                "--smoke" | "--test" => {
                    (arguments.rounds, arguments.turns) = (1, 1);
                    arguments.turn = Duration::from_millis(50);
                    arguments.workers = vec![1, 2];
                }
                "--rounds" => arguments.rounds = number(&value()?)?,
                "--turns" => arguments.turns = number(&value()?)?,
                "--workers" => arguments.workers = list(&value()?, number)?,
                "--network" => arguments.distances = list(&value()?, milliseconds)?,
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(arguments)
    }
}

fn list<T>(text: &str, item: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    text.split(',').map(item).collect()
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    Ok(Duration::from_secs_f64(number::<f64>(text)? / 1000.0))
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("not a valid number: {text}"))
}

const USAGE: &str = "\
cargo bench --bench jobs -- [options]
  --smoke          run everything for a moment; the numbers mean nothing
  --rounds N       rounds [5]
  --turns N        turns of half a second of each way in a round [3]
  --workers N,…    workers, or jobs at a time of one worker [1,2,8]
  --network MS,…   round-trip times to the server in milliseconds [0,1]";
