//! What an import reads: something that is open already, so that nobody can put another in its place, and walked without
//! following links.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, IoContext, Result};

/// A directory or an archive to import.
#[derive(Debug)]
pub struct Source {
    file: File,
    path: PathBuf,
}

impl Source {
    /// What is at a path; links on the way are followed.
    ///
    /// # Errors
    /// That of opening it, with the path.
    pub fn open(path: &Path) -> Result<Source> {
        let file = File::open(path).context("open", path)?;
        Ok(Source::opened(file, path))
    }

    /// What somebody has opened; `path` is what messages call it.
    pub fn opened(file: File, path: &Path) -> Source {
        Source {
            file,
            path: path.to_owned(),
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What messages call it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it really is.
    pub(super) fn place(&self) -> Result<PathBuf> {
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        std::fs::read_link(own).context("find", &self.path)
    }
}

/// An open directory below a source.
pub(super) struct Folder {
    fd: OwnedFd,
    /// From the source; empty for the source itself.
    below: PathBuf,
    path: PathBuf,
}

impl Folder {
    /// A directory by its way from the source, which leads through no link.
    pub fn open(source: &Source, below: &Path) -> Result<Folder> {
        let path = match below.as_os_str().is_empty() {
            true => source.path.clone(),
            false => source.path.join(below),
        };
        let way = match below.as_os_str().is_empty() {
            true => Path::new("."),
            false => below,
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let fd = rustix::fs::openat2(&source.file, way, flags, Mode::empty(), resolve)
            .map_err(|errno| failed("open", &path, errno))?;
        Ok(Folder {
            fd,
            below: below.to_owned(),
            path,
        })
    }

    /// Its names, in no order.
    pub fn names(&self) -> Result<impl Iterator<Item = Result<Vec<u8>>> + use<>> {
        let path = self.path.clone();
        let listing = Dir::read_from(&self.fd).map_err(|errno| failed("list", &path, errno))?;
        Ok(listing.filter_map(move |entry| match entry {
            Ok(entry) => {
                let name = CStr::to_bytes(entry.file_name());
                (name != b"." && name != b"..").then(|| Ok(name.to_vec()))
            }
            Err(errno) => Some(Err(failed("list", &path, errno))),
        }))
    }

    /// What messages call an entry.
    pub fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(name))
    }

    /// The way to an entry from the source.
    pub fn below_of(&self, name: &[u8]) -> PathBuf {
        self.below.join(std::ffi::OsStr::from_bytes(name))
    }

    /// Attributes of an entry, of a link itself; nothing for one that has gone.
    pub fn stat(&self, name: &[u8]) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed("stat", &self.path_of(name), errno)),
        }
    }

    /// Opens a file that was seen as a regular one. Never a link, and never waiting for a pipe's other end.
    pub fn file(&self, name: &[u8]) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|errno| failed("open", &self.path_of(name), errno))
    }

    /// Where a link leads.
    pub fn link(&self, name: &[u8]) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map(|target| target.into_bytes())
            .map_err(|errno| failed("read the link", &self.path_of(name), errno))
    }

    /// A path of an entry for calls that take no descriptor: only its last part is looked up.
    pub fn exactly(&self, name: &[u8]) -> PathBuf {
        let own = PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()));
        own.join(std::ffi::OsStr::from_bytes(name))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) fn failed(what: &'static str, path: &Path, errno: Errno) -> Error {
    Error::io(what, path, &errno.into())
}
