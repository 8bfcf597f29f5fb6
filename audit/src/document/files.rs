//! The files of a document, none of which is outside of the root directory.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Read as _,
    path::{Component, Path, PathBuf},
};

use super::{
    build::ParseError,
    limits::Limits,
    parse::parse,
    tree::{FileId, Forest, NodeId, Span},
};

/// The files that were read.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    limits: Limits,
    files: Vec<Loaded>,
    by_path: HashMap<PathBuf, Result<FileId, String>>,
}

#[derive(Debug)]
pub(super) struct Loaded {
    /// The path within the root directory, with slashes.
    pub(super) name: String,
    /// `None` if the file could not be read to its end.
    pub(super) root: Option<NodeId>,
    pub(super) flaws: Vec<(Span, String)>,
}

impl Files {
    /// The files of a root directory, none of which is read yet.
    ///
    /// # Errors
    ///
    /// Returns why the directory cannot be used.
    pub(super) fn within(root: &Path, limits: Limits) -> Result<Self, String> {
        let canonical = fs::canonicalize(root);
        let root = canonical.map_err(|error| format!("{}: {error}", root.display()))?;
        Ok(Self {
            root,
            limits,
            files: Vec::new(),
            by_path: HashMap::new(),
        })
    }

    pub(super) fn get(&self, id: FileId) -> Option<&Loaded> {
        self.files.get(usize::try_from(id.0).ok()?)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (FileId, &Loaded)> {
        (0..).map(FileId).zip(&self.files)
    }

    /// Reads a file, or finds it among those that were read. `path` is relative to the file
    /// `from`, or to the root directory.
    ///
    /// # Errors
    ///
    /// Returns why there is no such file to be read. A file that cannot be parsed is none: it has
    /// no root.
    pub(super) fn load(
        &mut self,
        path: &str,
        from: Option<FileId>,
        forest: &mut Forest,
    ) -> Result<FileId, String> {
        let folder = from.and_then(|from| Path::new(&self.get(from)?.name).parent());
        let path = self.inside(&folder.unwrap_or(Path::new("")).join(path))?;
        if let Some(known) = self.by_path.get(&path) {
            return known.clone();
        }
        let loaded = self.read(&path, forest);
        self.by_path.insert(path, loaded.clone());
        loaded
    }

    /// The canonical path of a file, if it is inside of the root directory.
    fn inside(&self, relative: &Path) -> Result<PathBuf, String> {
        let outside = || "the file is outside of the root directory".to_owned();
        let mut path = PathBuf::new();
        for component in relative.components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::CurDir => {}
                Component::ParentDir if path.pop() => {}
                _ => return Err(outside()),
            }
        }
        // The links of the path, which may lead outside.
        let path = fs::canonicalize(self.root.join(path)).map_err(|error| describe(&error))?;
        match path.starts_with(&self.root) {
            true => Ok(path),
            false => Err(outside()),
        }
    }

    fn read(&mut self, path: &Path, forest: &mut Forest) -> Result<FileId, String> {
        if self.files.len() >= self.limits.files {
            return Err(format!("more than {} files", self.limits.files));
        }
        let text = self.text(path)?;
        let id = u32::try_from(self.files.len()).map_err(|_| "too many files".to_owned())?;
        let id = FileId(id);
        let parsed = parse(&text, id, &self.limits, forest);
        let (root, flaws) = match parsed {
            Ok(parsed) => (Some(parsed.root), parsed.flaws),
            Err(ParseError { span, message }) => (None, vec![(span, message)]),
        };
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        self.files.push(Loaded {
            name: relative.to_string_lossy().replace('\\', "/"),
            root,
            flaws,
        });
        Ok(id)
    }

    fn text(&self, path: &Path) -> Result<String, String> {
        let describe = |error: std::io::Error| describe(&error);
        // A pipe or a device might never end.
        if !fs::metadata(path).map_err(describe)?.is_file() {
            return Err("it is not a file".to_owned());
        }
        let file = File::open(path).map_err(describe)?;
        let mut bytes = Vec::new();
        let limit = self.limits.file_size;
        let mut limited = file.take(limit.saturating_add(1));
        limited.read_to_end(&mut bytes).map_err(describe)?;
        if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
            return Err(format!("it has more than {limit} bytes"));
        }
        String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            format!("it is not UTF-8 from byte {at} on")
        })
    }
}

/// The error without the number of the operating system.
fn describe(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf, process};

    use super::Files;
    use crate::document::{limits::Limits, tree::Forest};

    /// A folder of its own for each test.
    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("interlock-files-{}-{test}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("root/inner")).unwrap();
        fs::write(folder.join("secret.yaml"), "secret: 1").unwrap();
        fs::write(folder.join("root/a.yaml"), "a: 1").unwrap();
        fs::write(folder.join("root/inner/b.yaml"), "b: 1").unwrap();
        folder
    }

    #[test]
    fn files_are_relative_to_the_referring_file_and_read_once() {
        let folder = folder("relative");
        let mut forest = Forest::default();
        let mut files = Files::within(&folder.join("root"), Limits::default()).unwrap();
        let a = files.load("a.yaml", None, &mut forest).unwrap();
        let b = files.load("inner/b.yaml", Some(a), &mut forest).unwrap();
        assert_eq!(files.load("../a.yaml", Some(b), &mut forest), Ok(a));
        assert_eq!(files.load("./b.yaml", Some(b), &mut forest), Ok(b));
        assert_eq!(files.get(b).unwrap().name, "inner/b.yaml");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_path_leads_out_of_the_root_directory() {
        let folder = folder("jail");
        let root = folder.join("root");
        let absolute = folder.join("secret.yaml");
        let mut forest = Forest::default();
        let mut files = Files::within(&root, Limits::default()).unwrap();
        let mut paths = vec![
            "../secret.yaml".to_owned(),
            "inner/../../secret.yaml".to_owned(),
            absolute.to_str().unwrap().to_owned(),
            "/dev/zero".to_owned(),
        ];
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&absolute, root.join("link.yaml")).unwrap();
            std::os::unix::fs::symlink(&folder, root.join("up")).unwrap();
            paths.extend(["link.yaml".to_owned(), "up/secret.yaml".to_owned()]);
        }
        for path in paths {
            let error = files.load(&path, None, &mut forest).unwrap_err();
            assert_eq!(error, "the file is outside of the root directory", "{path}");
        }
        assert_eq!(forest.len(), 0);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn folders_and_large_files_are_not_read() {
        let folder = folder("large");
        let limits = Limits {
            file_size: 3,
            ..Limits::default()
        };
        let mut forest = Forest::default();
        let mut files = Files::within(&folder.join("root"), limits).unwrap();
        files.load("inner", None, &mut forest).unwrap_err();
        let error = files.load("a.yaml", None, &mut forest).unwrap_err();
        assert_eq!(error, "it has more than 3 bytes");
        fs::remove_dir_all(folder).unwrap();
    }
}
