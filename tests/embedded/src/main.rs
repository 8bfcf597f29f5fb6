//! Fetches an archive of PostgreSQL's programs into a folder:
//!
//! ```sh
//! tower-interlock-embedded URL SHA256 FOLDER
//! ```
//!
//! The archive is a `.tar.gz` with one folder, which has the name of `FOLDER`. `FOLDER` appears
//! only when everything is in it and its server runs on this machine. Nothing is fetched if it
//! exists. Several processes at once fetch once. The progress goes to stderr, the reason of a
//! failure to stdout.

use std::{
    env,
    error::Error,
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::ExitCode,
};

mod download;
mod unpack;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [url, checksum, folder] = arguments.as_slice() else {
        eprintln!("usage: tower-interlock-embedded URL SHA256 FOLDER");
        return ExitCode::from(2);
    };
    match fetch(url, checksum, Path::new(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn fetch(url: &str, checksum: &str, folder: &Path) -> Result<()> {
    let parent = folder.parent().ok_or("the folder has no parent")?;
    create(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    // The system releases it when this process ends, however it ends.
    let _lock = lock(&parent.join("lock"))?;
    if folder.exists() {
        return Ok(());
    }

    let archive = download::archive(url, checksum)?;
    unpack::into(&archive, folder)
}

/// Creates a folder that the server's account can read, whatever the umask is.
fn create(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o755))
}

fn lock(path: &Path) -> Result<File> {
    let file = File::create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            eprintln!("another process is fetching it; this one waits");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    Ok(file)
}
