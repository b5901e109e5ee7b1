//! Which of the node's files may be imported in a cluster: what lies below the directories that the administrator named.
//!
//! Whoever may make a Bucket would otherwise read any file of any node. The way to a source is resolved once, links and all,
//! and what it resolves to has to lie below a root that is resolved alike.

use std::path::{Path, PathBuf};

use crate::owner::{Failure, Outcome};

/// Reason of a refusal.
pub(super) const REFUSED: &str = "ImportRefused";

/// The place that a source names, without links in it.
///
/// # Errors
/// `ImportRefused` for a place that is not below a root; nothing is said of whether anything is there.
pub(super) fn resolve(roots: &[PathBuf], path: &Path) -> Outcome<PathBuf> {
    let refused = || {
        let allowed = match roots {
            [] => "this installation names none (importRoots in the chart's values)".to_owned(),
            roots => roots
                .iter()
                .map(|root| root.display().to_string())
                .collect::<Vec<_>>()
                .join(", "),
        };
        Failure::new(
            REFUSED,
            format!(
                "the source {} is not below a directory that may be imported from: {allowed}",
                path.display()
            ),
        )
    };
    let plain = path.is_absolute()
        && !path
            .components()
            .any(|part| part == std::path::Component::ParentDir);
    // By its words first: what lies elsewhere is not looked at.
    if !plain || !roots.iter().any(|root| path.starts_with(root)) {
        return Err(refused());
    }
    let found = path.canonicalize().map_err(|e| {
        Failure::new(
            "Source",
            format!("the source {} cannot be read: {e}", path.display()),
        )
    })?;
    let below = roots
        .iter()
        .filter_map(|root| root.canonicalize().ok())
        .any(|root| found.starts_with(root));
    if below { Ok(found) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_lies_below_a_root_is_imported_whatever_the_way_to_it() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("root"), place.path().join("outside"));
        std::fs::create_dir_all(root.join("data/deep")).unwrap();
        std::fs::create_dir_all(outside.join("secret")).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        symlink("data", root.join("in")).unwrap();
        symlink("../../outside/secret", root.join("data/relative")).unwrap();
        let roots = [root.clone()];
        for inside in ["", "data", "data/deep", "in", "in/deep"] {
            let found = resolve(&roots, &root.join(inside)).unwrap();
            assert!(found.starts_with(root.canonicalize().unwrap()), "{inside}");
        }
        for wrong in [
            "out",
            "out/secret",
            "data/relative",
            "data/../../outside",
            "../outside",
        ] {
            assert_eq!(
                resolve(&roots, &root.join(wrong)).unwrap_err().reason,
                REFUSED,
                "{wrong}"
            );
        }
        for elsewhere in [
            outside.as_path(),
            Path::new("/etc"),
            Path::new("data"),
            Path::new("/"),
            place.path(),
        ] {
            assert_eq!(
                resolve(&roots, elsewhere).unwrap_err().reason,
                REFUSED,
                "{}",
                elsewhere.display()
            );
        }
        // A name that only begins like a root is not below it.
        std::fs::create_dir_all(place.path().join("rooted")).unwrap();
        assert_eq!(
            resolve(&roots, &place.path().join("rooted"))
                .unwrap_err()
                .reason,
            REFUSED
        );
        assert_eq!(resolve(&[], &root).unwrap_err().reason, REFUSED);
        assert_eq!(
            resolve(&roots, &root.join("absent")).unwrap_err().reason,
            "Source"
        );
    }
}
