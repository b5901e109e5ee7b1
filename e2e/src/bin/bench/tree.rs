//! The tree that is worked on, and the places to work in.

use std::path::{Path, PathBuf};

use e2e::{Failure, Result};

use crate::work::{program_ok, text};

/// Files of the tree: as many as a large source tree has.
const FILES: usize = 20_000;

/// A git repository with up to [`FILES`] files below `source`, and an archive of them.
pub fn prepare(tree: &Path, archive: &Path) -> Result<()> {
    let source = tree.join("source");
    std::fs::create_dir_all(&source)?;
    let mut files = 0;
    for package in packages()? {
        if files >= FILES {
            break;
        }
        program_ok(&["cp", "-a", &text(&package)?, &text(&source)?], tree)?;
        files += count(&package)?;
    }
    println!("a tree of {files} files");
    program_ok(&["tar", "-cf", &text(archive)?, "source"], tree)?;
    for command in [
        &["git", "init", "--quiet"][..],
        &[
            "git",
            "-c",
            "core.autocrlf=false",
            "add",
            "--force",
            "source",
        ],
        &[
            "git",
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
            "commit",
            "--quiet",
            "-m",
            "base",
        ],
    ] {
        program_ok(command, tree)?;
    }
    Ok(())
}

/// The folders that the tree is made of.
fn packages() -> Result<Vec<PathBuf>> {
    let root = match std::env::var_os("ANABRANCH_BENCH_TREE") {
        Some(tree) => PathBuf::from(tree),
        None => {
            let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
            let home =
                home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
            let registry = home
                .ok_or_else(|| Failure::new("HOME is not set"))?
                .join("registry/src");
            let first = std::fs::read_dir(&registry)?.flatten().next();
            first
                .ok_or_else(|| {
                    Failure::new(format!(
                        "{} is empty: run `cargo fetch`",
                        registry.display()
                    ))
                })?
                .path()
        }
    };
    let mut packages: Vec<PathBuf> = std::fs::read_dir(&root)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    packages.sort();
    Ok(packages)
}

fn count(folder: &Path) -> Result<usize> {
    if !folder.is_dir() {
        return Ok(1);
    }
    let mut files = 0;
    for entry in std::fs::read_dir(folder)?.flatten() {
        files += if entry.file_type()?.is_dir() {
            count(&entry.path())?
        } else {
            1
        };
    }
    Ok(files)
}

/// An overlay over the tree.
pub fn mount_overlay(folder: &Path, lower: &Path) -> Result<PathBuf> {
    let (upper, work, merged) = (
        folder.join("upper"),
        folder.join("overlay-work"),
        folder.join("overlay"),
    );
    for path in [&upper, &work, &merged] {
        std::fs::create_dir_all(path)?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        text(lower)?,
        text(&upper)?,
        text(&work)?
    );
    program_ok(
        &[
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            &options,
            &text(&merged)?,
        ],
        folder,
    )?;
    Ok(merged)
}
