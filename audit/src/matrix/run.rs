//! The requests of a matrix.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use axum::{Router, extract::Request};
use futures_util::future::LocalBoxFuture;
use http::StatusCode;

use crate::{
    matrix::{
        access::Access,
        report::{Cell, Fault, MatrixError, MatrixReport},
    },
    mode::{Mode, UpdateInCi},
    recorder::Recorder,
    trace::Exchange,
};

/// Sends each operation as each identity, and compares the responses with what is expected.
///
/// ```no_run
/// use axum::{body::Body, extract::Request};
/// use tower_interlock::Interlock;
/// use tower_interlock_audit::{Access::{Allow, Deny, Hide}, Matrix, Recorder};
///
/// # fn app(interlock: &Interlock) -> axum::Router { axum::Router::new() }
/// fn signed(mut request: Request, token: &'static str) -> Request {
///     let token = http::HeaderValue::from_static(token);
///     request.headers_mut().insert("authorization", token);
///     request
/// }
///
/// # async fn test(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = Recorder::new();
/// let interlock = Interlock::builder(pool).observe(recorder.clone()).build();
/// let put = || Request::put("/documents/1").body(Body::from("new")).unwrap();
/// Matrix::of(app(&interlock), &recorder)
///     .identity("anonymous", |request| request)
///     .identity("bob", |request| signed(request, "Bearer bob"))
///     .identity("alice", |request| signed(request, "Bearer alice"))
///     .case("PUT /documents/{document}", put, [Deny, Hide, Allow])
///     .snapshot("authz.matrix")
///     .run()
///     .await?;
/// # Ok(()) }
/// ```
///
/// A response that does not allow must have written nothing: the [trace](Recorder) of its request
/// has no write that is or may be committed. This also holds for tables that no endpoint shows.
#[must_use]
pub struct Matrix {
    app: Router,
    recorder: Recorder,
    identities: Vec<Identity>,
    cases: Vec<Case>,
    reset: Box<dyn Fn() -> LocalBoxFuture<'static, ()>>,
    snapshot: Option<PathBuf>,
}

struct Identity {
    name: String,
    sign: Box<dyn Fn(Request) -> Request>,
}

struct Case {
    operation: String,
    request: Box<dyn Fn() -> Request>,
    expected: Vec<Access>,
}

impl Matrix {
    /// Returns the matrix of an app whose interlock has `recorder` as its observer.
    pub fn of(app: Router, recorder: &Recorder) -> Self {
        Self {
            app: app.layer(recorder.layer()),
            recorder: recorder.clone(),
            identities: Vec::new(),
            cases: Vec::new(),
            reset: Box::new(|| Box::pin(async {})),
            snapshot: None,
        }
    }

    /// Adds an identity, which signs the requests.
    pub fn identity(
        mut self,
        name: impl Into<String>,
        sign: impl Fn(Request) -> Request + 'static,
    ) -> Self {
        self.identities.push(Identity {
            name: name.into(),
            sign: Box::new(sign),
        });
        self
    }

    /// Adds an operation, such as `PUT /documents/{document}`, with its request and what each
    /// identity may expect, in their order.
    pub fn case(
        mut self,
        operation: impl Into<String>,
        request: impl Fn() -> Request + 'static,
        expected: impl IntoIterator<Item = Access>,
    ) -> Self {
        self.cases.push(Case {
            operation: operation.into(),
            request: Box::new(request),
            expected: expected.into_iter().collect(),
        });
        self
    }

    /// Sets what restores the rows before each request.
    pub fn reset(mut self, reset: impl AsyncFn() + 'static) -> Self {
        let reset = Rc::new(reset);
        self.reset = Box::new(move || {
            let reset = Rc::clone(&reset);
            Box::pin(async move { reset().await })
        });
        self
    }

    /// Sets the file of the table, which is committed. `INTERLOCK_LOCK=update` writes it, but not
    /// where `CI` is set.
    pub fn snapshot(mut self, path: impl Into<PathBuf>) -> Self {
        self.snapshot = Some(path.into());
        self
    }

    /// Sends the requests.
    ///
    /// # Errors
    ///
    /// Returns the report if a cell has a fault, or an error of the snapshot.
    pub async fn run(self) -> Result<MatrixReport, MatrixError> {
        let names = self.identities.iter().map(|identity| identity.name.clone());
        let mut report = MatrixReport::new(names.collect());
        for case in &self.cases {
            if case.expected.len() != self.identities.len() {
                return Err(MatrixError::Expectations(case.operation.clone()));
            }
            for (identity, expected) in self.identities.iter().zip(&case.expected) {
                report
                    .cells
                    .push(self.send(case, identity, *expected).await);
            }
        }
        if report.faults().next().is_some() {
            return Err(MatrixError::Faults(report));
        }
        match &self.snapshot {
            Some(path) => compare(path, report),
            None => Ok(report),
        }
    }

    async fn send(&self, case: &Case, identity: &Identity, expected: Access) -> Cell {
        (self.reset)().await;
        let request = (identity.sign)((case.request)());
        let (response, exchange) = self.recorder.send(&self.app, request).await;
        let status = response.status();
        Cell {
            operation: case.operation.clone(),
            identity: identity.name.clone(),
            expected,
            status,
            faults: faults(&case.operation, status, expected, exchange.as_ref()),
        }
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matrix")
            .field("identities", &self.identities.len())
            .field("cases", &self.cases.len())
            .finish_non_exhaustive()
    }
}

fn faults(
    operation: &str,
    status: StatusCode,
    expected: Access,
    exchange: Option<&Exchange>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let access = Access::of(status);
    if access != Some(expected) {
        faults.push(Fault::Unexpected);
    }
    let Some(exchange) = exchange else {
        return faults;
    };
    let took = exchange.operation();
    if took.as_deref() != Some(operation) {
        faults.push(Fault::OtherOperation(took.unwrap_or_default()));
    }
    if let Some(reason) = exchange.blind() {
        faults.push(Fault::Blind(reason.to_owned()));
    }
    if access != Some(Access::Allow) {
        let written = exchange.committed_writes();
        faults.extend(written.map(|statement| Fault::Written(statement.sql.clone())));
    }
    faults
}

fn compare(path: &Path, report: MatrixReport) -> Result<MatrixReport, MatrixError> {
    let mode = Mode::of_environment().map_err(|UpdateInCi| MatrixError::UpdateInCi)?;
    let table = report.snapshot();
    if mode == Mode::Update {
        fs::write(path, table)?;
        return Ok(report);
    }
    match fs::read_to_string(path) {
        Ok(text) if text == table => Ok(report),
        Ok(text) => Err(MatrixError::Differs {
            committed: text,
            found: table,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(MatrixError::NoSnapshot(path.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}
