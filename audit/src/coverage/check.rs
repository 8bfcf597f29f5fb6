//! The check of an app against its lock file.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use axum::{Router, extract::Request};
use serde::Serialize;

use crate::{
    coverage::{
        date::Date,
        lock::Lock,
        operation::{self, Operation, Source},
        probing::Prober,
        problem::Problem,
        report::{CoverageError, CoverageReport},
    },
    document::{Document, DocumentError, Limits},
    mode::{Mode, UpdateInCi},
    trace::Trace,
};

/// Proves for each operation of an app what protects it, and compares that with a committed lock
/// file.
///
/// ```no_run
/// use tower_interlock::Interlock;
/// use tower_interlock_audit::Coverage;
///
/// # fn app(interlock: &Interlock) -> axum::Router { axum::Router::new() }
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Interlock::pool_options().connect_lazy("postgres://localhost/unused")?;
/// let app = app(&Interlock::new(pool));
/// Coverage::of(app)
///     .routes([("GET", "/health"), ("PUT", "/documents/{document}")])
///     .lock("authz.lock")
///     .check()
///     .await?;
/// # Ok(()) }
/// ```
///
/// # How it asks
///
/// Each operation is sent through the router with a [`Probe`](tower_interlock::probe::Probe). The
/// outermost layer of tower-interlock answers it with its policy, and no handler runs. A handler
/// without a layer does run, once, with an empty body: give the app a pool that is closed, or that
/// connects to nothing.
///
/// # What counts as covered
///
/// * A layer with a policy.
/// * [`Interlock::conditional`](tower_interlock::Interlock::conditional), if the write has a
///   condition `permitted` or `authenticated`.
/// * [`Interlock::public`](tower_interlock::Interlock::public), with its reason.
/// * A handler that takes `Authorized` or `Tx` without a layer: it responds with an error, always.
///
/// Everything else is uncovered, also a route that responds with 401 or 403 by itself.
///
/// # The lock file
///
/// It has a line for each operation, for review. The check fails if a line differs. With
/// `INTERLOCK_LOCK=update` it writes the lines instead, except that it never adds one that says
/// `UNCOVERED`. An exception is the first run, without a file. Where `CI` is set it never writes.
///
/// # Layers inside of layers
///
/// The probe sees the outermost layer. The policies behind it come from a trace: see
/// [`observed`](Self::observed).
#[must_use]
pub struct Coverage {
    app: Router,
    /// Each with whether it was only observed.
    operations: BTreeMap<Operation, Source>,
    traces: Vec<Trace>,
    sign_in: Box<dyn Fn(Request) -> Request>,
    parameters: BTreeMap<String, String>,
    lock: Option<PathBuf>,
}

impl Coverage {
    /// Returns the coverage of an app.
    pub fn of(app: Router) -> Self {
        Self {
            app,
            operations: BTreeMap::new(),
            traces: Vec::new(),
            sign_in: Box::new(|request| request),
            parameters: BTreeMap::new(),
            lock: None,
        }
    }

    /// Adds operations by method and template.
    pub fn routes<M: AsRef<str>, T: AsRef<str>>(
        mut self,
        routes: impl IntoIterator<Item = (M, T)>,
    ) -> Self {
        let routes = routes.into_iter();
        let operations =
            routes.map(|(method, path)| Operation::new(method.as_ref(), path.as_ref()));
        self.declare(operations);
        self
    }

    /// Adds the operations of an OpenAPI document, such as that of utoipa or aide.
    ///
    /// # Errors
    ///
    /// Returns an error if it is no document, or has no path.
    pub fn document(mut self, document: &impl Serialize) -> io::Result<Self> {
        let document = serde_json::to_value(document)?;
        self.declare(operation::of_document(&document)?);
        Ok(self)
    }

    /// Adds the operations of an OpenAPI [`Document`] in a file, YAML or JSON.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or is not an OpenAPI document.
    pub fn document_file(mut self, path: impl AsRef<Path>) -> Result<Self, DocumentError> {
        let document = Document::read(path, &Limits::default())?;
        let operations = document.operations().iter();
        self.declare(operations.map(|it| Operation::new(&it.method, &it.path)));
        Ok(self)
    }

    /// Adds the operations that tests have used, also those that no document has.
    ///
    /// The trace also tells the policies of layers inside of others, and whether the conditional
    /// write of a mark has run.
    pub fn observed(mut self, trace: Trace) -> Self {
        for operation in trace.exchanges.iter().filter_map(operation::of_exchange) {
            self.operations.entry(operation).or_insert(Source::Observed);
        }
        self.traces.push(trace);
        self
    }

    /// Changes each request, for authentication that stands outside of the layers.
    pub fn sign_in(mut self, sign_in: impl Fn(Request) -> Request + 'static) -> Self {
        self.sign_in = Box::new(sign_in);
        self
    }

    /// Sets the value of a path parameter. Default: a text that no route has.
    pub fn parameter(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.parameters.insert(name.into(), value.to_string());
        self
    }

    /// Sets the lock file. A relative path begins at the folder of the package under test.
    pub fn lock(mut self, path: impl Into<PathBuf>) -> Self {
        self.lock = Some(path.into());
        self
    }

    /// Asks every operation, and compares the answers with the lock file.
    ///
    /// # Errors
    ///
    /// Returns the report if there is a problem, or an error of the lock file.
    pub async fn check(self) -> Result<CoverageReport, CoverageError> {
        let mut report = self.probe().await;
        match &self.lock {
            Some(path) => compare(path, &mut report)?,
            None => report.add_uncovered(),
        }
        if report.problems.is_empty() {
            Ok(report)
        } else {
            Err(CoverageError::Problems(report))
        }
    }

    fn declare(&mut self, operations: impl IntoIterator<Item = Operation>) {
        for operation in operations {
            self.operations.insert(operation, Source::Declared);
        }
    }

    async fn probe(&self) -> CoverageReport {
        let prober = Prober::new(&self.app, &self.sign_in, &self.parameters);
        let mut report = CoverageReport::default();
        for (operation, source) in &self.operations {
            match prober.ask(operation).await {
                Some(answer) => {
                    let answer = answer.with_traces(operation, &self.traces);
                    report.add(operation, answer, *source);
                }
                None => report.problems.push(Problem::NotRouted(operation.clone())),
            }
        }
        if self.operations.is_empty() {
            report.problems.push(Problem::NoOperations);
        }
        report
    }
}

impl fmt::Debug for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coverage")
            .field("operations", &self.operations)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}

fn compare(path: &Path, report: &mut CoverageReport) -> Result<(), CoverageError> {
    let mode = Mode::of_environment().map_err(|UpdateInCi| CoverageError::UpdateInCi)?;
    let today = Date::today();
    let locked = match fs::read_to_string(path) {
        Ok(text) => Some(Lock::parse(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let found = report.lock();
    let locked = match (mode, locked) {
        (Mode::Check, Some(locked)) => locked,
        (Mode::Check, None) => return Err(CoverageError::NoLock(path.to_owned())),
        (Mode::Update, locked) => {
            let updated = match locked {
                Some(locked) => locked.updated(&found),
                None => found.first(today),
            };
            fs::write(path, updated.to_string())?;
            updated
        }
    };
    report.problems.extend(locked.compare(&found, today));
    Ok(())
}
