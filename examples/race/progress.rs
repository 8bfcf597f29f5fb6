//! What is to be seen on stderr while the races run.

use std::io::{self, IsTerminal as _, Write as _};

/// A bar on a terminal; elsewhere a line for each race.
pub(crate) struct Progress {
    races: usize,
    race: usize,
    name: String,
    on_terminal: bool,
}

impl Progress {
    pub(crate) fn of(races: usize) -> Self {
        Self {
            races,
            race: 0,
            name: String::new(),
            on_terminal: io::stderr().is_terminal(),
        }
    }

    /// The next race is about to start.
    pub(crate) fn next(&mut self, name: String) {
        self.race += 1;
        self.name = name;
        if !self.on_terminal {
            eprintln!("{} of {}: {}", self.race, self.races, self.name);
        }
    }

    /// This part of the race is done.
    pub(crate) fn show(&self, part: f64) {
        const WIDTH: usize = 40;
        if self.on_terminal {
            let done = (self.race as f64 - 1.0 + part.min(1.0)) / self.races as f64;
            let full = (done * WIDTH as f64) as usize;
            let bar = "█".repeat(full) + &"░".repeat(WIDTH - full);
            eprint!("{CLEAR}{bar} {:3.0} %  {}", done * 100.0, self.name);
            let _ = io::stderr().flush();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.on_terminal {
            eprint!("{CLEAR}");
        }
    }
}

/// The line that the cursor is in.
const CLEAR: &str = "\r\x1b[2K";
