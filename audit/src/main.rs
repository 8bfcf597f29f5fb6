//! `interlock-audit`: findings of authorization, from an OpenAPI document and a trace.

use std::{
    error::Error,
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use sqlx::{Connection as _, PgConnection};
use tower_interlock_audit::{
    Audit, Document, Findings, Limits, Rule,
    findings::{Colours, Level},
};

#[derive(Parser)]
#[command(name = "interlock-audit", version, about = ABOUT, after_help = EXIT_STATUS)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Scan(Scan),
    Explain(Explain),
    Resolve(Resolve),
}

/// Looks for faults in a document, a lock file, a trace and a database.
///
/// Each of them is optional. The document alone tells of broken references and paths. The lock
/// file, which a coverage test writes, tells which routes lack the security that the document
/// promises. The trace, which a recorder in the tests writes, tells whether check and write were in
/// one transaction. The database tells whether the permission tables are guarded.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
struct Scan {
    /// The OpenAPI document: 2.0, 3.0 or 3.1, YAML or JSON.
    document: Option<PathBuf>,
    /// The directory that no reference may leave [default: that of the document].
    #[arg(long, value_name = "DIRECTORY")]
    root: Option<PathBuf>,
    /// The trace of a recorder. It can be given several times.
    #[arg(long, value_name = "FILE")]
    trace: Vec<PathBuf>,
    /// The lock file of a coverage test.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// A PostgreSQL with the tables of the service, to look for their guards.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// A file of suppressions, beside those of the document.
    #[arg(long, value_name = "FILE")]
    suppressions: Option<PathBuf>,
    /// An earlier report in JSON, whose findings are left out.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// The format of the report.
    #[arg(long, value_enum, default_value_t = Format::List)]
    format: Format,
    /// The file of the report [default: the standard output].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The lowest level that the exit status is 1 for.
    #[arg(long, value_enum, default_value_t = FailOn::Warning)]
    fail_on: FailOn,
}

/// Explains a rule: what it finds and what not, why that matters, and how to mend it.
#[derive(Args)]
struct Explain {
    /// The rule, such as IL002 or split-check-and-write [default: a list of all].
    rule: Option<Rule>,
}

/// Prints a document as JSON, with every reference replaced by what it leads to.
///
/// A reference stays where its target contains it, and where it leads nowhere.
#[derive(Args)]
struct Resolve {
    /// The OpenAPI document.
    document: PathBuf,
    /// The directory that no reference may leave [default: that of the document].
    #[arg(long, value_name = "DIRECTORY")]
    root: Option<PathBuf>,
    /// The most values that the result may have.
    #[arg(long, default_value_t = 5_000_000)]
    limit: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// For people.
    List,
    /// For programs, and as a baseline.
    Json,
    /// SARIF 2.1.0, for GitHub and others.
    Sarif,
}

#[derive(Clone, Copy, ValueEnum)]
enum FailOn {
    Note,
    Warning,
    Error,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Scan(scan) => scan.run(),
        Command::Explain(explain) => explain.run(),
        Command::Resolve(resolve) => resolve.run(),
    };
    done.unwrap_or_else(|error| {
        clear_progress();
        eprintln!("interlock-audit: {error}");
        ExitCode::from(FAILED)
    })
}

impl Scan {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let is_empty = self.document.is_none() && self.lock.is_none() && self.trace.is_empty();
        if is_empty {
            return Err("nothing to look at: give a document, --lock or --trace".into());
        }
        let findings = self.audit()?.run();
        clear_progress();
        write(&self.report(&findings)?, self.output.as_ref())?;
        let level = match self.fail_on {
            FailOn::Note => Level::Note,
            FailOn::Warning => Level::Warning,
            FailOn::Error => Level::Error,
        };
        Ok(ExitCode::from(
            if findings.at_least(level).next().is_some() {
                FOUND
            } else if findings.is_incomplete() {
                INCOMPLETE
            } else {
                CLEAN
            },
        ))
    }

    fn audit(&self) -> Result<Audit, Box<dyn Error>> {
        let mut audit = Audit::new();
        if let Some(path) = &self.document {
            audit = audit.document(read_document(path, self.root.as_ref())?);
        }
        if let Some(path) = &self.lock {
            audit = audit.lock(path)?;
        }
        for path in &self.trace {
            progress(&format!("reading {}", path.display()));
            audit = audit.trace_file(path)?;
        }
        if let Some(path) = &self.suppressions {
            audit = audit.suppressions(path)?;
        }
        if let Some(path) = &self.baseline {
            audit = audit.baseline(path)?;
        }
        match &self.database {
            Some(url) => look_for_guards(audit, url),
            None => Ok(audit),
        }
    }

    fn report(&self, findings: &Findings) -> Result<String, Box<dyn Error>> {
        let is_terminal = self.output.is_none() && io::stdout().is_terminal();
        let has_colours = is_terminal && std::env::var_os("NO_COLOR").is_none();
        Ok(match self.format {
            Format::List if has_colours => findings.list(Colours::Ansi),
            Format::List => findings.list(Colours::None),
            Format::Json => serde_json::to_string_pretty(&findings.to_json())? + "\n",
            Format::Sarif => serde_json::to_string_pretty(&findings.to_sarif())? + "\n",
        })
    }
}

