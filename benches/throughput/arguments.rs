//! The command line.

use std::{env, path::PathBuf, process, str::FromStr, time::Duration};

use crate::{round::Times, scenario::Scenario, ways::Way};

/// The arguments after `--`.
#[derive(Debug, Clone)]
pub(crate) struct Arguments {
    pub(crate) rounds: usize,
    pub(crate) times: Times,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) ways: Vec<Way>,
    /// Round-trip times to the server.
    pub(crate) distances: Vec<Duration>,
    pub(crate) pools: Vec<u32>,
    pub(crate) svg: PathBuf,
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
            times: Times {
                warm_up: Duration::from_millis(100),
                turns: 4,
                turn: TURN,
            },
            scenarios: Scenario::ALL.to_vec(),
            ways: Way::ALL.to_vec(),
            distances: [0, 1, 5].map(Duration::from_millis).to_vec(),
            pools: vec![POOL],
            svg: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("throughput.svg"),
        };
        let mut given = env::args().skip(1);
        while let Some(name) = given.next() {
            let mut value = || given.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                // Cargo passes it to every bench.
                "--bench" => {}
                "--smoke" | "--test" => {
                    arguments.rounds = 1;
                    arguments.times = Times {
                        warm_up: Duration::from_millis(10),
                        turns: 1,
                        turn: Duration::from_millis(20),
                    };
                    arguments.distances.truncate(2);
                }
                "--rounds" => arguments.rounds = number(&value()?)?,
                "--seconds" => {
                    let turns = number::<f64>(&value()?)? / TURN.as_secs_f64();
                    arguments.times.turns = turns.ceil() as u32;
                }
                "--scenario" => {
                    arguments.scenarios = named(&value()?, &Scenario::ALL, |s| s.name)?;
                }
                "--way" => arguments.ways = named(&value()?, &Way::ALL, Way::name)?,
                "--network" => arguments.distances = list(&value()?, milliseconds)?,
                "--pool" => arguments.pools = list(&value()?, number)?,
                "--svg" => arguments.svg = value()?.into(),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        // The other ways are compared with it.
        if !arguments.ways.contains(&Way::ByHand) {
            arguments.ways.insert(0, Way::ByHand);
        }
        Ok(arguments)
    }
}

fn named<T: Copy>(
    names: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Vec<T>, String> {
    list(names, |given| {
        let found = all.iter().copied().find(|item| name(*item) == given);
        found.ok_or(format!("unknown name {given}"))
    })
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

/// The default number of connections: one for each client.
const POOL: u32 = 16;

const TURN: Duration = Duration::from_millis(100);

const USAGE: &str = "\
cargo bench --bench throughput -- [options]
  --smoke              run everything for a moment; the numbers mean nothing
  --rounds N           rounds [5]
  --seconds S          time of each way in a round [0.4]
  --scenario NAME,…    alone, spread, warm, hot, denied, reads, all [every]
  --way NAME,…         race, by-hand, axum-sqlx-tx, axum-sqlx-tx-default, layer,
                       layer-handoff, receipts, idempotent, conditional,
                       conditional-handoff [all]
  --network MS,…       round-trip times to the server in milliseconds [0,1,5]
  --pool N,…           connections [16]
  --svg PATH           where to write the chart";
