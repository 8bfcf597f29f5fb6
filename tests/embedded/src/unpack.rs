use crate::{Result, create};
use flate2::read::GzDecoder;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};
use tar::Archive;

/// Unpacks `archive` so that `folder` is there as a whole or not at all.
pub(crate) fn into(archive: &[u8], folder: &Path) -> Result<()> {
    let draft = Draft::new(folder)?;
    let unpacked = draft
        .unpack(archive)
        .map_err(|error| format!("the archive does not unpack: {error}"))?;
    runs(&unpacked.join("bin/postgres"))?;
    fs::rename(unpacked, folder)?;
    Ok(())
}

/// A folder beside the final one, removed when this value is dropped.
struct Draft<'a> {
    path: PathBuf,
    folder: &'a Path,
}

impl<'a> Draft<'a> {
    /// Removes what a killed process has left.
    fn new(folder: &'a Path) -> io::Result<Self> {
        let path = folder.with_file_name("draft");
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        create(&path)?;
        Ok(Self { path, folder })
    }

    fn unpack(&self, archive: &[u8]) -> Result<PathBuf> {
        Archive::new(GzDecoder::new(archive)).unpack(&self.path)?;
        let name = self.folder.file_name().ok_or("the folder has no name")?;
        let unpacked = self.path.join(name);
        if unpacked.is_dir() {
            Ok(unpacked)
        } else {
            Err(format!("it has no folder {}", name.display()).into())
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A missing library, or a C library that is too old, shows here.
fn runs(server: &Path) -> Result<()> {
    let output = Command::new(server).arg("--version").output()?;
    if output.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    let error = error.lines().next().unwrap_or("it ends without a message");
    Err(format!("its server does not run on this machine: {error}").into())
}
