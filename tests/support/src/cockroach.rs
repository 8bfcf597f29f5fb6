//! CockroachDB as a single node in memory.

use crate::watchdog::Watchdog;
use std::{fs, io, path::Path};

/// Starts the server `program` and returns its URL. The flags exist since version 20.2.
pub(crate) fn start(program: &Path) -> io::Result<(Watchdog, String)> {
    let watchdog = Watchdog::start("KILL", None, |command| {
        command.arg(program).args(FLAGS);
        command.env("COCKROACH_SKIP_ENABLING_DIAGNOSTIC_REPORTING", "true");
    })?;
    let url = watchdog.wait_until(url)?;
    Ok((watchdog, url))
}

/// The address in the file that the node writes, once the line is complete.
fn url(watchdog: &Watchdog) -> Option<String> {
    let file = fs::read_to_string(watchdog.folder().join("url")).ok()?;
    Some(file.strip_suffix('\n')?.trim().to_owned())
}

const FLAGS: &[&str] = &[
    "start-single-node",
    "--insecure",
    "--store=type=mem,size=2GiB",
    "--listen-addr=127.0.0.1:0",
    "--http-addr=127.0.0.1:0",
    "--listening-url-file=url",
];
