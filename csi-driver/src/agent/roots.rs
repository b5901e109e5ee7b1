//! Which of the node's files may be imported in a cluster: what lies below the directories that the administrator named.
//!
//! Whoever may make a Bucket would otherwise read any file of any node. A source is opened once, from a root by openat2(2)
//! that leaves it by no way, and what was opened is imported: a name that is swapped for a link meanwhile leads nowhere.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use storage_engine::import::Source;

use crate::owner::{Failure, Outcome};

/// Reason of a refusal.
pub(super) const REFUSED: &str = "ImportRefused";

/// Opens a source below one of the roots. Links within a root are followed as far as they stay in it.
///
/// # Errors
/// `ImportRefused` for a place that is not below a root; nothing is said of whether anything is there.
pub(super) fn open(roots: &[PathBuf], path: &Path) -> Outcome<Source> {
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
    // What lies elsewhere by its words is not looked at.
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(refused());
    }
    let ways: Vec<_> = roots
        .iter()
        .filter_map(|root| Some((root, path.strip_prefix(root).ok()?)))
        .collect();
    let mut missing = None;
    for (root, below) in ways {
        match beneath(root, below) {
            Ok(file) => return Ok(Source::opened(file, path)),
            Err(Errno::XDEV | Errno::LOOP) => {}
            Err(errno) => missing = Some(errno),
        }
    }
    Err(missing.map_or_else(refused, |errno| {
        let why = std::io::Error::from(errno);
        let what = format!("the source {} cannot be read: {why}", path.display());
        Failure::new("Source", what)
    }))
}

fn beneath(root: &Path, below: &Path) -> rustix::io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let below = match below.as_os_str().is_empty() {
        true => Path::new("."),
        false => below,
    };
    // A pipe in place of an archive must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&root, below, flags, Mode::empty(), resolve).map(File::from)
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
            let found = open(&roots, &root.join(inside)).unwrap();
            assert!(found.file().metadata().unwrap().is_dir(), "{inside}");
        }
        for wrong in [
            "out",
            "out/secret",
            "data/relative",
            "data/../../outside",
            "../outside",
        ] {
            assert_eq!(
                open(&roots, &root.join(wrong)).unwrap_err().reason,
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
                open(&roots, elsewhere).unwrap_err().reason,
                REFUSED,
                "{}",
                elsewhere.display()
            );
        }
        // A name that only begins like a root is not below it.
        std::fs::create_dir_all(place.path().join("rooted")).unwrap();
        assert_eq!(
            open(&roots, &place.path().join("rooted"))
                .unwrap_err()
                .reason,
            REFUSED
        );
        assert_eq!(open(&[], &root).unwrap_err().reason, REFUSED);
        assert_eq!(
            open(&roots, &root.join("absent")).unwrap_err().reason,
            "Source"
        );
    }
}
