//! A place where something is mounted, or is to be.
//!
//! Whoever can rename a directory on the way to it can swap it for a symbolic link at any moment. So a path is walked once
//! for each call, by openat2(2) that follows no link and leaves the root by no way, and everything is done with the
//! descriptors that this gives: what is mounted was made out of sight and is moved onto the descriptor of the directory,
//! what is unmounted is the mount that the descriptor is on.
//!
//! A path may hang (a dead mount, a network file system), so each call has a deadline. One that is given up goes on until
//! the path answers; what the caller gave it to keep ([`Place::keeping`]) is kept until then, and what it has made by then
//! is undone.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::attached::{Attached, Detach, by_number};
use super::deadline::{Kept, with_deadline};
use super::mount::{MountError, TYPE};
use super::mountinfo::{MountLine, mount_of, mounted, mounted_as, mounted_at};

/// Mode of a directory that is made for a mount of `play`; the process's mask applies.
const PLAIN: u32 = 0o777;
/// Mode of a directory that is made for a pod's volume.
const PRIVATE: u32 = 0o750;

/// Mounts on top of each other that are taken from one place, at most.
const LAYERS: u32 = 256;

/// A place. Nothing is touched until it is asked to.
#[derive(Debug, Clone)]
pub struct Place {
    root: Arc<OwnedFd>,
    parent: PathBuf,
    name: OsString,
    shown: PathBuf,
    _kept: Option<Kept>,
}

/// A directory that can be mounted on.
#[derive(Debug)]
pub struct Ready {
    directory: OwnedFd,
    /// It was made for this.
    pub made: bool,
}

type System<T> = std::result::Result<T, Errno>;

