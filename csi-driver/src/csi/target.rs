//! The paths that the kubelet passes: where volumes are staged and published.
//!
//! A path is taken apart once, below the kubelet's directory, and is a [`Place`] from then on: no link on it is followed, so
//! whoever swaps a component for one meanwhile gets an error, and nothing outside is touched.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::error::{CsiError, Result};
use crate::fuse::mount::{MountError, MountLine};
use crate::fuse::place::Place;

/// The kubelet's directory.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    root: Arc<OwnedFd>,
    /// As it was given, and with its links resolved: the kubelet may pass either.
    spellings: [PathBuf; 2],
}

impl Targets {
    /// The kubelet's directory, which must be there.
    pub fn open(directory: &Path) -> Result<Targets> {
        let bad = |error: io::Error| {
            CsiError::invalid(format!(
                "the kubelet's directory {} cannot be used: {error}",
                directory.display()
            ))
        };
        let resolved = directory.canonicalize().map_err(bad)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&resolved, flags, Mode::empty()).map_err(|error| bad(error.into()))?;
        Ok(Targets {
            root: Arc::new(root),
            spellings: [directory.to_owned(), resolved],
        })
    }

    /// Takes a path apart. Nothing is touched yet.
    ///
    /// # Errors
    /// `InvalidArgument`: empty, relative, with `.` or `..`, or not below the kubelet's directory.
    pub fn parse(&self, path: &str) -> Result<Place> {
        let refuse = |why: &str| Err(CsiError::invalid(format!("the path {path:?} {why}")));
        if path.is_empty() {
            return Err(CsiError::invalid("the path is missing"));
        }
        if path.len() >= libc::PATH_MAX as usize || path.contains('\0') {
            return refuse("is no path");
        }
        let given = Path::new(path);
        if !given.is_absolute() {
            return refuse("is not absolute");
        }
        let below = self
            .spellings
            .iter()
            .find_map(|root| given.strip_prefix(root).ok());
        let Some(below) = below else {
            return refuse(&format!("is not below {}", self.spellings[0].display()));
        };
        // `Path` drops `.` silently, so the text is looked at for `..` only.
        if below
            .components()
            .any(|part| !matches!(part, Component::Normal(_)))
        {
            return refuse("has a part '..'");
        }
        let shown = self.spellings[1].join(below);
        let Some(place) = Place::below(Arc::clone(&self.root), below, shown) else {
            return refuse("is the kubelet's directory itself");
        };
        Ok(place)
    }
}

/// Shows the mount at `staging` at `target`, too, whose directory is made if missing. `is` says whether the mount that is
/// found there is the volume.
///
/// # Errors
/// `FailedPrecondition`: another mount, or none, is at `staging`, or one is at `target`; as [`Place::make`] otherwise.
pub(super) fn bind(
    staging: &Place,
    target: &Place,
    is: impl Fn(&MountLine) -> bool + Send + 'static,
    read_only: bool,
) -> Result<()> {
    let tree = staging.copy(is)?;
    if read_only {
        make_read_only(&tree).map_err(|error| MountError::System {
            what: "make a mount read-only for",
            path: target.path().to_owned(),
            error: error.into(),
        })?;
    }
    target.attach(target.make()?, tree)?.keep();
    Ok(())
}

/// Makes a mount that is nowhere yet read-only, without touching the one that it is a copy of.
fn make_read_only(tree: &OwnedFd) -> std::result::Result<(), Errno> {
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const READ_ONLY: u64 = 1;
    let attributes = MountAttributes {
        set: READ_ONLY,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: mount_setattr(2) reads a NUL-terminated path and as many bytes of the attributes as it is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        let error = io::Error::last_os_error();
        Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Code;
    use super::*;

    fn code<T>(outcome: std::result::Result<T, MountError>) -> Option<Code> {
        outcome.err().map(|error| CsiError::from(error).code)
    }

    #[test]
    fn a_path_outside_is_refused_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let targets = Targets::open(folder.path()).unwrap();
        let inside = folder.path().join("pods/a");
        std::fs::create_dir_all(&inside).unwrap();
        for hostile in [
            "",
            "relative",
            "/",
            "/etc/x",
            folder.path().to_str().unwrap(),
            &format!("{}/../x", folder.path().display()),
            &format!("{}/a/../../x", folder.path().display()),
            &format!("{}x/a", folder.path().display()),
            &format!("{}/a\0b", folder.path().display()),
        ] {
            let error = targets.parse(hostile).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument, "{hostile:?}");
        }
        let target = targets
            .parse(inside.join("mount").to_str().unwrap())
            .unwrap();
        target.make().unwrap();
        assert!(inside.join("mount").is_dir());
        target.clear(|_| false).unwrap();
        assert!(!inside.join("mount").exists());
        target.clear(|_| false).unwrap();

        std::os::unix::fs::symlink(outside.path(), inside.join("mount")).unwrap();
        assert_eq!(code(target.make()), Some(Code::InvalidArgument));
        assert_eq!(code(target.clear(|_| true)), Some(Code::InvalidArgument));
        std::fs::remove_file(inside.join("mount")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.join("link")).unwrap();
        let through = targets
            .parse(inside.join("link/mount").to_str().unwrap())
            .unwrap();
        assert_eq!(code(through.make()), Some(Code::InvalidArgument));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
