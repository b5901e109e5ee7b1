//! The object interface: a timeline, or a past state, seen as keys. It shows the same data as the
//! files: an object is a regular file, and its key is the file's path without a leading slash.
//!
//! # What is an object
//! - A regular file whose path is UTF-8 and has at most 1,024 bytes. Other files are not listed; symbolic
//!   links are not followed, and like special files they are no objects.
//! - A directory that was put as a key with a slash at its end: an object without bytes. Other directories
//!   are none: they show as common prefixes of what is below them, and not at all while that is nothing.
//!
//! Keys that cannot be a path are refused with `InvalidArgument`: empty ones, with a slash at the start,
//! with two slashes side by side, with `.` or `..` between slashes, with a zero byte, with a part of more
//! than 255 bytes. `a` and `a/b` cannot both be objects, since `a` would be a file and a directory.
//!
//! # Directories
//! A put makes the directories that its key needs, and a delete removes those again that it leaves empty
//! and that were made in this way: so a prefix goes with its last key, as in S3, while a directory that
//! somebody made as a file stays. They carry the extended attribute `user.anabranch.implied`.
//!
//! # Replacing
//! A put makes a new file and gives it the old one's name, in one commit: nobody ever sees a mixture, a
//! process that has the old file open goes on reading it, and other hard links to it keep the old bytes.
//! The mode (without set-id bits) and the owner stay unless they are given; a new object is 0644 and
//! belongs to the owner of its directory. Of two concurrent puts the one that commits last stays.
//!
//! Metadata stands in extended attributes: `user.mime_type` is the content type, each
//! `user.anabranch.meta.<name>` an entry of the user's metadata.
//!
//! # Where the bytes go
//! Objects below 256 KiB go into the log, in the commit that names them. Larger ones are written to a file
//! of their own while they come in, and are synced before the one commit that names them, so until then
//! nothing of a put is visible or needs undoing. What a process that dies leaves of it is a file that
//! nothing refers to. Only an object of more than 8 GiB prepares an unlinked inode first, because one
//! commit could not hold its records; if the process dies within that, the inode is removed like others
//! that were unlinked, at the next mount or unmount of the timeline.
//!
//! A file that a put or delete unlinks is removed at once if nobody observes the timeline. Otherwise it
//! stays for those who have it open, until the mount lets it go. Readers of this interface have what they
//! need from the start and do not care.
//!
//! # Versions
//! A version of an object is named by the epoch at which it began. The history holds the state of every
//! epoch that was closed, as far back as retention goes; with retention, this interface closes the open
//! epoch before it would change the same key in it a second time, so that no put is lost from the
//! history. The version of a file that is written through the file interface is final when its epoch is
//! closed. Changes of a mode or a time alone make no version. Epochs mean something within one timeline
//! only, so what a fork inherits is as old as the fork.

mod delete;
mod get;
mod history;
mod key;
mod list;
mod put;
mod state;
mod types;
mod versions;
mod walk;

use std::sync::Arc;

use crate::error::Result;
use crate::files::Volume;
use crate::ids::Epoch;
use crate::index::lineage::Lineage;
use crate::leases::{Lease, Need};

pub use get::ObjectReader;
#[cfg(test)]
pub(crate) use key::Key;
pub use key::{MAX_KEY, MAX_KEY_PART};
#[cfg(test)]
pub(crate) use list::Bounds;
pub use put::{MAX_METADATA, ObjectWriter, SEALED_BYTES};
pub use types::*;

use state::State;

/// A volume seen as keys. Costs nothing to make or copy.
#[derive(Clone, Copy)]
pub struct Objects<'a> {
    volume: &'a Volume,
}

impl Volume {
    /// This volume seen as keys.
    pub fn objects(&self) -> Objects<'_> {
        Objects { volume: self }
    }
}

impl<'a> Objects<'a> {
    /// The volume that it shows.
    pub fn volume(&self) -> &'a Volume {
        self.volume
    }

    /// Calls `read` with the state that the volume shows; a timeline does not change meanwhile.
    fn with_state<R>(&self, read: impl FnOnce(State<'_>) -> Result<R>) -> Result<R> {
        let view = self.volume.view()?;
        read(State {
            index: view.index,
            hops: &view.hops,
        })
    }

    /// Keeps what the volume shows now, however long a reader takes. Taken before anything is read. (A past
    /// state is kept by its volume.)
    fn lease_now(&self) -> Lease {
        let inner = self.volume.inner();
        let open = *inner.shared_epoch();
        let need = Need::Since(self.volume.timeline(), open);
        inner.leases.take(need)
    }

    /// Keeps all of the timeline's history that is there.
    fn lease_history(&self) -> Lease {
        let need = Need::Since(self.volume.timeline(), Epoch(1));
        self.volume.inner().leases.take(need)
    }

    /// The hops of the state at hand, fixed: of a timeline, the epoch is closed for it.
    fn fixed(&self) -> Result<Lineage> {
        let hops = Arc::clone(&self.volume.view()?.hops);
        if hops.first().is_some_and(|h| h.hi != Epoch::MAX) {
            return Ok(hops);
        }
        let engine = self.volume.engine();
        let newest = engine.tick()?;
        let catalog = engine.inner.catalog.read();
        engine
            .inner
            .lineage(&catalog, self.volume.timeline(), newest)
    }
}

#[cfg(test)]
mod tests;