fn unchanged(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Place {
    /// A place by its whole path, in which no component is a link.
    ///
    /// # Errors
    /// [`MountError::BadPath`]: relative, with `..`, not UTF-8, or the root.
    pub fn at(path: &Path) -> Result<Place, MountError> {
        let bad = |why| MountError::BadPath {
            path: path.to_owned(),
            why,
        };
        if !path.is_absolute() {
            return Err(bad("it is not absolute"));
        }
        if path.to_str().is_none() {
            return Err(bad("it is not UTF-8"));
        }
        if path
            .components()
            .any(|part| matches!(part, Component::ParentDir))
        {
            return Err(bad("it contains '..'"));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            rustix::fs::open("/", flags, Mode::empty()).map_err(|error| MountError::System {
                what: "open the root for",
                path: path.to_owned(),
                error: error.into(),
            })?;
        let below: PathBuf = path.components().skip(1).collect();
        Place::below(Arc::new(root), &below, path.to_owned()).ok_or_else(|| bad("it is the root"))
    }

    /// The place `below` a directory, none of whose components is a link; mountinfo has it as `shown`. `None` for the
    /// directory itself.
    pub fn below(root: Arc<OwnedFd>, below: &Path, shown: PathBuf) -> Option<Place> {
        Some(Place {
            root,
            parent: below.parent()?.to_owned(),
            name: below.file_name()?.to_owned(),
            shown,
            _kept: None,
        })
    }

    /// The same place, whose calls keep `what` until they have returned, also those that were given up.
    #[must_use]
    pub fn keeping(self, what: Kept) -> Place {
        Place {
            _kept: Some(what),
            ..self
        }
    }

    /// Its path as mountinfo has it.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    /// What is mounted there. Reads mountinfo, touches no path.
    ///
    /// # Errors
    /// `/proc` is not there.
    pub fn mounted(&self) -> Result<Option<MountLine>, MountError> {
        mounted_at(&self.shown).map_err(|error| self.system("read the mounts at", error))
    }

    /// Waits until the way to the place answers, or says that it does not.
    ///
    /// # Errors
    /// [`MountError::Deadline`], [`MountError::Link`].
    pub fn reach(&self) -> Result<(), MountError> {
        self.within(
            |place| match place.open_parent().and_then(|parent| place.open(&parent)) {
                Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
                Err(error) => Err(place.refused("look at", error)),
            },
        )
    }

    /// Makes the directory if it is missing, for a pod's volume.
    ///
    /// # Errors
    /// Its parent is missing, a part is a link or no directory, or something is mounted there.
    pub fn make(&self) -> Result<Ready, MountError> {
        self.within(|place| place.open_or_make(PRIVATE))
    }

    /// Checks that the directory can be mounted on, and makes it when only it, not its parent, is missing.
    ///
    /// # Errors
    /// Why not; nothing is touched then.
    pub fn prepare(&self) -> Result<Ready, MountError> {
        let lines = mounted().map_err(|error| self.system("read the mounts around", error))?;
        if let Some(line) = lines.iter().rfind(|line| line.point == self.shown) {
            return Err(self.in_use(line.kind.clone()));
        }
        if let Some(line) = lines
            .iter()
            .rfind(|line| line.kind == TYPE && self.shown.starts_with(&line.point))
        {
            return Err(MountError::Nested {
                path: self.shown.clone(),
                outer: line.point.clone(),
            });
        }
        self.within(|place| {
            let ready = place.open_or_make(PLAIN)?;
            if place.empty(&ready.directory)? {
                return Ok(ready);
            }
            Err(MountError::NotEmpty(place.shown.clone()))
        })
    }

    /// Attaches a mount that is nowhere yet.
    ///
    /// # Errors
    /// [`MountError::Moved`] when the directory is not at the path any more; nothing is mounted then.
    pub fn attach(&self, ready: Ready, tree: OwnedFd) -> Result<Attached, MountError> {
        self.within(move |place| {
            let what = "mount a volume at";
            let flags =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            rustix::mount::move_mount(&tree, "", &ready.directory, "", flags)
                .map_err(|error| place.refused(what, error))?;
            let number = mount_of(&tree);
            let undo = Detach(&tree);
            let line = mounted_as(number.map_err(|error| place.system(what, error))?)
                .map_err(|error| place.system(what, error))?;
            let line = line.ok_or_else(|| MountError::Moved {
                path: place.shown.clone(),
                now: None,
            })?;
            if line.point != place.shown {
                return Err(MountError::Moved {
                    path: place.shown.clone(),
                    now: Some(line.point),
                });
            }
            std::mem::forget(undo);
            Ok(Attached::new(tree, line))
        })
    }

    /// A copy of the mount that is there, attached nowhere. `is` says whether it is the one that is meant.
    ///
    /// # Errors
    /// [`MountError::Foreign`] for another mount, [`MountError::NotMounted`] for none.
    pub fn copy(
        &self,
        is: impl Fn(&MountLine) -> bool + Send + 'static,
    ) -> Result<OwnedFd, MountError> {
        self.within(move |place| {
            let what = "show the volume mounted at";
            let refused = |error| place.refused(what, error);
            let parent = place.open_parent().map_err(refused)?;
            let (top, line) = place
                .top(&parent)
                .map_err(refused)?
                .ok_or_else(|| MountError::NotMounted(place.shown.clone()))?;
            if !is(&line) {
                return Err(place.foreign(line));
            }
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            rustix::mount::open_tree(&top, "", flags).map_err(refused)
        })
    }

    /// Detaches what is mounted there, as far as `is` says that it is to go: it goes with its last user. Nothing there is
    /// fine.
    ///
    /// # Errors
    /// [`MountError::Foreign`] for a mount that stays.
    pub fn detach(
        &self,
        is: impl Fn(&MountLine) -> bool + Send + 'static,
    ) -> Result<(), MountError> {
        self.within(move |place| place.detach_all(&is).map(drop))
    }

    /// As [`Place::detach`], and removes the directory.
    ///
    /// # Errors
    /// As [`Place::detach`]; the directory is not empty.
    pub fn clear(
        &self,
        is: impl Fn(&MountLine) -> bool + Send + 'static,
    ) -> Result<(), MountError> {
        self.within(move |place| match place.detach_all(&is)? {
            Some(parent) => place.remove_from(&parent),
            None => Ok(()),
        })
    }

    /// Removes the directory, if it is there.
    ///
    /// # Errors
    /// It is not empty, or something is mounted there.
    pub fn remove(&self) -> Result<(), MountError> {
        self.within(|place| match place.open_parent() {
            Ok(parent) => place.remove_from(&parent),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(place.refused("remove", error)),
        })
    }

    /// Unmounts the mount on top there, if `is` says that it is the one. `lazy` detaches a mount that is in use, so that it
    /// goes when its last user does; `force` aborts the connection first, so that processes which wait on it get an error.
    ///
    /// Has no deadline. Without `force` it waits for dirty pages to be served: never called in the process that serves
    /// the mount.
    ///
    /// # Errors
    /// In use (EBUSY), or not mounted (EINVAL).
    pub fn unmount(
        &self,
        is: impl Fn(&MountLine) -> bool,
        lazy: bool,
        force: bool,
    ) -> io::Result<()> {
        let parent = self.open_parent()?;
        let Some((top, _)) = self.top(&parent)?.filter(|(_, line)| is(line)) else {
            return Err(Errno::INVAL.into());
        };
        let mut flags = UnmountFlags::empty();
        if force {
            flags |= UnmountFlags::FORCE;
        }
        if lazy {
            return Ok(rustix::mount::unmount(
                by_number(&top),
                flags | UnmountFlags::DETACH,
            )?);
        }
        // An open descriptor is a use of the mount. That of the parent is none, and a name that something is mounted on
        // can be renamed by nobody.
        drop(top);
        let name = by_number(&parent).join(&self.name);
        Ok(rustix::mount::unmount(
            name,
            flags | UnmountFlags::NOFOLLOW,
        )?)
    }

    /// Opens the directory, or the root of what is mounted there, for reading. Has no deadline.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open_for_reading(&self) -> io::Result<OwnedFd> {
        let parent = self.open_parent()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(
            &parent,
            &self.name,
            flags,
            Mode::empty(),
            guarded(),
        )?)
    }

    fn open_parent(&self) -> System<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.parent.as_os_str().is_empty() {
            return rustix::fs::openat(&*self.root, ".", flags, Mode::empty());
        }
        rustix::fs::openat2(&*self.root, &self.parent, flags, Mode::empty(), guarded())
    }

    /// The root of what is mounted there, or the directory.
    fn open(&self, parent: &OwnedFd) -> System<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(parent, &self.name, flags, Mode::empty(), guarded())
    }

    /// The mount on top there. One that is detached by somebody else meanwhile is none.
    fn top(&self, parent: &OwnedFd) -> System<Option<(OwnedFd, MountLine)>> {
        let around = mount_of(parent).map_err(unchanged)?;
        let top = self.open(parent)?;
        let number = mount_of(&top).map_err(unchanged)?;
        if number == around {
            return Ok(None);
        }
        let line = mounted_as(number).map_err(unchanged)?;
        Ok(line.map(|line| (top, line)))
    }

    fn open_or_make(&self, mode: u32) -> Result<Ready, MountError> {
        let parent = match self.open_parent() {
            Err(Errno::NOENT) => return Err(MountError::NoParent(self.shown.clone())),
            other => other.map_err(|error| self.refused("look at", error))?,
        };
        let made = match rustix::fs::mkdirat(&parent, &self.name, Mode::from_raw_mode(mode)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(self.refused("make", error)),
        };
        if let Some((_, line)) = self
            .top(&parent)
            .map_err(|error| self.refused("look at", error))?
        {
            return Err(self.in_use(line.kind));
        }
        let directory = self
            .open(&parent)
            .map_err(|error| self.refused("look at", error))?;
        Ok(Ready { directory, made })
    }

    fn empty(&self, directory: &OwnedFd) -> Result<bool, MountError> {
        let refused = |error| self.refused("list", error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::openat(directory, ".", flags, Mode::empty()).map_err(refused)?;
        for entry in rustix::fs::Dir::new(open).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            if entry.file_name() != c"." && entry.file_name() != c".." {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the parent of the directory, if that is still there.
    fn detach_all(&self, is: &dyn Fn(&MountLine) -> bool) -> Result<Option<OwnedFd>, MountError> {
        let refused = |error| self.refused("unmount", error);
        let parent = match self.open_parent() {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(refused)?,
        };
        for _ in 0..LAYERS {
            let (top, line) = match self.top(&parent) {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(Some(parent)),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(refused(error)),
            };
            if !is(&line) {
                return Err(self.foreign(line));
            }
            match rustix::mount::unmount(by_number(&top), UnmountFlags::DETACH) {
                // EINVAL: somebody else was faster.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(refused(error)),
            }
        }
        Err(refused(Errno::BUSY))
    }

    fn remove_from(&self, parent: &OwnedFd) -> Result<(), MountError> {
        match rustix::fs::unlinkat(parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.refused("remove", error)),
        }
    }

    fn within<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Place) -> Result<T, MountError> + Send + 'static,
    ) -> Result<T, MountError> {
        let own = self.clone();
        with_deadline(&self.shown, move || call(&own))?
    }

    fn system(&self, what: &'static str, error: io::Error) -> MountError {
        MountError::System {
            what,
            path: self.shown.clone(),
            error,
        }
    }

    fn refused(&self, what: &'static str, error: Errno) -> MountError {
        match error {
            Errno::LOOP | Errno::XDEV => MountError::Link(self.shown.clone()),
            Errno::NOTDIR => MountError::NotADirectory(self.shown.clone()),
            other => self.system(what, other.into()),
        }
    }

    fn in_use(&self, kind: String) -> MountError {
        MountError::Mounted {
            path: self.shown.clone(),
            kind,
        }
    }

    fn foreign(&self, line: MountLine) -> MountError {
        MountError::Foreign {
            path: self.shown.clone(),
            kind: line.kind,
            source_name: line.source,
        }
    }
}

