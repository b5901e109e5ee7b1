//! Writes the CustomResourceDefinitions to `crds/yaml/`, one file per kind.
//!
//! `crdgen [--check] [FOLDER]`: with `--check` nothing is written, and a difference between the files and the types is a
//! failure that says what to do.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crds::crdfiles;

fn main() -> ExitCode {
    let mut check = false;
    let mut folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/yaml"));
    for argument in std::env::args_os().skip(1) {
        match argument.to_str() {
            Some("--check") => check = true,
            Some("--help" | "-h") => {
                println!(
                    "usage: crdgen [--check] [FOLDER]\nwrites the CustomResourceDefinitions; --check only compares"
                );
                return ExitCode::SUCCESS;
            }
            Some(option) if option.starts_with('-') => {
                eprintln!("crdgen: {option} is unknown; allowed: --check");
                return ExitCode::FAILURE;
            }
            _ => folder = PathBuf::from(argument),
        }
    }
    match run(&folder, check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("crdgen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path, check: bool) -> Result<(), String> {
    let files = crdfiles::generate()?;
    if check {
        return crdfiles::compare(&files, folder);
    }
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
