//! Traces as files: one JSON object a line, each with its version.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::trace::exchange::{Exchange, Statement, Trace};

/// The version of the format. Lines of another one are an error.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    #[serde(flatten)]
    event: Event,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Exchange(Exchange),
    Elsewhere(Statement),
    ElsewhereBlind(String),
}

impl Trace {
    /// Writes the trace to a file, in place of what it had. Its folder is made if it is missing.
    ///
    /// # Errors
    ///
    /// Returns the error of the file system.
    pub fn write(&self, path: impl AsRef<Path>) -> io::Result<()> {
        create_folder(path.as_ref())?;
        File::create(path)?.write_all(&self.lines()?)
    }

    /// Appends the trace to a file, so that several tests can share one.
    ///
    /// # Errors
    ///
    /// Returns the error of the file system.
    pub fn append(&self, path: impl AsRef<Path>) -> io::Result<()> {
        create_folder(path.as_ref())?;
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(&self.lines()?)
    }

    /// Reads a file that [`write`](Self::write) or [`append`](Self::append) has written.
    ///
    /// # Errors
    ///
    /// Returns an error if a line is not of this version, or the file cannot be read.
    pub fn read(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut trace = Self::default();
        for line in BufReader::new(File::open(path)?).lines() {
            let line: Line = serde_json::from_str(&line?)?;
            if line.version != VERSION {
                let message = format!("a trace of version {}, not {VERSION}", line.version);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            match line.event {
                Event::Exchange(exchange) => trace.exchanges.push(exchange),
                Event::Elsewhere(statement) => trace.elsewhere.push(statement),
                Event::ElsewhereBlind(reason) => trace.elsewhere_blind = Some(reason),
            }
        }
        Ok(trace)
    }

    fn lines(&self) -> io::Result<Vec<u8>> {
        let exchanges = self.exchanges.iter().cloned().map(Event::Exchange);
        let elsewhere = self.elsewhere.iter().cloned().map(Event::Elsewhere);
        let blind = self.elsewhere_blind.clone().map(Event::ElsewhereBlind);
        let mut lines = Vec::new();
        for event in exchanges.chain(elsewhere).chain(blind) {
            let line = Line {
                version: VERSION,
                event,
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        Ok(lines)
    }
}

fn create_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => std::fs::create_dir_all(folder),
        None => Ok(()),
    }
}
