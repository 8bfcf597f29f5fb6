//! The crate builds in a user's crate with any features of sqlx.
//!
//! sqlx's `offline` feature, which is a default, adds a method to `Executor`. This crate must
//! implement the method then, and cannot detect the feature.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path, process::Command};

#[test]
fn crate_builds_with_and_without_sqlx_default_features() {
    for (name, sqlx) in [
        (
            "user-with-defaults",
            r#"features = ["postgres", "runtime-tokio"]"#,
        ),
        (
            "user-without-defaults",
            r#"default-features = false, features = ["postgres"]"#,
        ),
    ] {
        check(name, sqlx);
    }
}

/// Runs `cargo check` on a user's crate with this dependency on sqlx.
fn check(name: &str, sqlx: &str) {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let user = folder.join(name);
    let manifest = format!(
        r#"
        [package]
        name = "{name}"
        edition = "2024"

        [dependencies]
        sqlx = {{ version = "0.9", {sqlx} }}
        tower-interlock = {{ path = '{}' }}

        [workspace]
        "#,
        ours.display()
    );
    fs::create_dir_all(user.join("src")).unwrap();
    fs::write(user.join("Cargo.toml"), manifest).unwrap();
    fs::write(user.join("src/lib.rs"), USER).unwrap();
    // The versions that are known to work and are already downloaded.
    fs::copy(ours.join("Cargo.lock"), user.join("Cargo.lock")).unwrap();

    let check = |offline: &[&str]| {
        Command::new(env!("CARGO"))
            .args(["check", "--quiet"])
            .args(offline)
            .current_dir(&user)
            // The target directory of this workspace, which has most dependencies.
            .env("CARGO_TARGET_DIR", folder.parent().unwrap())
            .output()
            .unwrap()
    };
    let mut output = check(&["--offline"]);
    if !output.status.success() {
        // On a fresh machine, dependencies that this workspace does not need are not downloaded.
        output = check(&[]);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
}

/// A crate that uses each type that is an `Executor`.
const USER: &str = r#"
    use sqlx::{Executor, Postgres};
    use tower_interlock::{Error, Tx};

    pub async fn handler(mut tx: Tx) -> Result<i64, Error> {
        let mut savepoint = tx.savepoint().await?;
        sqlx::query("SELECT 1").execute(&mut savepoint).await?;
        savepoint.release().await?;
        Ok(fetch(&mut tx).await?)
    }

    async fn fetch(executor: impl Executor<'_, Database = Postgres>) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar("SELECT 42::INT8").fetch_one(executor).await
    }
"#;
