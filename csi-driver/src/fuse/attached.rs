//! A mount that was attached to a place, and how it is detached again.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::mount::UnmountFlags;

use super::mountinfo::MountLine;

/// A mount that was attached. It is detached again when this is dropped, unless it is kept.
#[derive(Debug)]
pub struct Attached {
    tree: Option<OwnedFd>,
    line: MountLine,
}

impl Attached {
    pub(super) fn new(tree: OwnedFd, line: MountLine) -> Attached {
        Attached {
            tree: Some(tree),
            line,
        }
    }

    /// Its line in mountinfo.
    pub fn line(&self) -> &MountLine {
        &self.line
    }

    /// Leaves it where it is.
    pub fn keep(mut self) {
        self.tree = None;
    }

    /// Detaches it and aborts its connection: whoever waits on it gets an error.
    pub fn abort(mut self) {
        if let Some(tree) = self.tree.take() {
            let flags = UnmountFlags::DETACH | UnmountFlags::FORCE;
            let _ = rustix::mount::unmount(by_number(&tree), flags);
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(tree) = &self.tree {
            drop(Detach(tree));
        }
    }
}

/// Detaches a mount when it is dropped.
pub(super) struct Detach<'a>(pub &'a OwnedFd);

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        // It fails when somebody else has detached it.
        let _ = rustix::mount::unmount(by_number(self.0), UnmountFlags::DETACH);
    }
}

/// A path that leads to what the descriptor has open, wherever that is.
pub(super) fn by_number(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
}