impl Explain {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let text = match self.rule {
            Some(rule) => explain(rule),
            None => {
                let lines = Rule::ALL
                    .into_iter()
                    .map(|rule| format!("{rule}: {}\n", rule.summary()));
                lines.collect()
            }
        };
        write(&text, None)?;
        Ok(ExitCode::from(CLEAN))
    }
}

impl Resolve {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let document = read_document(&self.document, self.root.as_ref())?;
        let resolved = document.resolved(self.limit)?;
        clear_progress();
        write(&(serde_json::to_string_pretty(&resolved)? + "\n"), None)?;
        Ok(ExitCode::from(CLEAN))
    }
}

fn read_document(path: &PathBuf, root: Option<&PathBuf>) -> Result<Document, Box<dyn Error>> {
    progress(&format!("reading {}", path.display()));
    let limits = Limits::default();
    let document = match root {
        Some(root) => Document::read_within(root, path, &limits),
        None => Document::read(path, &limits),
    };
    Ok(document?)
}

fn look_for_guards(audit: Audit, url: &str) -> Result<Audit, Box<dyn Error>> {
    progress("looking for the guards of the permission tables");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await?;
        let audit = audit.guards(&mut connection).await?;
        connection.close().await?;
        Ok(audit)
    })
}

fn explain(rule: Rule) -> String {
    let mapping = rule.mapping();
    let cwe: Vec<_> = mapping.cwe.iter().map(|cwe| format!("CWE-{cwe}")).collect();
    let lists = [
        ("CWE", cwe.join(", ")),
        ("OWASP API Security Top 10 2023", mapping.owasp.join(", ")),
        ("OWASP ASVS 5.0.0", mapping.asvs.join(", ")),
        ("SOC 2", mapping.soc2.join(", ")),
        ("PCI DSS 4.0.1, with card data", mapping.pci.join(", ")),
    ];
    let relevant = lists.iter().filter(|(_, list)| !list.is_empty());
    let relevant: String = relevant
        .map(|(name, list)| format!("* {name}: {list}\n"))
        .collect();
    let severity = rule
        .severity()
        .map(|severity| format!(", severity {severity:.1}"));
    format!(
        "# {rule}\n\n{}\n\nLevel {}{}, precision {}.\n\n{}\n## Relevant to\n\n{relevant}",
        rule.summary(),
        rule.level(),
        severity.unwrap_or_default(),
        rule.precision().name(),
        rule.explanation(),
    )
}

fn write(text: &str, path: Option<&PathBuf>) -> io::Result<()> {
    match path {
        Some(path) => fs::write(path, text),
        None => io::stdout().lock().write_all(text.as_bytes()),
    }
}

/// Shows what takes a while, on a terminal only.
fn progress(step: &str) {
    if io::stderr().is_terminal() {
        eprint!("\r\u{1b}[K{step} …");
    }
}

fn clear_progress() {
    if io::stderr().is_terminal() {
        eprint!("\r\u{1b}[K");
    }
}

const CLEAN: u8 = 0;
const FOUND: u8 = 1;
const FAILED: u8 = 2;
const INCOMPLETE: u8 = 3;

const ABOUT: &str = "Finds faults of authorization in what is known of a service";

const EXIT_STATUS: &str = "\
Exit status:
  0  nothing was found
  1  there are findings at the level of --fail-on or above
  2  an argument is wrong, or a file cannot be read
  3  nothing was found, but not everything was seen: an operation that no request
     has exercised, a blind recorder, or no operation at all";

const EXAMPLES: &str = "\
Examples:
  interlock-audit scan openapi.yaml
  interlock-audit scan openapi.yaml --lock authz.lock --trace target/interlock/trace.jsonl
  interlock-audit scan openapi.yaml --format json --output baseline.json
  interlock-audit scan openapi.yaml --baseline baseline.json --format sarif --output audit.sarif

To suppress a finding, write at the operation, or in a file for --suppressions as `suppress`:
  x-interlock-suppress:
    - {rule: IL009, reason: It writes a log., until: 2027-01-31}";
