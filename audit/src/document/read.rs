//! Reading a document.

use std::{error, fmt, path::Path};

use super::{
    files::Files,
    limits::Limits,
    operation::{self, Operation, RawSuppression},
    place::Place,
    problems::{Problem, problems},
    reader::Reader,
    resolve::{References, resolve_all},
    tree::{FileId, Forest, NodeId, Span},
    version::Version,
};

/// An OpenAPI document of version 2.0, 3.0 or 3.1, in YAML or JSON, of one file or several.
///
/// ```no_run
/// use tower_interlock_audit::{Document, Limits};
///
/// # fn main() -> Result<(), tower_interlock_audit::DocumentError> {
/// let document = Document::read("openapi.yaml", &Limits::default())?;
/// for operation in document.operations() {
///     println!("{} needs {:?}", operation.name(), operation.security);
/// }
/// # Ok(()) }
/// ```
///
/// # References
///
/// Every `$ref` is followed: any pointer, with percent and tilde escapes, into the same file or
/// another one, relative to the file that it is in. Circles are data. The entries beside a `$ref`
/// count as the version says: those of a path item always, those of a schema since 3.1. `$id`,
/// `$self` and `$anchor` are found if their text is the same; `$dynamicRef` is not followed.
///
/// A `$ref` that leads nowhere is a [`Problem`], and not an error. A `$ref` in an example, a
/// default, an `enum` or an extension is data.
///
/// Nothing is read from the network, and nothing outside of the root directory: not by `..`, not
/// by an absolute path, and not by a link.
#[derive(Debug)]
pub struct Document {
    pub(super) version: Version,
    operations: Vec<Operation>,
    problems: Vec<Problem>,
    prefixes: Vec<String>,
    start: Place,
    pub(super) root: NodeId,
    files: Files,
    folder: String,
    pub(super) forest: Forest,
    pub(super) references: References,
}

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    file: String,
    place: Option<(u32, u32)>,
    message: String,
}

impl Document {
    /// Reads a document. Its folder is the root directory.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, or is not an OpenAPI document.
    pub fn read(path: impl AsRef<Path>, limits: &Limits) -> Result<Self, DocumentError> {
        let folder = folder_of(path.as_ref());
        Self::read_within(folder, path.as_ref(), limits)
    }

    /// Reads a document whose files are anywhere below a root directory.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read, is not below `root`, or is not an OpenAPI
    /// document.
    pub fn read_within(
        root: impl AsRef<Path>,
        path: impl AsRef<Path>,
        limits: &Limits,
    ) -> Result<Self, DocumentError> {
        let (root, path) = (root.as_ref(), path.as_ref());
        let mut forest = Forest::default();
        let fail = |message: String| DocumentError {
            file: path.display().to_string(),
            place: None,
            message,
        };
        let mut files = Files::within(root, limits.clone()).map_err(fail)?;
        let within = within(root, path).map_err(fail)?;
        let file = files.load(&within, None, &mut forest).map_err(fail)?;
        let top = top(&files, file).map_err(|(span, message)| DocumentError {
            place: Some((span.line, span.column)),
            ..fail(message)
        })?;
        let version = Version::read(
            forest.text_of(top, "swagger"),
            forest.text_of(top, "openapi"),
        );
        let version = version.ok_or_else(|| {
            fail("it is no OpenAPI document of version 2.0, 3.0, 3.1 or 3.2".to_owned())
        })?;
        let references = resolve_all(top, version, &mut files, &mut forest);
        let folder = folder_name(root);
        let reader = Reader {
            root: top,
            version,
            forest: &forest,
            references: &references,
            files: &files,
            folder: &folder,
        };
        let paths = operation::paths(&reader);
        Ok(Self {
            version,
            problems: problems(&reader, &paths),
            operations: paths.into_iter().flat_map(|path| path.operations).collect(),
            prefixes: prefixes(&reader),
            start: reader.start(),
            root: top,
            files,
            folder,
            forest,
            references,
        })
    }

