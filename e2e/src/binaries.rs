//! Where the programs under test, and the suites by others, are.

use std::path::PathBuf;

use crate::{Failure, Result};

/// The folder that cargo built this test or benchmark into (`target/debug` or `target/release`).
fn build_folder() -> Result<PathBuf> {
    let executable = std::env::current_exe()?;
    executable
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name().is_none_or(|name| name != "deps"))
        .map(PathBuf::from)
        .ok_or_else(|| Failure::new(format!("no build folder above {}", executable.display())))
}

/// A program of this workspace, built with the profile of the caller. Fails, naming the remedy, when it is not built:
/// a package's tests do not build the programs of another package.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = build_folder()?.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(format!(
        "{} is not built: run `make e2e`, or `cargo build --workspace --bins` before this test",
        path.display()
    )))
}

/// A suite that `e2e/setup test` built into the cache; `None` where it is not there.
pub fn suite(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("ANABRANCH_CACHE")
        .map(PathBuf::from)
        .or_else(|| {
            let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let base =
                base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
            Some(base?.join("anabranch"))
        })?;
    let prefix = format!("{name}-");
    std::fs::read_dir(cache.join("tools"))
        .ok()?
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .max()
}
