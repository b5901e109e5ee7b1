//! The files of `crds/yaml/`: the CustomResourceDefinitions as they are committed and installed.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{schema, yaml};

/// What stands on top of each file.
const HEADER: &str =
    "# Generated from the types in crds/src by `cargo run -p crds --bin crdgen`. Do not edit.\n";

/// The files, by name: `anabranch.dev_buckets.yaml` and so on.
///
/// # Errors
/// When a definition cannot be generated or written, which the tests exclude.
pub fn generate() -> Result<BTreeMap<String, String>, String> {
    let mut files = BTreeMap::new();
    for definition in schema::definitions().map_err(|error| error.to_string())? {
        let name = format!(
            "{}_{}.yaml",
            definition.spec.group, definition.spec.names.plural
        );
        files.insert(name, format!("{HEADER}{}", yaml::to_string(&definition)?));
    }
    Ok(files)
}

/// Compares the files with those of a folder.
///
/// # Errors
/// A message that names each file that differs, is missing or should not be there, and says what to do.
pub fn compare(files: &BTreeMap<String, String>, folder: &Path) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (name, text) in files {
        match std::fs::read_to_string(folder.join(name)) {
            Ok(found) if found == *text => {}
            Ok(found) => {
                let line = found
                    .lines()
                    .zip(text.lines())
                    .take_while(|(found, text)| found == text)
                    .count()
                    + 1;
                wrong.push(format!("{name} differs from line {line} on"));
            }
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    if let Ok(entries) = std::fs::read_dir(folder) {
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        wrong.extend(
            names
                .filter(|name| !files.contains_key(name))
                .map(|name| format!("{name} belongs to no kind")),
        );
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} is not what the types say: {}. Run `cargo run -p crds --bin crdgen` and commit the result.",
        folder.display(),
        wrong.join("; ")
    ))
}