    /// The version of OpenAPI.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The operations of its paths. Webhooks and callbacks are requests of the service, and none.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What is wrong with it.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The paths of its servers, such as `/v1`.
    #[must_use]
    pub fn prefixes(&self) -> &[String] {
        &self.prefixes
    }

    /// The names of its files.
    pub fn files(&self) -> impl Iterator<Item = String> {
        let all = self.files.all();
        all.map(|(_, file)| format!("{}{}", self.folder, file.name))
    }

    /// Where it begins its paths, or else its first line.
    pub(crate) fn start(&self) -> &Place {
        &self.start
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl error::Error for DocumentError {}

/// Reads the suppressions of a file: the list under `suppress`.
pub(crate) fn read_suppression_file(path: &Path) -> Result<Vec<RawSuppression>, DocumentError> {
    let fail = |message: String| DocumentError {
        file: path.display().to_string(),
        place: None,
        message,
    };
    let root = folder_of(path);
    let mut forest = Forest::default();
    let mut files = Files::within(root, Limits::default()).map_err(fail)?;
    let within = within(root, path).map_err(fail)?;
    let file = files.load(&within, None, &mut forest).map_err(fail)?;
    let top = top(&files, file).map_err(|(span, message)| DocumentError {
        place: Some((span.line, span.column)),
        ..fail(message)
    })?;
    let reader = Reader {
        root: top,
        version: Version::V3_1,
        forest: &forest,
        references: &References::default(),
        files: &files,
        folder: &folder_name(root),
    };
    if reader.get(top, "suppress").is_none() {
        return Err(fail("it has no list `suppress`".to_owned()));
    }
    Ok(operation::read_suppressions(&reader, top, "suppress"))
}

fn folder_of(path: &Path) -> &Path {
    let parent = path.parent();
    let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// The folder as it stands before the names of files. It is empty for the current one.
fn folder_name(root: &Path) -> String {
    let root = root.to_string_lossy().replace('\\', "/");
    match root.strip_prefix("./").unwrap_or(&root) {
        "." | "" => String::new(),
        root => format!("{}/", root.trim_end_matches('/')),
    }
}

/// The path of a file within the root directory. The links of both are followed.
fn within(root: &Path, path: &Path) -> Result<String, String> {
    let name = path
        .file_name()
        .ok_or_else(|| "it is not a file".to_owned())?;
    let canonical = |path: &Path| {
        path.canonicalize()
            .map_err(|error| error.kind().to_string())
    };
    let (root, folder) = (canonical(root)?, canonical(folder_of(path))?);
    let inner = folder.strip_prefix(&root);
    let inner = inner.map_err(|_| "it is outside of the root directory".to_owned())?;
    Ok(inner.join(name).to_string_lossy().into_owned())
}

/// The root of the tree of a file.
fn top(files: &Files, file: FileId) -> Result<NodeId, (Span, String)> {
    let Some(loaded) = files.get(file) else {
        return Err((Span::default(), "it cannot be read".to_owned()));
    };
    let flaw = || loaded.flaws.first().cloned().unwrap_or_default();
    loaded.root.ok_or_else(flaw)
}

/// The paths of the servers, with the defaults of their variables.
fn prefixes(reader: &Reader<'_>) -> Vec<String> {
    if reader.version == Version::V2 {
        return reader.text(reader.root, "basePath").into_iter().collect();
    }
    let path_of = |server: NodeId| {
        let mut url = reader.text(server, "url")?;
        let variables = reader.get(server, "variables");
        for variable in variables.map_or(&[][..], |node| reader.forest.entries(node)) {
            let default = reader.forest.text_of(variable.value, "default");
            url = url.replace(
                &format!("{{{}}}", variable.key),
                default.unwrap_or_default(),
            );
        }
        let path = match url.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            None => &url,
        };
        Some(format!("/{}", path.trim_matches('/')))
    };
    let mut prefixes: Vec<String> = reader
        .items(reader.root, "servers")
        .filter_map(path_of)
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}