fn guarded() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn prepare(path: &Path) -> Result<bool, MountError> {
        Place::at(path)?.prepare().map(|ready| ready.made)
    }

    #[test]
    fn a_mount_point_with_content_or_without_parent_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        fs::write(folder.join("file"), "x").unwrap();
        assert!(matches!(prepare(&folder), Err(MountError::NotEmpty(_))));
        assert!(matches!(
            prepare(&folder.join("file")),
            Err(MountError::NotADirectory(_))
        ));
        assert!(matches!(
            prepare(&folder.join("no/such")),
            Err(MountError::NoParent(_))
        ));
        assert!(matches!(
            prepare(Path::new("/proc")),
            Err(MountError::Mounted { .. })
        ));
        for wrong in ["relative", "/", "/a/../b"] {
            assert!(
                matches!(prepare(Path::new(wrong)), Err(MountError::BadPath { .. })),
                "{wrong}"
            );
        }
        std::os::unix::fs::symlink(&folder, folder.join("link")).unwrap();
        for link in ["link", "link/new"] {
            assert!(
                matches!(prepare(&folder.join(link)), Err(MountError::Link(_))),
                "{link}"
            );
        }
        assert!(prepare(&folder.join("new")).unwrap());
        assert!(!prepare(&folder.join("new")).unwrap());
        Place::at(&folder.join("new")).unwrap().remove().unwrap();
        assert!(!folder.join("new").exists());
    }

    #[test]
    fn what_is_mounted_by_somebody_else_stays() {
        let proc = Place::at(Path::new("/proc")).unwrap();
        for refused in [proc.detach(|_| false), proc.clear(|line| line.kind == TYPE)] {
            let error = refused.unwrap_err();
            assert!(matches!(error, MountError::Foreign { .. }), "{error}");
        }
        assert!(matches!(
            proc.copy(|_| false),
            Err(MountError::Foreign { .. })
        ));
        let error = proc.unmount(|_| false, true, false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn what_a_call_keeps_is_free_when_it_has_returned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("new");
        let kept: Kept = Arc::new(());
        let place = Place::at(&path).unwrap().keeping(Arc::clone(&kept));
        place.make().unwrap();
        assert_eq!(Arc::strong_count(&kept), 2);
        drop(place);
        assert_eq!(Arc::strong_count(&kept), 1);
    }
}
