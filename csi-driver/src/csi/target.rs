//! The paths that the kubelet passes: where volumes are published.
//!
//! A path is taken apart once, below the kubelet's directory, and never walked again by name: each step is openat2(2)
//! that follows no symbolic link and leaves the directory by no way, and what is mounted is moved onto the descriptor
//! that this gave. So whoever swaps a component for a link meanwhile gets an error, and nothing outside is touched.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::error::{Code, CsiError, Result};
use crate::fuse::mount::{self, MountLine, with_deadline};

/// The kubelet's directory.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    root: Arc<OwnedFd>,
    /// As it was given, and with its links resolved: the kubelet may pass either.
    spellings: [PathBuf; 2],
}

/// A place below the kubelet's directory.
#[derive(Debug, Clone)]
pub(super) struct Target {
    root: Arc<OwnedFd>,
    parent: PathBuf,
    name: OsString,
    /// As mountinfo shows it.
    shown: PathBuf,
}

fn system(what: &str, path: &Path, error: Errno) -> CsiError {
    let code = match error {
        Errno::LOOP | Errno::XDEV | Errno::NOTDIR => Code::InvalidArgument,
        Errno::NOENT => Code::NotFound,
        Errno::NOSPC => Code::ResourceExhausted,
        Errno::BUSY => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    let why = match error {
        Errno::LOOP | Errno::XDEV => "a part of it is a symbolic link or leads outside".to_owned(),
        other => io::Error::from(other).to_string(),
    };
    CsiError::new(code, format!("cannot {what} {}: {why}", path.display()))
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
    pub fn parse(&self, path: &str) -> Result<Target> {
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
        let (Some(name), Some(parent)) = (below.file_name(), below.parent()) else {
            return refuse("is the kubelet's directory itself");
        };
        Ok(Target {
            root: Arc::clone(&self.root),
            parent: parent.to_owned(),
            name: name.to_owned(),
            shown: self.spellings[1].join(below),
        })
    }
}

impl Target {
    /// The path, links of the kubelet's directory resolved.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    /// What is mounted there. Reads mountinfo, touches no path.
    pub fn mounted(&self) -> Result<Option<MountLine>> {
        mount::mounted_at(&self.shown).map_err(|error| {
            CsiError::new(Code::Internal, format!("cannot read the mounts: {error}"))
        })
    }

    fn open_parent(&self) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.parent.as_os_str().is_empty() {
            return rustix::fs::openat(&*self.root, ".", flags, Mode::empty());
        }
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&*self.root, &self.parent, flags, Mode::empty(), resolve)
    }

    /// Makes the directory if it is missing.
    ///
    /// # Errors
    /// `NotFound`: the parent directory is missing. `InvalidArgument`: a link, or no directory.
    pub fn make(&self) -> Result<()> {
        self.within("make", |target| {
            let parent = target.open_parent()?;
            match rustix::fs::mkdirat(&parent, &target.name, Mode::from_raw_mode(0o750)) {
                Ok(()) | Err(Errno::EXIST) => target.open_in(&parent).map(drop),
                Err(error) => Err(error),
            }
        })
    }

    fn open_in(&self, parent: &OwnedFd) -> std::result::Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(parent, &self.name, flags, Mode::empty(), resolve)
    }

    /// Makes the directory and shows there what is mounted at `source`.
    ///
    /// # Errors
    /// As [`Target::make`]; `Internal` when the system refuses.
    pub fn bind(&self, source: &Path, read_only: bool) -> Result<()> {
        self.make()?;
        let source = source.to_owned();
        self.within("publish the volume at", move |target| {
            let tree = rustix::mount::open_tree(
                rustix::fs::CWD,
                &source,
                OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_SYMLINK_NOFOLLOW,
            )?;
            if read_only {
                make_read_only(&tree)?;
            }
            let parent = target.open_parent()?;
            let place = target.open_in(&parent)?;
            rustix::mount::move_mount(
                &tree,
                "",
                &place,
                "",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )
        })
    }

    /// Unmounts what is mounted there, all of it, and removes the directory. Nothing there is fine.
    ///
    /// # Errors
    /// `Internal` when the system refuses, `DeadlineExceeded`.
    pub fn clear(&self) -> Result<()> {
        self.within("unpublish", |target| {
            let parent = match target.open_parent() {
                Err(Errno::NOENT) => return Ok(()),
                other => other?,
            };
            // The parent by its descriptor, the last part followed by nothing: no name is walked again.
            let place = PathBuf::from(format!("/proc/self/fd/{}", parent.as_fd().as_raw_fd()))
                .join(&target.name);
            loop {
                // Detached: it may be in use by a process that is just being ended, and the files stay with the staging.
                match rustix::mount::unmount(&place, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                {
                    Ok(()) => {}
                    Err(Errno::INVAL | Errno::NOENT) => break,
                    Err(error) => return Err(error),
                }
            }
            match rustix::fs::unlinkat(&parent, &target.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    /// Runs a call that touches paths with a deadline.
    fn within<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&Target) -> std::result::Result<T, Errno> + Send + 'static,
    ) -> Result<T> {
        let own = self.clone();
        with_deadline(&self.shown, move || call(&own))?
            .map_err(|error| system(what, &self.shown, error))
    }
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
    use super::*;

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
        target.clear().unwrap();
        assert!(!inside.join("mount").exists());
        target.clear().unwrap();

        std::os::unix::fs::symlink(outside.path(), inside.join("mount")).unwrap();
        assert_eq!(target.make().unwrap_err().code, Code::InvalidArgument);
        std::fs::remove_file(inside.join("mount")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.join("link")).unwrap();
        let through = targets
            .parse(inside.join("link/mount").to_str().unwrap())
            .unwrap();
        assert_eq!(through.make().unwrap_err().code, Code::InvalidArgument);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
