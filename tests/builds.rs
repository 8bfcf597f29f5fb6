//! The crate builds in a user's crate, whatever features of sqlx are on there.
//!
//! An `Executor` has one method more when sqlx's `offline` feature is on anywhere in the build, as it is by sqlx's
//! default features. This crate has to implement it then, and cannot ask.

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

/// Runs `cargo check` on a crate of a user that depends on sqlx like this.
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
    // The versions that are known to work and to be there.
    fs::copy(ours.join("Cargo.lock"), user.join("Cargo.lock")).unwrap();

    let check = |offline: &[&str]| {
        Command::new(env!("CARGO"))
            .args(["check", "--quiet"])
            .args(offline)
            .current_dir(&user)
            // Ours, where most of the dependencies are built.
            .env("CARGO_TARGET_DIR", folder.parent().unwrap())
            .output()
            .unwrap()
    };
    let mut output = check(&["--offline"]);
    if !output.status.success() {
        // On a fresh machine, what our own build does not need has not been downloaded.
        output = check(&[]);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
}

/// Uses each type that is an `Executor`.
const USER: &str = r#"
    use sqlx::{Executor, Postgres};
    use tower_interlock::{Error, Tx};

    pub async fn handler(mut tx: Tx) -> Result<i64, Error> {
        let mut savepoint = tx.savepoint().await?;
        sqlx::query("SELECT 1").execute(&mut savepoint).await?;
        savepoint.release().await?;
        Ok(answer(&mut tx).await?)
    }

    async fn answer(executor: impl Executor<'_, Database = Postgres>) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar("SELECT 42::INT8").fetch_one(executor).await
    }
"#;
