//! The progress of the races, on stderr.

use std::io::{self, IsTerminal as _, Write as _};

/// A progress bar on a terminal; elsewhere a line for each race.
pub(crate) struct Progress {
    races: usize,
    race: usize,
    name: String,
    on_terminal: bool,
}

impl Progress {
    pub(crate) fn new(races: usize) -> Self {
        Self {
            races,
            race: 0,
            name: String::new(),
            on_terminal: io::stderr().is_terminal(),
        }
    }

    /// Begins the next race.
    pub(crate) fn next(&mut self, name: String) {
        self.race += 1;
        self.name = name;
        if !self.on_terminal {
            eprintln!("{} of {}: {}", self.race, self.races, self.name);
        }
    }

    /// Shows that this fraction of the race is done.
    pub(crate) fn show(&self, fraction: f64) {
        const WIDTH: usize = 40;
        if self.on_terminal {
            let done = (self.race as f64 - 1.0 + fraction.min(1.0)) / self.races as f64;
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

/// Clears the line of the cursor.
const CLEAR: &str = "\r\x1b[2K";
